"""Readers of arrays of images: MNIST layout and npz archives.

Whatever a file holds, the only error that leaves a reader is a FileError naming that file.
"""

import gzip
import math
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dualsmooth.engine.data.image_set import UNKNOWN_LABEL, ImageSet
from dualsmooth.engine.errors import FileError, reason_of
from dualsmooth.engine.limits import check_expansion, npz_arrays, open_plain

IDX_IMAGES, IDX_LABELS = 0x00000803, 0x00000801
IDX_CLASSES = tuple(str(digit) for digit in range(10))
_IDX_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
_NPZ_PAIRS = (("x", "images"), ("y", "labels"))
_MOST_CLASSES = 1 << 16
_NORMALIZED = "undo the normalization; a bundle holds its own"


def read_idx(folder: Path, split: str, name: str) -> ImageSet:
    """Read MNIST's layout: grey uint8 images (n, height, width, 1) of ten classes."""
    image_path, label_path = (_plain_or_gz(folder / file) for file in _IDX_FILES[split])
    images = _idx_array(image_path, IDX_IMAGES, 3)
    labels = _idx_array(label_path, IDX_LABELS, 1).astype(np.int64)
    if len(labels) != len(images):
        rule = f"must have one label for each of the {len(images)} images in {image_path.name}"
        raise FileError(label_path, rule, f"{len(labels)} labels")
    check_images(image_path, images[..., None])
    check_labels(label_path, labels, len(IDX_CLASSES))
    return ImageSet(images[..., None], labels, name, IDX_CLASSES)


def _plain_or_gz(path: Path) -> Path:
    dotted = path.name.replace("-idx", ".idx")
    names = (path.name, f"{path.name}.gz", dotted, f"{dotted}.gz")
    for name in names:
        if path.with_name(name).is_file():
            return path.with_name(name)
    raise FileError(path, "is missing", hint=f"{', '.join(names[1:])} would do as well")


def _idx_array(path: Path, magic: int, axes: int) -> NDArray[np.uint8]:
    header = 4 + 4 * axes
    try:
        packed = path.stat().st_size
        with open_plain(path, links=True) as raw:
            file = gzip.open(raw) if path.suffix == ".gz" else raw
            head = file.read(header)
            size = _idx_size(path, head, magic, axes)
            if path.suffix == ".gz":
                check_expansion(path, packed, size)
            data = file.read(size + 1 if size < packed or path.suffix == ".gz" else packed)
    except FileError:
        raise
    except Exception as error:  # gzip and zlib raise several kinds
        raise FileError(path, "must be readable", reason_of(error)) from error
    shape = struct.unpack(f">{axes}I", head[4:])
    if len(data) != size:
        received = f"{len(data)} bytes" if len(data) < size else "more"
        rule = f"must hold {size} bytes of data, as its header says ({list(shape)})"
        raise FileError(path, rule, received, "truncated or overwritten")
    return np.frombuffer(data, np.uint8).reshape(shape)


def _idx_size(path: Path, head: bytes, magic: int, axes: int) -> int:
    """Bytes of data that a header announces."""
    if len(head) < 4 + 4 * axes:
        raise FileError(path, f"must have a header of {4 + 4 * axes} bytes", f"{len(head)} bytes")
    found, *shape = struct.unpack(f">{1 + axes}I", head)
    if found != magic:
        hint = "the file is not of this kind, or images and labels are swapped"
        raise FileError(path, f"must start with the magic number {magic}", found, hint)
    return math.prod(shape)


def read_npz(path: Path, name: str) -> ImageSet:
    """Read an archive with ``x`` (uint8, or float in [0, 1], NHWC) and, if present, ``y``.

    ``images`` and ``labels`` are other names of the two; ``index`` holds the image ids.
    """
    arrays = npz_arrays(path, "x", "y", "images", "labels", "index")
    for one, other in _NPZ_PAIRS:
        if one in arrays and other in arrays:
            raise FileError(path, f"must hold {one} or {other}, not both", f"{sorted(arrays)}")
    x, y = (arrays.get(one, arrays.get(other)) for one, other in _NPZ_PAIRS)
    if x is None:
        hint = "numpy.savez(FILE, x=images, y=labels)"
        raise FileError(path, "must hold an array x or images", f"arrays {sorted(arrays)}", hint)
    if x.dtype not in (np.uint8, np.float32, np.float64):
        hint = "pixels of 0 .. 255: x.astype('uint8')"
        raise FileError(path, "x must be uint8, float32 or float64", x.dtype, hint)
    check_images(path, x)
    images: NDArray[np.uint8] | NDArray[np.float32]
    images = x.astype(np.uint8) if x.dtype == np.uint8 else x.astype(np.float32)
    ids = _ids(path, arrays["index"], len(x)) if "index" in arrays else None
    if y is None:
        return ImageSet(images, np.full(len(x), UNKNOWN_LABEL, np.int64), name, (), ids=ids)
    if y.dtype.kind not in "ui" or y.ndim != 1:
        hint = "the number of each image's class, not its name" if y.dtype.kind in "USO" else ""
        hint = "one column per class: y.argmax(1)" if y.ndim == 2 else hint
        raise FileError(path, "y must be integers with one axis", f"{y.dtype} {y.shape}", hint)
    if len(y) != len(x):
        rule = f"y must have one label for each of the {len(x)} images"
        raise FileError(path, rule, f"{len(y)} labels")
    check_labels(path, y, _MOST_CLASSES)
    labels = y.astype(np.int64)
    names = tuple(str(k) for k in range(int(labels.max()) + 1))
    return ImageSet(images, labels, name, names, ids=ids)


def _ids(path: Path, index: NDArray[np.generic], count: int) -> NDArray[np.int64]:
    """Image ids of an archive: distinct integers in [0, 2^32), one per image."""
    if index.dtype.kind not in "ui" or index.shape != (count,):
        rule = f"index must be {count} integers, one per image"
        raise FileError(path, rule, f"{index.dtype} {index.shape}")
    low, high = int(index.min()), int(index.max())
    if low < 0 or high >= 1 << 32 or len(np.unique(index)) < count:
        received = f"{low} .. {high}, {len(np.unique(index))} different ones of {count}"
        raise FileError(path, "index must hold distinct integers in [0, 2^32)", received)
    return index.astype(np.int64)


def check_images(path: Path, images: NDArray[np.generic]) -> None:
    """Refuse images that are not a non-empty NHWC array of pixels in range."""
    if images.ndim != 4:
        hint = "grey images need a last axis of length 1" if images.ndim == 3 else ""
        raise FileError(
            path, "images must have axes (n, height, width, channels)", images.shape, hint
        )
    if images.size == 0:
        raise FileError(path, "must hold at least one image with pixels", images.shape)
    if images.dtype.kind != "f":
        return
    low, high = float(images.min()), float(images.max())
    if not (low >= 0 and high <= 1):  # false for NaN as well
        hint = "divide by 255, or store uint8" if low >= 0 else "" if low != low else _NORMALIZED
        received = "NaN" if low != low else f"{low} .. {high}"
        raise FileError(path, "float pixels must be in [0, 1] and not NaN", received, hint)


def check_labels(path: Path, labels: NDArray[np.generic], classes: int) -> None:
    """Refuse labels outside 0 .. classes - 1."""
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise FileError(path, f"labels must be in 0 .. {classes - 1}", f"{low} .. {high}")
