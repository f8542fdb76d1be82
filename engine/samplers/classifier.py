"""Any classifier, and one input of any shape, as `dualsmooth.engine.api.Smooth` takes them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.images import AnyArray
from dualsmooth.engine.models.bundle import CLASSIFIER, Bundle
from dualsmooth.engine.models.digest.live_module import check_whole
from dualsmooth.engine.models.digest.module_state import unwrapped
from dualsmooth.engine.models.network import in_training
from dualsmooth.engine.samplers.inputs import share

_HINT = "divide 0 .. 255 pixels by 255, as the classifier was trained"


def as_image(x: torch.Tensor | AnyArray) -> tuple[NDArray[np.float32], tuple[int, ...]]:
    """One input as (height, width, channels) float32, and its shape as the classifier takes it.

    x is a tensor, a NumPy array or anything with ``__dlpack__``. With four axes the first is that
    of a batch of one. Inputs of shape (channels, height, width) become channels-last; any other
    shape becomes one row of pixels with one channel.
    """
    values = _floating(x)
    if values.ndim == 4:
        if len(values) != 1:
            rule = "must be one input, (channels, height, width) or a batch of one"
            raise ArgumentError("x", rule, tuple(values.shape), "pass one row after another")
        values = values[0]
    values = values.to("cpu", torch.float32)
    if values.numel() == 0 or not bool(torch.isfinite(values).all()):
        received = "NaN, infinity or no values at all"
        raise ArgumentError("x", "must hold finite numbers of float32", received)
    shape = tuple(values.shape)
    image = values.permute(1, 2, 0) if values.ndim == 3 else values.reshape(1, -1, 1)
    return np.ascontiguousarray(image.numpy()), shape


def _floating(x: torch.Tensor | AnyArray) -> torch.Tensor:
    if not isinstance(x, torch.Tensor):
        found = share(x, "x")
        # A copy: NumPy has views and types that PyTorch has not.
        x = found if isinstance(found, torch.Tensor) else _from_numpy(found)
    if not x.is_floating_point():
        raise ArgumentError("x", "must be floating point", str(x.dtype), _HINT)
    if x.layout != torch.strided or x.is_meta:
        raise ArgumentError("x", "must be a dense tensor", str(x.layout), "call to_dense()")
    return x.detach().resolve_neg()


def _from_numpy(x: NDArray[np.generic]) -> torch.Tensor:
    if x.dtype.kind != "f":
        raise ArgumentError("x", "must be floating point", x.dtype.name, _HINT)
    with np.errstate(over="ignore"):  # infinity is refused
        return torch.from_numpy(np.array(x, np.float32, order="C"))


def bundle_for(
    classifier: Callable[[torch.Tensor], torch.Tensor],
    shape: tuple[int, ...],
    classes: int,
    name: str = "modules",
    argument: str = "base_classifier",
) -> Bundle:
    """A bundle of a classifier as it is now, over the images `as_image` makes of its inputs.

    Errors call the classifier by the argument it came as.
    """
    if isinstance(classifier, torch.nn.Module):
        classifier = make_ready(classifier, argument)
    is_module = isinstance(classifier, torch.nn.Module) and len(shape) == 3
    module: Any = classifier if is_module else _Callable(classifier, shape).eval()
    size = (shape[1], shape[2], shape[0]) if len(shape) == 3 else (1, int(np.prod(shape)), 1)
    networks = {CLASSIFIER: module}
    return Bundle.from_modules(networks, num_classes=classes, input_shape=size, name=name)


def make_ready(classifier: torch.nn.Module, argument: str) -> torch.nn.Module:
    """A module without what compiles or spreads it, put into evaluation mode.

    One on another device is refused: sessions take copies of it to where they run.
    """
    classifier = unwrapped(classifier)
    check_whole(classifier, argument)
    tensors = [*classifier.parameters(), *classifier.buffers()]
    devices = {tensor.device.type for tensor in tensors} - {"cpu"}
    if devices:
        raise ArgumentError(argument, "must be on the CPU", devices.pop(), "move it with .cpu()")
    if in_training(classifier):
        classifier.eval()
    return classifier


class _Callable(torch.nn.Module):
    def __init__(
        self, classifier: Callable[[torch.Tensor], torch.Tensor], shape: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.classifier, self.shape = classifier, shape

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x if len(self.shape) == 3 else x.reshape(len(x), *self.shape)
        return self.classifier(rows)
