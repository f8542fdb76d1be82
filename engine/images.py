"""Images as methods take them: float32, channels-last, values in [0, 1]."""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import index
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.printable import printable
from dualsmooth.engine.records import sha256_of

Image: TypeAlias = NDArray[np.floating[Any]]
"""One image, shape (height, width, channels); float32 where it comes from the engine."""


class SupportsDLPack(Protocol):
    """An array of any library that shares its memory by DLPack."""

    def __dlpack__(self) -> Any:
        """A capsule."""

    def __dlpack_device__(self) -> tuple[Any, int]:
        """Kind of device, and its number."""


class DeferredImages:
    """Images (count, height, width, channels) that are read when they are asked for, one by one.

    ``read`` gives the image at a place, uint8 or float in [0, 1], ``name`` what messages call it.
    An image that is read again must be what it was before: certificates are about one image.
    """

    ndim = 4

    def __init__(
        self,
        places: Sequence[int] | NDArray[np.int64],
        shape: tuple[int, int, int],
        dtype: DTypeLike,
        read: Callable[[int], NDArray[Any]],
        name: Callable[[int], object],
    ) -> None:
        self._places, self.dtype = np.asarray(places, np.int64), np.dtype(dtype)
        self.shape = (len(self._places), *shape)
        self._read, self._name = read, name
        self._seen: dict[int, tuple[str, float]] = {}

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, at: Any) -> Any:
        """An image, or for a slice or a list of positions such images, not read yet."""
        places = self._places[at]
        if np.ndim(places) == 0:
            return self._image(int(places))
        part = DeferredImages(places, self.shape[1:], self.dtype, self._read, self._name)
        part._seen = self._seen
        return part

    def __iter__(self) -> Iterator[NDArray[Any]]:
        return map(self._image, self._places.tolist())

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        return np.stack(list(self)).astype(dtype or self.dtype, copy=False)

    def _image(self, place: int) -> NDArray[Any]:
        image = self._read(place)
        if image.dtype != self.dtype or image.shape != self.shape[1:]:
            rule = f"must all be {self.dtype} of shape {self.shape[1:]}"
            found = f"{image.dtype} of shape {image.shape}, {self._name(place)}"
            raise ArgumentError("images", rule, found, "--resize and --crop make them so")
        check_pixels(image[None], self.shape[1:])
        seen = sha256_of(image.tobytes()), _brightest(image)
        if self._seen.setdefault(place, seen) != seen:
            rule, hint = "must stay what they are", "no random transform, and files left alone"
            raise ArgumentError("images", rule, f"another {self._name(place)}", hint)
        if len(self._seen) == SEVERAL and self.dtype != np.uint8:  # files are what they are
            _tell_dark(max(top for _, top in self._seen.values()), DARK)
        return image


AnyArray: TypeAlias = ArrayLike | SupportsDLPack | DeferredImages
"""What NumPy reads, arrays of PyTorch, CuPy and others, and images that are read one by one."""

DARK, SEVERAL, BLACK, FEW = 0.75, 64, 0.1, 2
"""So many images hardly ever have no pixel brighter than this share of white: several, a few."""

GRID_ERROR = 255.0 * 2.0**-23
"""How far, in steps, a float image may be from its grid: two roundings to float32."""


def check_images(images: "ArrayLike | DeferredImages", shape: tuple[int, int, int]) -> Any:
    """Images as an array (count, height, width, channels): uint8, or floating point in [0, 1].

    The first bad image is named.
    """
    array = images if isinstance(images, DeferredImages) else np.asarray(images)
    check_pixels(array, shape)
    return array


def check_pixels(array: Any, shape: tuple[int, int, int]) -> None:
    """Refuse an array, of NumPy or another library, as `check_images` does."""
    if array.ndim != 4 or array.shape[1:] != shape:
        first = array.ndim == 4 and (*array.shape[2:], array.shape[1]) == shape
        received = tuple(array.shape)
        hint = "channels come last" if first else ""
        if array.shape == shape:
            hint = "pass images[None]"
        elif received[1:] in ((*shape[:2], 1), (*shape[:2], 3)):
            hint = f"the networks take {'grey' if shape[2] == 1 else 'colour'} images"
        raise ArgumentError("images", f"must have shape (count, {str(shape)[1:]}", received, hint)
    if isinstance(array, DeferredImages):  # those are checked one by one
        return
    dtype = getattr(array.dtype, "name", str(array.dtype)).removeprefix("torch.")
    if len(array) >= FEW and 0 not in shape:
        _tell_dark(_brightest(array), DARK if len(array) >= SEVERAL else BLACK)
    if dtype == "uint8":
        return
    if not dtype.startswith(("float", "bfloat")):
        hint = "pixels of 0 .. 255: images.astype('uint8')"
        raise ArgumentError("images", "must be uint8 or floating point", dtype, hint)
    inside = ((array >= 0.0) & (array <= 1.0)).reshape(len(array), math.prod(shape)).all(1)
    if not inside.all():
        worst = inside.tolist().index(False)
        low, high = float(array[worst].min()), float(array[worst].max())
        found = f"{low:g} .. {high:g} in image {worst}"
        hint = "divide 0 .. 255 pixels by 255 or pass them as uint8" if low >= 0 else ""
        if low < 0:
            hint = "mean and std belong into the network: pass pixels from before"
        raise ArgumentError("images", "must have values in [0, 1]", found, hint)


