"""Images to certify or train on, named by one short text (a SPEC).

| SPEC | images |
|---|---|
| `digits[:train]` | scikit-learn's digits, 8x8 grey; the last 540 are the test split |
| `idx:DIR[:train]` | MNIST layout, official file names, plain or gzipped |
| `cifar10:DIR[:train]` | CIFAR-10, the official Python or binary batches |
| `npz:FILE` | `x` uint8 or float NHWC, `y` integers (may be left out) |
| `folder:DIR` | one folder of images per class, read with Pillow |

The split is `test` unless the text ends in `:train`. An empty DIR means `$DUALSMOOTH_DATA`.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dualsmooth.engine.errors import ArgumentError, FileError

UNKNOWN_LABEL = -1
"""Label of an image whose class is not known."""

DATA_VARIABLE = "DUALSMOOTH_DATA"
DIGITS_TRAIN = 1257
_KINDS = ("digits", "idx", "cifar10", "npz", "folder")
_WITH_SPLIT = ("digits", "idx", "cifar10")


@dataclass(frozen=True, slots=True, eq=False)
class ImageSet:
    """Images with their labels.

    Parameters
    ----------
    images : ndarray of uint8 in 0 .. 255 or float32 in [0, 1], shape (n, height, width, channels)
    labels : ndarray of int64, shape (n,)
        Indices into ``classes``; -1 where the class is not known.
    name : str
        The SPEC the images came from.
    classes : tuple of str
        Class names.
    """

    images: NDArray[np.uint8] | NDArray[np.float32]
    labels: NDArray[np.int64]
    name: str
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (height, width, channels) of one image."""
        height, width, channels = self.images.shape[1:]
        return height, width, channels


def load_images(spec: str) -> ImageSet:
    """Read the images a SPEC names.

    Parameters
    ----------
    spec : str
        See the table at the top of this module.

    Returns
    -------
    ImageSet

    Raises
    ------
    ArgumentError
        If the text is not a SPEC, or needs a folder and `$DUALSMOOTH_DATA` is not set.
    FileError
        If a file is missing, truncated, corrupt or not what its name says.
    """
    # Readers import this module's ImageSet, so they are imported here.
    from dualsmooth.engine import cifar10, readers

    kind, place, split = _parse(spec)
    if kind == "digits":
        return _digits(spec, split)
    path = _path(kind, place, spec)
    if kind == "idx":
        return readers.read_idx(path, split, spec)
    if kind == "cifar10":
        return cifar10.read_cifar10(path, split, spec)
    if kind == "npz":
        return readers.read_npz(path, spec)
    return readers.read_folder(path, spec)


def as_unit_float(images: NDArray[np.uint8] | NDArray[np.float32]) -> NDArray[np.float32]:
    """Pixels as float32 in [0, 1]: uint8 divided by 255 in float32, floats as they are.

    Raises
    ------
    ArgumentError
        If the images are neither uint8 nor float32.
    """
    if images.dtype == np.uint8:
        return images.astype(np.float32) / np.float32(255)
    if images.dtype == np.float32:
        return images.astype(np.float32, copy=False)
    raise ArgumentError("images", "must be uint8 or float32", images.dtype)


def _parse(spec: str) -> tuple[str, str, str]:
    kind, _, rest = spec.partition(":")
    if kind not in _KINDS:
        raise ArgumentError("data", "must start with a known kind", spec, "one of " + _forms())
    split = "test"
    if kind in _WITH_SPLIT:
        place, colon, last = rest.rpartition(":")
        if last in ("train", "test") and (colon or kind == "digits"):
            rest, split = place, last
    if kind == "digits" and rest:
        raise ArgumentError("data", "must be digits or digits:train", spec)
    return kind, rest, split


def _forms() -> str:
    return "digits, digits:train, idx:DIR, cifar10:DIR, npz:FILE, folder:DIR"


def _path(kind: str, place: str, spec: str) -> Path:
    if place:
        path = Path(place)
    elif kind != "npz" and os.environ.get(DATA_VARIABLE):
        path = Path(os.environ[DATA_VARIABLE])
    else:
        what = "file" if kind == "npz" else f"folder, or the variable {DATA_VARIABLE}"
        raise ArgumentError("data", f"{kind}: needs a {what}", spec)
    try:
        found = path.is_file() if kind == "npz" else path.is_dir()
    except (OSError, ValueError):  # a name the system cannot hold
        found = False
    if not found:
        raise FileError(path, "is not a file" if kind == "npz" else "is not a folder")
    return path


def _digits(spec: str, split: str) -> ImageSet:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    part = slice(None, DIGITS_TRAIN) if split == "train" else slice(DIGITS_TRAIN, None)
    pixels = np.rint(bunch.images[part, :, :, None] * (255 / 16)).astype(np.uint8)
    labels = bunch.target[part].astype(np.int64)
    return ImageSet(pixels, labels, spec, tuple(str(digit) for digit in range(10)))
