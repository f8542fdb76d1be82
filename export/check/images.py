"""Images that an export is checked on, and those that int8 networks are calibrated on."""

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


def images_for_calibration(
    spec: str | None, shape: tuple[int, int, int], count: int
) -> NDArray[np.generic]:
    """``count`` images at even steps of a data set; of digits:train if none is named."""
    named = _read(named_or_digits("calibration", spec, shape, "digits:train"), shape)
    step = max(1, len(named) // positive_integer("calibration_images", count))
    check_pixels(chosen := named[::step][:count], shape)
    return chosen


def _read(spec: str, shape: tuple[int, int, int]) -> NDArray[np.generic]:
    return np.asarray(load_images(spec, shape=shape).images)
