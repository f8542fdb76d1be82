"""Noisy images on which the ranges inside a network are found."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dualsmooth.engine.checks import positive_integer
from dualsmooth.engine.data.spec import load_images, named_or_digits
from dualsmooth.engine.draws import LEVELS, Draw, Phase
from dualsmooth.engine.errors import about_images_of
from dualsmooth.engine.images import check_pixels, unit_float
from dualsmooth.engine.models.bundle import SELECTOR, Bundle
from dualsmooth.engine.noise.stream import standard_normal
from dualsmooth.engine.records import sha256_of

SEED = 0
"""Noise of the calibration; its phase is its own, so no vote shares it whatever the vote's seed."""


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """Images that int8 networks are calibrated on; their ids are their positions."""

    images: NDArray[np.generic]

    @classmethod
    def read(
        cls,
        spec: str | None,
        shape: tuple[int, int, int],
        count: int,
        names: tuple[str, str] = ("data", "images"),
    ) -> "Calibration":
        """``count`` images at even steps of a data set; of digits:train if none is named."""
        named = named_or_digits(names[0], spec, shape, "digits:train")
        with about_images_of(names[0]):
            every = np.asarray(load_images(named, shape=shape).images)
        step = max(1, len(every) // positive_integer(names[1], count))
        check_pixels(chosen := every[::step][:count], shape)
        return cls(chosen)

    @property
    def record(self) -> dict[str, object]:
        """Number and digest of the images."""
        return {"images": len(self.images), "sha256": sha256_of(self.images.tobytes())}

    def batches(self, sigmas: tuple[float, ...], rows: int) -> Iterator[NDArray[np.float32]]:
        """Every image once with the noise of every level, as batches of a network."""
        for level, sigma in enumerate(sigmas):
            stream = Draw("", sigma, Phase.CALIBRATE, 0, 1, level % LEVELS).stream
            for first in range(0, len(self.images), rows):
                noisy = [
                    unit_float(image)
                    + np.float32(sigma)
                    * standard_normal(SEED, first + i, stream, np.arange(1), image.shape)[0]
                    for i, image in enumerate(self.images[first : first + rows])
                ]
                yield np.ascontiguousarray(np.stack(noisy).transpose(0, 3, 1, 2))


def levels_of(bundle: Bundle, role: str, sigma: float | None) -> tuple[float, ...]:
    """Noise levels a network is used at; all of them if it is used at none.

    ``sigma`` is the level of a bundle that has none of its own.
    """
    levels = (bundle.tau,) if role == SELECTOR else bundle.sigmas or (sigma,)
    known = tuple(level for level in levels if level is not None)
    return tuple(s for s in known if role == SELECTOR or bundle.classifier_at(s) == role) or known
