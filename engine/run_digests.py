"""Digests by which a run names the images it is about."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dualsmooth.engine.data import ImageSet


def data_digest(data: ImageSet, image_ids: Sequence[int]) -> str:
    """SHA-256 over the images at these positions and their labels."""
    chosen = list(image_ids)
    return arrays_digest(data.images[chosen], data.labels[chosen])


def ids_digest(image_ids: Sequence[int]) -> str:
    """SHA-256 over image ids in order."""
    return arrays_digest(np.array(image_ids, np.int64))


def arrays_digest(*arrays: NDArray[Any]) -> str:
    """Hexadecimal SHA-256 over types, shapes and values."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
