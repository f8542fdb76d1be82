"""Tensors by name from weights files of other libraries, and those libraries, where they are."""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from dualsmooth.engine.errors import ArgumentError, FileError, reason_of
from dualsmooth.engine.limits import LARGEST_WEIGHTS, read_plain
from dualsmooth.engine.machine import install_command
from dualsmooth.engine.models.sources.torch_file import float_weights, load_torch_file

_STATES = ("state_dict_ema", "model_ema", "state_dict", "model")
"""Where a training script keeps the tensors; averaged ones first, as timm itself reads them."""
_WRAPPERS = ("_orig_mod.", "module.", "_orig_mod.")


def needed(name: str, extra: str) -> Any:
    """A module of the library that ``extra:NAME`` stands for."""
    try:
        return import_module(name)
    except Exception as error:  # a torchvision built for another torch raises RuntimeError
        received = reason_of(error)
        package, hint = name.partition(".")[0], install_command(extra)
        if not isinstance(error, ImportError):
            hint = "it is there and fails: often by a torchvision that is not made for this torch"
        raise ArgumentError(
            "bundle", f"needs {package} for {extra}:NAME", received, hint
        ) from error


def named_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Tensors of a ``*.safetensors`` or torch file by their plain names, as float32."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load

        data = read_plain(path, LARGEST_WEIGHTS, links=True)
        try:
            found: Any = load(data)
        except Exception as error:  # the parser's errors have no common base
            received = reason_of(error)
            raise FileError(path, "must be a safetensors file", received) from error
    else:
        found = load_torch_file(path)
    state = next((found[key] for key in _STATES if found.get(key) is not None), found)
    if not isinstance(state, Mapping) or not state:
        raise FileError(path, "must hold tensors by name", type(state).__name__)
    tensors: dict[str, torch.Tensor] = {}
    for key, value in state.items():
        name = _plain(str(key))
        if name in tensors:
            raise FileError(path, "must hold one network", f"{name} twice")
        whole = isinstance(value, torch.Tensor) and value.dtype in (torch.int64, torch.bool)
        tensors[name] = value if whole else float_weights(path, name, value)
    return tensors


def _plain(name: str) -> str:
    for wrapper in _WRAPPERS:
        name = name.removeprefix(wrapper)
    return name
