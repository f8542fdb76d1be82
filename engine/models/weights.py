"""Tensors from a file put into an architecture, each checked by name, shape and type."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from dualsmooth.engine.errors import ArgumentError, FileError, reason_of
from dualsmooth.engine.models.registry import create


def build_network(
    architecture: str,
    kwargs: Mapping[str, object],
    tensors: Mapping[str, NDArray[np.generic]],
    origin: object,
) -> nn.Module:
    """Build an architecture and load its weights: eval mode, float32, on the CPU.

    Those of float32 may be stored as float16; they are widened, exactly.

    Batch norm's ``num_batches_tracked`` is neither needed nor read.
    """
    with torch.random.fork_rng(devices=[]):  # fresh weights are drawn, then replaced
        try:
            with torch.device("meta"):  # a network of any size, without its memory
                expected = create(architecture, kwargs).state_dict()
            _check(expected, tensors, origin)
            module = create(architecture, kwargs)
        except (RuntimeError, MemoryError, OverflowError, TypeError) as error:  # sizes too large
            first = reason_of(error)
            raise FileError(origin, f"must fit an architecture: {architecture}", first) from error
    state = {name: torch.from_numpy(np.array(values)) for name, values in tensors.items()}
    module.load_state_dict(state, strict=False)
    return module.eval()


def check_defaults() -> None:
    """Refuse other defaults than PyTorch's own: networks and noise would be made in them."""
    cpu = torch.device("cpu")
    for name, wanted, said in (("dtype", torch.float32, "torch.float32"), ("device", cpu, "'cpu'")):
        found = getattr(torch, f"get_default_{name}")()
        if found != wanted:
            hint = f"torch.set_default_{name}({said})"
            raise ArgumentError(f"torch's default {name}", f"must be {wanted}", found, hint)
    if torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
        raise ArgumentError("torch.autocast", "must be off", "on", "precision= says the dtype")
    modes: list[object] = _get_current_function_mode_stack()  # type: ignore[no-untyped-call]
    modes += _get_current_dispatch_mode_stack()
    if others := [type(mode).__name__ for mode in modes if type(mode) is not DeviceContext]:
        hint = "votes are cast where it does not reach: call the engine outside of its `with`"
        raise ArgumentError("torch's mode", "must be its own", others[-1], hint)


def _check(
    expected: Mapping[str, torch.Tensor], tensors: Mapping[str, NDArray[np.generic]], origin: object
) -> None:
    names = {name for name in expected if not name.endswith("num_batches_tracked")}
    missing, unknown = sorted(names - tensors.keys()), sorted(tensors.keys() - names)
    if missing:
        raise FileError(origin, "must have every tensor of the network", "missing " + missing[0])
    if unknown:
        raise FileError(origin, "must have no other tensors", unknown[0])
    for name in sorted(names):
        found = tensors[name]
        if found.shape != tuple(expected[name].shape):
            rule = f"tensor {name} must have shape {tuple(expected[name].shape)}"
            raise FileError(origin, rule, found.shape)
        known = [str(expected[name].dtype).removeprefix("torch.")]
        known += ["float16"] * (known == ["float32"])
        if found.dtype.name not in known:
            raise FileError(origin, f"tensor {name} must be {' or '.join(known)}", found.dtype)
        if not np.isfinite(found).all():
            raise FileError(origin, f"tensor {name} must be finite", "NaN or infinity")
