"""Images from NumPy, PyTorch, CuPy or anything else that speaks DLPack, without a copy.

Arrays in host memory are read as NumPy views. Arrays on a device stay there: they are checked
there, and image after image is copied into the sampler's slots on the device. Only methods that
read pixels themselves (`Method.needs_image`) bring an image to the host.
"""

import sys
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dualsmooth.engine.errors import ArgumentError, reason_of
from dualsmooth.engine.images import (
    GRID_ERROR,
    AnyArray,
    DeferredImages,
    check_grid,
    check_pixels,
    unit_float,
)

if TYPE_CHECKING:
    import torch

Images: TypeAlias = "NDArray[np.generic] | torch.Tensor"
"""Images, or one image: on the host as an array, on a device as a tensor."""

HOST_KINDS = (1, 3)
"""Device types of DLPack: host memory, and page-locked host memory."""


def read_images(images: AnyArray, shape: tuple[int, int, int], on_grid: bool = False) -> Images:
    """Images of shape (count, height, width, channels), checked; the memory is the caller's.

    uint8 in 0 .. 255 or floating point in [0, 1]; with ``on_grid`` on the 1/255 grid.
    """
    array = share(images, "images")
    check_pixels(array, shape)
    if on_grid:
        _check_grid(array)
    return array


def share(array: Any, argument: str) -> Images:
    """A view of an array: NumPy for host memory, a device's tensor; errors name the argument."""
    if type(array) is DeferredImages:
        return array  # type: ignore[return-value]  # read one by one, as an array is
    torch = sys.modules.get("torch")  # who has a tensor has loaded it
    if torch is not None and isinstance(array, torch.Tensor):
        array = array.detach().resolve_neg()  # DLPack shares memory without its sign
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
        from torch.utils.dlpack import from_dlpack

        return from_dlpack(array)
    except Exception as error:  # libraries refuse in many ways; what they say is told
        received = f"{type(array).__name__} of {getattr(array, 'dtype', 'unknown dtype')}"
        rule = "must be shareable by DLPack"
        raise ArgumentError(argument, rule, received, reason_of(error)) from error


def host_image(image: Images) -> NDArray[np.float32]:
    """One image as float32 in [0, 1], in host memory."""
    found = image_in_place(image)
    return found if isinstance(found, np.ndarray) else np.asarray(found.cpu())


def image_in_place(image: Images) -> "NDArray[np.float32] | torch.Tensor":
    """One image as float32 in [0, 1], where it is; equal to `host_image` to the bit."""
    if isinstance(image, np.ndarray):
        return unit_float(image)
    if image.is_floating_point():
        return image.float()
    # Devices may divide by a constant by multiplying with its reciprocal, which rounds otherwise.
    return image.float().new_tensor(unit_float(np.arange(256, dtype=np.uint8)))[image.long()]


def device_steps(image: "torch.Tensor") -> "torch.Tensor":
    """The steps 0 .. 255 of one image on its device, uint8; it must lie on the grid."""
    _check_grid(image[None])
    return (255.0 * image.double()).round().byte()


def _check_grid(images: Images) -> None:
    if isinstance(images, np.ndarray | DeferredImages):  # read one by one
        check_grid(images)
    elif images.is_floating_point():
        for number, image in enumerate(images):
            values = 255.0 * image.double()
            if not float((values - values.round()).abs().max()) <= GRID_ERROR:
                check_grid(image[None].double().cpu().numpy(), number)
