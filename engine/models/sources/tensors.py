"""Tensors by name from weights files of other libraries, and those libraries, where they are."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dualsmooth.engine.errors import ArgumentError, FileError, reason_of
from dualsmooth.engine.limits import LARGEST_WEIGHTS, read_plain
from dualsmooth.engine.machine import install_command
from dualsmooth.engine.models.network import Network, network_from_module
from dualsmooth.engine.models.normalize import Normalize
from dualsmooth.engine.models.registry import create
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


def normalized(network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> nn.Module:
    """A network behind its mean and std in [0, 1] pixel units."""
    return nn.Sequential(OrderedDict(normalize=Normalize(mean, std), network=network))


def rebuilt(
    path: Path, given: nn.Module, shape: Sequence[int], name: str, kwargs: Any, rule: str
) -> Network:
    """The network that an architecture makes of the weights of another, if it has its logits."""
    module, given = create(name, kwargs).eval(), given.eval()
    probe = torch.rand(1, *shape, generator=torch.Generator().manual_seed(0))
    try:
        module.load_state_dict(given.state_dict())
        made = network_from_module(module, name, kwargs)  # before a pass leaves what it keeps
        with torch.inference_mode():
            torch.testing.assert_close(module(probe), given(probe), rtol=0, atol=0)
    except ArgumentError:
        raise
    except Exception as error:  # whatever a network raises at images it does not take
        raise FileError(path, rule, reason_of(error)) from error
    return made
