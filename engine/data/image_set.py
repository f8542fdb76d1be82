"""Images with their labels and ids."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dualsmooth.engine.records import arrays_digest

UNKNOWN_LABEL = -1
"""Label of an image whose class is not known."""

IN_MEMORY = "memory"
"""The name of images that came as an array, where others have their SPEC."""


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
        Class names; empty for a number without a name.
    classes_given : bool
        Whether the user said which number each class has.
    """

    images: NDArray[np.uint8] | NDArray[np.float32]
    labels: NDArray[np.int64]
    name: str
    classes: tuple[str, ...]
    classes_given: bool = False

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (height, width, channels) of one image."""
        height, width, channels = self.images.shape[1:]
        return height, width, channels


def data_digest(data: ImageSet, image_ids: Sequence[int]) -> str:
    """SHA-256 over the images at these positions and their labels."""
    chosen = list(image_ids)
    return arrays_digest(data.images[chosen], data.labels[chosen])
