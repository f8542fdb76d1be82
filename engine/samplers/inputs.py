"""Images from NumPy, PyTorch, CuPy or anything else that speaks DLPack, without a copy.

Arrays in host memory are read as NumPy views. Arrays on a device stay there: they are checked
there, and image after image is copied into the sampler's slots on the device. Only methods that
read pixels themselves (`Method.needs_image`) bring an image to the host.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.dlpack import from_dlpack

from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.images import (
    GRID_ERROR,
    AnyArray,
    check_grid,
    check_images,
    check_pixels,
    unit_float,
)
from dualsmooth.engine.models.bundle import CLASSIFIER, Bundle
from dualsmooth.engine.models.network import in_training

Images: TypeAlias = NDArray[np.generic] | torch.Tensor
"""Images, or one image: on the host as an array, on a device as a tensor."""


HOST_KINDS = (1, 3)
"""Device types of DLPack: host memory, and page-locked host memory."""


def read_images(images: AnyArray, shape: tuple[int, int, int], on_grid: bool = False) -> Images:
    """Checked images; the memory is the caller's.

    Parameters
    ----------
    images : array_like, or an array with ``__dlpack__``
        Shape (count, height, width, channels); uint8 in 0 .. 255 or floating point in [0, 1].
    shape : tuple of int
        (height, width, channels) the networks expect.
    on_grid : bool
        Whether values must lie on the 1/255 grid.

    Raises
    ------
    ArgumentError
        If the array cannot be shared, or its shape, its dtype or a value is wrong.
    """
    array = share(images, "images")
    if isinstance(array, np.ndarray):
        array = check_images(array, shape)
    else:
        check_pixels(array, shape)
    if on_grid:
        _check_grid(array)
    return array


def share(array: Any, argument: str) -> Images:
    """A view of an array: NumPy for host memory, a tensor for a device's.

    Raises
    ------
    ArgumentError
        If the array's library or NumPy cannot share it; names the argument.
    """
    if isinstance(array, torch.Tensor):
        array = array.detach()
    if isinstance(array, np.ma.MaskedArray):
        raise ArgumentError(argument, "must be a plain array", "a masked one", "fill it")
    if isinstance(array, np.ndarray) or not hasattr(array, "__dlpack__"):
        try:
            return np.asarray(array)
        except (ValueError, TypeError) as error:
            rule = "must be an array of numbers"
            raise ArgumentError(argument, rule, type(array).__name__, str(error)) from error
    try:
        if array.__dlpack_device__()[0] in HOST_KINDS:
            return np.from_dlpack(array)
        return from_dlpack(array)
    except Exception as error:  # libraries refuse in many ways; what they say is told
        received = f"{type(array).__name__} of {getattr(array, 'dtype', 'unknown dtype')}"
        hint = (str(error) or type(error).__name__).splitlines()[0]
        raise ArgumentError(argument, "must be shareable by DLPack", received, hint) from error


def host_image(image: Images) -> NDArray[np.float32]:
    """One image as float32 in [0, 1], in host memory."""
    found = image_in_place(image)
    return found if isinstance(found, np.ndarray) else np.asarray(found.cpu())


def image_in_place(image: Images) -> NDArray[np.float32] | torch.Tensor:
    """One image as float32 in [0, 1], where it is; equal to `host_image` to the bit."""
    if isinstance(image, np.ndarray):
        return unit_float(image)
    if image.dtype != torch.uint8:
        return image.to(torch.float32)
    # Devices may divide by a constant by multiplying with its reciprocal, which rounds otherwise.
    units = torch.from_numpy(unit_float(np.arange(256, dtype=np.uint8)))
    return units.to(image.device)[image.long()]


def device_steps(image: torch.Tensor) -> torch.Tensor:
    """The steps 0 .. 255 of one image on the grid, uint8, on its device.

    Raises
    ------
    ArgumentError
        If the image is off the grid.
    """
    _check_grid(image[None])
    return torch.round(255.0 * image.double()).to(torch.uint8)


def _check_grid(images: Images) -> None:
    if isinstance(images, np.ndarray):
        check_grid(images)
    elif images.dtype != torch.uint8:
        for number, image in enumerate(images):
            values = 255.0 * image.double()
            if not float((values - values.round()).abs().max()) <= GRID_ERROR:
                check_grid(image[None].double().cpu().numpy(), number)


_HINT = "divide 0 .. 255 pixels by 255, as the classifier was trained"


def as_image(x: torch.Tensor | AnyArray) -> tuple[NDArray[np.float32], tuple[int, ...]]:
    """One input as (height, width, channels) float32, and its shape as the classifier takes it.

    x is a tensor, a NumPy array or anything with ``__dlpack__``. With four axes the first is that
    of a batch of one. Inputs of shape (channels, height, width) become channels-last; any other
    shape becomes one row of pixels with one channel.

    Raises
    ------
    ArgumentError
        If x is no floating point, is empty, holds several inputs, or values float32 cannot hold.
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
    return x.detach()


def _from_numpy(x: NDArray[np.generic]) -> torch.Tensor:
    if x.dtype.kind != "f":
        raise ArgumentError("x", "must be floating point", x.dtype.name, _HINT)
    with np.errstate(over="ignore"):  # infinity is refused
        return torch.from_numpy(np.array(x, np.float32, order="C"))


def bundle_for(
    classifier: Callable[[torch.Tensor], torch.Tensor], shape: tuple[int, ...], classes: int
) -> Bundle:
    """A bundle of a classifier as it is now, over the images `as_image` makes of its inputs.

    Raises
    ------
    ArgumentError
        If the classifier is a module with weights on another device than the CPU, or no network
        that a bundle takes.
    """
    if isinstance(classifier, torch.nn.Module):
        tensors = [*classifier.parameters(), *classifier.buffers()]
        devices = {tensor.device.type for tensor in tensors} - {"cpu", "meta"}
        if devices:
            raise ArgumentError("base_classifier", "must be on the CPU", devices.pop(),
                                "move it with .cpu()")  # fmt: skip
        if in_training(classifier):
            classifier.eval()
    module: torch.nn.Module = _Callable(classifier, shape).eval()
    if isinstance(classifier, torch.nn.Module) and len(shape) == 3:
        module = classifier
    size = (shape[1], shape[2], shape[0]) if len(shape) == 3 else (1, int(np.prod(shape)), 1)
    return Bundle.from_modules({CLASSIFIER: module}, num_classes=classes, input_shape=size)


class _Callable(torch.nn.Module):
    def __init__(
        self, classifier: Callable[[torch.Tensor], torch.Tensor], shape: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.classifier, self.shape = classifier, shape

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x if len(self.shape) == 3 else x.reshape(len(x), *self.shape)
        return self.classifier(rows)
