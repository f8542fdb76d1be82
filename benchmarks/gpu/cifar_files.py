"""CIFAR-10 images for a device pass: npz files of one folder."""

import io
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

from dualsmooth.engine.cifar10 import CLASSES
from dualsmooth.engine.data import ImageSet
from dualsmooth.engine.errors import ArgumentError


def read(folder: Path, split: str) -> tuple[ImageSet, list[int]]:
    """Images of the first file ``SPLIT*.npz`` of a folder, and their ids.

    A file holds ``x`` (uint8, n x 32 x 32 x 3) and ``y``, or JPEG images for training: ``jpeg``
    (all files joined), ``offsets`` (n + 1) and ``labels``. Ids are ``index``, or 0, 1, ...

    Raises
    ------
    ArgumentError
        If there is no such file.
    """
    paths = sorted(folder.glob(f"{split}*.npz"))
    if not paths:
        raise ArgumentError("data", f"must be a folder with {split}*.npz", str(folder))
    with np.load(paths[0], allow_pickle=False) as file:
        if "jpeg" in file:
            joined, offsets = file["jpeg"].tobytes(), file["offsets"].tolist()
            pairs = pairwise(offsets)
            images = np.stack([_decoded(joined[first:last]) for first, last in pairs])
            labels = file["labels"].astype(np.int64)
        else:
            images, labels = file["x"], file["y"].astype(np.int64)
        ids = file["index"].tolist() if "index" in file else list(range(len(labels)))
    return ImageSet(images, labels, f"npz:{paths[0].name}", CLASSES), [int(i) for i in ids]


def _decoded(data: bytes) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"), np.uint8)


def stand_in(count: int, side: int = 8) -> tuple[ImageSet, list[int]]:
    """Images of two classes, dark and bright, for a rehearsal."""
    labels = np.arange(count, dtype=np.int64) % 2
    rng = np.random.default_rng(count)
    images = rng.integers(0, 64, (count, side, side, 3)) + 190 * labels[:, None, None, None]
    return ImageSet(images.astype(np.uint8), labels, "stand-in", CLASSES), list(range(count))
