"""Images that an export is checked on."""

import numpy as np
from numpy.typing import NDArray

from dualsmooth.engine.checks import positive_integer
from dualsmooth.engine.data.spec import load_images, named_or_digits
from dualsmooth.engine.images import check_pixels


def images_for_check(
    spec: str | None, shape: tuple[int, int, int], count: int
) -> NDArray[np.generic]:
    """The first ``count`` images of a data set; of digits if none is named and they fit."""
    named = named_or_digits("data", spec, shape)
    chosen = _read(named, shape)[: positive_integer("images", count)]
    check_pixels(chosen, shape)
    return chosen


def _read(spec: str, shape: tuple[int, int, int]) -> NDArray[np.generic]:
    return np.asarray(load_images(spec, shape=shape).images)
