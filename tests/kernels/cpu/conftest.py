"""The loops of chains built with an emulation of instructions that this processor may lack."""

import ctypes
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from dualsmooth.kernels.cpu import (
    bf16_conv,
    chains,
    direct_conv,
    int8_conv,
    linear,
    noise_votes,
    winograd_conv,
)
from dualsmooth.kernels.cpu.compiled import compiled

HERE = Path(__file__).parent
SOURCES = Path(chains.__file__).parent
Build = Callable[[str, str, str], None]


WIDTHS = {16: "", 8: "_avx2"}
"""Values of a vector, and what stands behind the name of a library with such ones."""


@pytest.fixture(scope="session")
def sixteen(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], ctypes.CDLL]:
    """Builds the loops with vectors of sixteen values for a processor without AVX-512."""
    folder = tmp_path_factory.mktemp("sixteen")

    @cache
    def build(name: str) -> ctypes.CDLL:
        compiler, library = shutil.which("gcc"), folder / f"{name}.so"
        if compiler is None:
            pytest.skip("needs gcc or AVX-512")
        options = ["-O1", "-ffp-contract=off", "-fPIC", "-shared", "-Wno-psabi"]
        files = ["-include", str(HERE / "sixteen.h"), str(SOURCES / f"{name}.c")]
        subprocess.run([compiler, *options, *files, "-o", str(library)], check=True)
        return ctypes.CDLL(str(library))

    return build


@pytest.fixture
def use_width(
    monkeypatch: pytest.MonkeyPatch, sixteen: Callable[[str], ctypes.CDLL]
) -> Iterator[Callable[[int], None]]:
    """Has the loops of one width used; skips where this processor or installation lacks them."""
    libraries = {module: module._library for module in (direct_conv, linear, winograd_conv)}

    def use(width: int) -> None:
        def vectored(name: str) -> tuple[ctypes.CDLL, int]:
            library = compiled(name + WIDTHS[width])
            lanes = library[f"dualsmooth_{name}_lanes"]() if library else 0
            if library is None or (not lanes and width == 8):
                pytest.skip("needs the compiled loops and AVX2")
            return library if lanes else sixteen(name), width

        for module, kept in libraries.items():
            monkeypatch.setattr(module, "vectored", vectored)
            kept.cache_clear()
        vectored("direct_conv")

    yield use
    for kept in libraries.values():
        kept.cache_clear()


@pytest.fixture(params=WIDTHS)
def width(request: pytest.FixtureRequest, use_width: Callable[[int], None]) -> int:
    use_width(request.param)
    return int(request.param)


def forget() -> None:
    """Let the loops be looked for and proved again."""
    chains.library_of.cache_clear()
    bf16_conv.trouble.cache_clear()
    int8_conv.has_tiles.cache_clear()


@pytest.fixture(scope="session")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str, str], ctypes.CDLL]:
    """Builds the loops of a kind, with one text put in place of another that stands there once."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None or not noise_votes.available() or noise_votes.best_version() != "avx512":
        pytest.skip("needs a C compiler and AVX-512")
    built: dict[tuple[str, str, str], ctypes.CDLL] = {}

    def build(kind: str, old: str, new: str) -> ctypes.CDLL:
        if (kind, old, new) not in built:
            folder = tmp_path_factory.mktemp("loops")
            names = ("chains.h", "lanes.h", "tiles.h", f"{kind}_conv.c")
            texts = {name: (SOURCES / name).read_text() for name in names}
            assert not old or sum(text.count(old) for text in texts.values()) == 1, old
            for name, text in texts.items():
                (folder / name).write_text(text.replace(old, new) if old else text)
            options = ["-O1", "-ffp-contract=off", "-fPIC", "-shared", "-I", str(HERE)]
            files = ["-include", "emulated.h", str(folder / f"{kind}_conv.c")]
            library = folder / "loops.so"
            subprocess.run([compiler, *options, *files, "-o", str(library)], check=True)
            built[kind, old, new] = ctypes.CDLL(str(library))
        return built[kind, old, new]

    return build


@pytest.fixture
def emulated(
    emulator: Callable[[str, str, str], ctypes.CDLL], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Build]:
    """Lets the loops of a kind be emulated, with an error in them if one is named."""

    def use(kind: str, old: str = "", new: str = "") -> None:
        library = emulator(kind, old, new)
        monkeypatch.setattr(chains, "compiled", {f"{kind}_conv": library}.get)
        forget()

    use("bf16")
    yield use
    monkeypatch.undo()
    forget()