def _brightest(array: Any) -> float:
    """The largest value, as a share of white."""
    return float(array.max()) / (255.0 if "uint8" in str(array.dtype) else 1.0)


def _tell_dark(brightest: float, dark: float) -> None:
    """Warn of images that were probably scaled: radii are in the units of the pixels given."""
    if 0.0 < brightest <= dark:
        told = f"no pixel is brighter than {brightest:.3g} of white"
        said = "perhaps they were normalized, or divided by 255 twice"
        warnings.warn(f"images are dark, {told}: {said}", stacklevel=4)


def check_shape(image: Any, shape: tuple[int, int, int]) -> None:
    """Refuse one image, an array of any library, of another shape (height, width, channels)."""
    found = tuple(image.shape)
    if found != shape:
        hint = "channels come last" if found == (shape[2], *shape[:2]) else ""
        raise ArgumentError("image", f"must have shape {shape}", found, hint)


def check_grid(images: "NDArray[np.generic] | DeferredImages", first: int = 0) -> None:
    """Refuse images off the grid {0 .. 255} / 255, to which integer noise is bound.

    They are uint8, or floating point in [0, 1] up to two roundings to float32 from their grid
    point. ``first`` is the number of the first image, for the message.
    """
    if images.dtype == np.uint8:
        return
    for number, image in enumerate(images, first):
        values = 255.0 * image.astype(np.float64)
        distance = np.abs(values - np.rint(values))
        if not distance.max() <= GRID_ERROR:
            value = image.ravel()[int(np.argmax(distance))]
            rule, hint = "must lie on the grid 0, 1/255 .. 1", "pass uint8, or use gaussian noise"
            received = f"{value:.9g} in image {number}"
            raise ArgumentError("images", f"{rule} for integer noise", received, hint)


def grid_steps(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """The steps 0 .. 255 of one image on the grid, as float32, which holds them exactly."""
    check_grid(image[None])
    return np.rint(255.0 * image.astype(np.float64)).astype(np.float32)


def unit_float(image: NDArray[np.generic]) -> NDArray[np.float32]:
    """One image as float32 in [0, 1]; uint8 is divided by 255 in float32."""
    if image.dtype == np.uint8:
        return image.astype(np.float32) / np.float32(255.0)
    return image.astype(np.float32)


def check_ids(image_ids: Iterable[int] | None, count: int) -> list[int]:
    """Image ids, by default 0 .. count - 1: ``count`` distinct ones in [0, 2^32)."""
    ids = list(range(count)) if image_ids is None else _integers("image_ids", image_ids)
    if len(ids) != count:
        raise ArgumentError("image_ids", f"must name {count} images", len(ids))
    if len(set(ids)) != count:
        hint = "equal ids would share their noise"
        raise ArgumentError("image_ids", "must be distinct", "a repeated id", hint)
    if ids and not (min(ids) >= 0 and max(ids) < 1 << 32):
        raise ArgumentError("image_ids", "must be in [0, 2^32)", f"{min(ids)} .. {max(ids)}")
    return ids


def check_labels(labels: Iterable[int], count: int) -> list[int]:
    """The true classes, one per image; negative where unknown."""
    found = _integers("labels", labels)
    if len(found) != count:
        raise ArgumentError("labels", f"must name the classes of {count} images", len(found))
    return found


def _integers(argument: str, values: Iterable[int]) -> list[int]:
    found = list[int]()
    for value in values:
        try:
            found.append(index(value))
        except TypeError as error:  # floats are refused, even whole ones
            hint = "numpy.asarray(..).astype(int) where all are whole"
            if isinstance(value, str):
                hint = "classes are numbers: [NAMES.index(name) for name in labels]"
            elif np.ndim(value):
                hint = f"one column per class: {argument}.argmax(1)"
            received = f"{printable(repr(value))[:60]} at place {len(found)}"
            raise ArgumentError(argument, "must hold integers", received, hint) from error
    return found


def as_unit_float(images: NDArray[np.uint8] | NDArray[np.float32]) -> NDArray[np.float32]:
    """Pixels as float32 in [0, 1]: uint8 divided by 255 in float32, float32 as they are."""
    if images.dtype == np.uint8:
        return images.astype(np.float32) / np.float32(255)
    if images.dtype == np.float32:
        return images.astype(np.float32, copy=False)
    raise ArgumentError("images", "must be uint8 or float32", images.dtype)
