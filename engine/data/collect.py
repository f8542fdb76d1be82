"""Images out of data sets of other libraries, out of loaders and out of any iterable.

An item is an image, a pair of image and label, or a mapping with both (Hugging Face); a loader's
items hold a batch. An image is one of Pillow, or an array: uint8 in 0 .. 255 or floating point in
[0, 1], channels last, or first as torchvision's `ToTensor` makes it. What knows its length and
gives an item by its number is read when an image is asked for, everything else at once.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dualsmooth.engine.checks import one_of
from dualsmooth.engine.data.image_set import IN_MEMORY, UNKNOWN_LABEL, ImageSet
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.images import DeferredImages

LAYOUTS = ("auto", "NHWC", "NCHW")
_CHANNELS = (1, 3)
_IMAGES = ("image", "img", "images", "pixel_values", "x")
_LABELS = ("label", "labels", "fine_label", "target", "y")


def is_collection(source: object) -> bool:
    """Whether something holds images as items, and is neither an array nor a set of images."""
    if isinstance(source, ImageSet | DeferredImages | str | bytes):
        return False
    if hasattr(source, "shape") and not hasattr(source, "column_names"):  # Hugging Face has both
        return False
    if isinstance(source, list | tuple):
        first = source[0] if source else None
        return (
            _is_picture(first)
            or isinstance(first, Mapping)
            or (isinstance(first, tuple | list) and len(first) == 2 and np.ndim(first[1]) == 0)
        )
    return hasattr(source, "__iter__") or hasattr(source, "__getitem__")


def collect(
    source: Any,
    *,
    columns: tuple[str, str] | None = None,
    layout: str = "auto",
    most: int | None = None,
) -> ImageSet:
    """Images and labels of a data set, a loader or an iterable.

    Parameters
    ----------
    source : iterable, or sequence
        For example a data set of torchvision or Hugging Face, a `DataLoader` that does not shuffle,
        a list of (image, label).
    columns : tuple of str, optional
        Names of image and label where items are mappings; by default the usual ones.
    layout : str
        ``NCHW`` or ``NHWC`` of arrays; ``auto`` tells by which side has 1 or 3 channels.
    most : int, optional
        Read no more items than these.

    Returns
    -------
    ImageSet
        Image ids are positions in the source.

    Raises
    ------
    ArgumentError
        If an item is none of the above, or the source gives others in a second pass.
    """
    one_of("layout", layout, LAYOUTS)
    parts = [getattr(s, "sampler", None) for s in (source, getattr(source, "batch_sampler", None))]
    if any("Random" in type(part).__name__ for part in parts):
        rule, hint = "must keep their order", "shuffle=False: image ids are positions"
        raise ArgumentError("images", rule, "a loader that shuffles", hint)
    called, reader = type(source).__name__, _Reader(columns, layout)
    by_number = hasattr(source, "__len__") and hasattr(source, "__getitem__")
    if by_number and not hasattr(source, "sampler"):
        return _by_number(source, reader, most, called)
    pixels, labels, items = [], list[int](), iter(source)
    for image, label in reader.all(items, most):
        pixels.append(image)
        labels.append(label)
    if items is not source:
        _check_again(reader.all(iter(source), len(pixels)), pixels, labels, called)
    shapes = {(image.shape, image.dtype.name) for image in pixels}
    if len(shapes) != 1:
        received = f"{len(shapes)} kinds, {sorted(shapes)[:3]}" if shapes else "none"
        raise ArgumentError("images", "must be at least one, all of one shape and type", received)
    read = np.stack(pixels), np.array(labels, np.int64)
    return ImageSet(*read, IN_MEMORY, _names(source, columns))


def _check_again(
    items: Iterable[tuple[NDArray[Any], int]], pixels: list[Any], labels: list[int], called: str
) -> None:
    """Refuse a source whose second pass has others: an image id is a position in every pass."""
    for place, (image, label) in enumerate(items):
        if label != labels[place] or not np.array_equal(image, pixels[place]):
            rule, hint = "must be the same in a second pass", "no shuffle, no random transform"
            received = f"another image {place} of {called}"
            raise ArgumentError("images", rule, received, f"{hint}; iter(..) is read once")


def _by_number(source: Any, reader: "_Reader", most: int | None, called: str) -> ImageSet:
    count = len(source) if most is None else min(most, len(source))
    if not count:
        raise ArgumentError("images", "must be at least one", 0)
    first, labels = reader.one(source[0])[0], _all_labels(source, reader, count)

    def read(place: int) -> NDArray[Any]:
        image, label = reader.one(source[place])
        if label != labels[place] != UNKNOWN_LABEL:
            rule, hint = "must be those of the items", "pass list(..) of it"
            found = f"{labels[place]} in `targets`, item {place} has {label}"
            raise ArgumentError("labels", rule, found, hint)
        return image

    name = f"image {{}} of {called}".format
    images = DeferredImages(range(count), first.shape, first.dtype, read, name)
    return ImageSet(images, labels, IN_MEMORY, _names(source, reader.columns))


def _all_labels(source: Any, reader: "_Reader", count: int) -> NDArray[np.int64]:
    """Labels without the images where the source keeps them apart."""
    kept = getattr(source, "targets", None)
    if getattr(source, "target_transform", None) is not None:
        kept = None
    if hasattr(source, "column_names"):
        _, column = reader.keys(source.column_names)
        kept = source[column] if column else [None] * len(source)
    if kept is None or len(kept) != len(source):
        return np.array([reader.one(source[place])[1] for place in range(count)], np.int64)
    return np.array([_label(label) for label in kept[:count]], np.int64)


def _names(source: Any, columns: tuple[str, str] | None) -> tuple[str, ...]:
    """Names of the classes, as torchvision or Hugging Face know them."""
    source = getattr(source, "dataset", source)
    features = getattr(source, "features", None)
    if isinstance(features, Mapping):
        _, column = _Reader(columns, "auto").keys(features)
        return tuple(getattr(features.get(column), "names", None) or ())
    return tuple(map(str, getattr(source, "classes", None) or ()))


class _Reader:
    """What an item holds."""

    def __init__(self, columns: tuple[str, str] | None, layout: str) -> None:
        self.columns, self.layout = columns, layout

    def all(self, items: Iterator[Any], most: int | None) -> Iterator[tuple[NDArray[Any], int]]:
        """Images and labels of items, each an image or a batch of them."""
        left = most
        for item in items:
            if left is not None and left <= 0:
                return
            image, label = self._parts(item)
            batch = np.ndim(image) == 4 if not _is_picture(image) else False
            labels = [None] * len(image) if label is None and batch else label
            pairs = zip(image, labels, strict=True) if batch else [(image, label)]
            for one, its in list(pairs)[:left]:
                yield self._pixels(one), _label(its)
                left = None if left is None else left - 1

    def one(self, item: Any) -> tuple[NDArray[Any], int]:
        """Image and label of an item."""
        image, label = self._parts(item)
        return self._pixels(image), _label(label)

    def keys(self, names: Iterable[str]) -> tuple[str, str]:
        """Columns of image and label; the latter may be missing."""
        known = list(names)
        image, label = self.columns or (
            next((name for name in _IMAGES if name in known), ""),
            next((name for name in _LABELS if name in known), ""),
        )
        if image not in known or (self.columns and label not in known):
            rule = f"must have the columns {self.columns or 'image and label'}"
            raise ArgumentError("images", rule, ", ".join(known)[:200], "columns=(IMAGE, LABEL)")
        return image, label

    def _parts(self, item: Any) -> tuple[Any, Any]:
        if isinstance(item, Mapping):
            image, label = self.keys(item)
            return item[image], item[label] if label else None
        if isinstance(item, tuple | list):
            if len(item) < 2:
                rule = "must come with labels, or alone"
                raise ArgumentError("images", rule, f"{len(item)} parts")
            return item[0], item[1]
        return item, None

    def _pixels(self, image: Any) -> NDArray[Any]:
        """One image, channels last; uint8 or float32."""
        if _is_picture(image):
            if image.mode not in ("L", "RGB"):
                hint = "image.convert('RGB') in a transform of the data set"
                raise ArgumentError("images", "must be grey or RGB", image.mode, hint)
            pixels: NDArray[Any] = np.asarray(image)
        else:
            pixels = np.asarray(image)
        if pixels.ndim == 2:
            pixels = pixels[..., None]
        if pixels.ndim != 3 or pixels.dtype.kind not in "uf":
            rule = "must be images of Pillow, or arrays of three axes, uint8 or floating point"
            raise ArgumentError("images", rule, f"{pixels.dtype} of shape {pixels.shape}")
        first = _channels_first(pixels.shape) if self.layout == "auto" else self.layout == "NCHW"
        if first and not _is_picture(image):
            pixels = pixels.transpose(1, 2, 0)
        kind = np.uint8 if pixels.dtype == np.uint8 else np.float32
        return np.ascontiguousarray(pixels, kind)


def _is_picture(item: object) -> bool:
    pillow = sys.modules.get("PIL.Image")  # who has a picture has loaded it
    return pillow is not None and isinstance(item, pillow.Image)


def _label(label: Any) -> int:
    if label is None:
        return UNKNOWN_LABEL
    found = np.asarray(label)
    if found.size != 1 or found.dtype.kind not in "ui":
        raise ArgumentError("labels", "must be integers", repr(label)[:40])
    return int(found.item())  # MedMNIST has arrays of one


def _channels_first(shape: Sequence[int], known: tuple[int, int, int] | None = None) -> bool:
    """Whether an image of this shape has its channels first."""
    if known is not None:
        return tuple(shape) != known and (*shape[1:], shape[0]) == known
    return shape[0] in _CHANNELS and shape[2] not in _CHANNELS


def channels_last(images: Any, shape: tuple[int, int, int] | None = None) -> Any:
    """Images (count, height, width, channels); a view of those with channels first.

    ``shape`` is that of the network, (height, width, channels), where it is known. Without it
    channels are first where that side has 1 or 3 and the last has not.
    """
    if images.ndim != 4 or not _channels_first(images.shape[1:], shape):
        return images
    if isinstance(images, np.ndarray):
        return np.ascontiguousarray(images.transpose(0, 2, 3, 1))
    return images.permute(0, 2, 3, 1).contiguous()
