"""The compiled libraries in this folder, built at installation where there is a C compiler."""

import ctypes
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

from dualsmooth.kernels.errors import KernelArgumentError

SUFFIXES = EXTENSION_SUFFIXES[::-1]
"""Those of any version of Python first: a checkout may hold older ones with a version."""


@cache
def compiled(name: str) -> ctypes.CDLL | None:
    """The library built from ``name.c``, or None where it was not built or not for this machine."""
    paths = (Path(__file__).with_name(f"_{name}{suffix}") for suffix in SUFFIXES)
    path = next((path for path in paths if path.exists()), None)
    try:
        return ctypes.CDLL(str(path)) if path else None
    except OSError:
        return None


@cache
def vectored(name: str) -> tuple[ctypes.CDLL | None, int]:
    """The library of a kind that runs here, with AVX-512 or AVX2, and the values of its vectors."""
    for file in (name, f"{name}_avx2"):
        library = compiled(file)
        lanes = int(library[f"dualsmooth_{name}_lanes"]()) if library else 0
        if lanes:
            return library, lanes
    return None, 0


def required(name: str, library: ctypes.CDLL | None) -> ctypes.CDLL:
    """A library that must be there."""
    if library is None:
        hint = "reinstall with a C compiler"
        raise KernelArgumentError(name, "must have been built", "no library", hint)
    return library
