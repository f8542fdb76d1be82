"""Images that an export is checked on, and those that int8 networks are calibrated on."""

import numpy as np
from numpy.typing import NDArray

from dualsmooth.engine.checks import positive_integer
from dualsmooth.engine.data.spec import load_images
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.images import check_pixels

DIGITS = (8, 8, 1)


def images_for_check(
    spec: str | None, shape: tuple[int, int, int], count: int
) -> NDArray[np.generic]:
    """The first ``count`` images of a data set; of digits if none is named and they fit."""
    named = _named("data", "--check", spec, "digits", shape)[: positive_integer("images", count)]
    check_pixels(named, shape)
    return named


def images_for_calibration(
    spec: str | None, shape: tuple[int, int, int], count: int
) -> NDArray[np.generic]:
    """``count`` images at even steps of a data set; of digits:train if none is named."""
    named = _named("calibration", "--int8", spec, "digits:train", shape)
    step = max(1, len(named) // positive_integer("calibration_images", count))
    check_pixels(chosen := named[::step][:count], shape)
    return chosen


def _named(
    argument: str, option: str, spec: str | None, digits: str, shape: tuple[int, int, int]
) -> NDArray[np.generic]:
    if spec is None and shape != DIGITS:
        rule = f"must name images of shape {shape} for {option}"
        raise ArgumentError(argument, rule, None, "for example npz:FILE")
    return np.asarray(load_images(spec or digits, shape=shape).images)
