"""Inputs of any shape and classifiers of any kind, as a sampler takes them."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.images import AnyArray
from dualsmooth.engine.runtime.inputs import share


def as_image(x: torch.Tensor | AnyArray) -> tuple[NDArray[np.float32], tuple[int, ...]]:
    """One input as (height, width, channels) float32, and its shape as the classifier takes it.

    x is a tensor, a NumPy array or anything with ``__dlpack__``, read without a copy.
    Inputs of shape (channels, height, width) become channels-last; any other shape becomes one row
    of pixels with one channel.

    Raises
    ------
    ArgumentError
        If x is empty or holds NaN or infinity.
    """
    values = torch.as_tensor(share(x, "x")).to("cpu", torch.float32)
    if values.numel() == 0 or not bool(torch.isfinite(values).all()):
        raise ArgumentError("x", "must hold finite numbers", "NaN, infinity or no values at all")
    shape = tuple(values.shape)
    image = values.permute(1, 2, 0) if values.ndim == 3 else values.reshape(1, -1, 1)
    return np.ascontiguousarray(image.numpy()), shape


def network_for(
    classifier: Callable[[torch.Tensor], torch.Tensor], shape: tuple[int, ...]
) -> torch.nn.Module:
    """A module over sampler batches that calls the classifier with inputs of its own shape.

    Raises
    ------
    ArgumentError
        If the classifier is a module with weights on another device than the CPU.
    """
    if isinstance(classifier, torch.nn.Module):
        devices = {tensor.device.type for tensor in classifier.state_dict().values()}
        if devices - {"cpu"}:
            raise ArgumentError("base_classifier", "must be on the CPU", devices.pop(),
                                "move it with .cpu()")  # fmt: skip
        if len(shape) == 3:
            return classifier
    return _Callable(classifier, shape)


class _Callable(torch.nn.Module):
    def __init__(
        self, classifier: Callable[[torch.Tensor], torch.Tensor], shape: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.classifier, self.shape = classifier, shape

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x if len(self.shape) == 3 else x.reshape(len(x), *self.shape)
        return self.classifier(rows)
