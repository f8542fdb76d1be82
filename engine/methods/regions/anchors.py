"""Anchor images with noise levels: sigma(x) is the level of the nearest one.

Inside a Voronoi cell sigma is constant, and how far x is from cells of another level is plain
geometry: for an anchor a_i and one of another level a_j, every y with

    ||y - x|| < (||x - a_j||^2 - ||x - a_i||^2) / (2 ||a_j - a_i||)

is nearer to a_i. The smallest such distance over all a_j certifies the level without any
probability, and any anchor of the level may serve as a_i.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dualsmooth.engine.checks import positive
from dualsmooth.engine.errors import ArgumentError, FileError, reason_of
from dualsmooth.engine.files import at_home, check_target, unwritable, whole_file
from dualsmooth.engine.images import Image
from dualsmooth.engine.limits import npz_arrays
from dualsmooth.engine.methods.regions.neighbours import Points, as_points
from dualsmooth.engine.records import arrays_digest

_CANDIDATES = 8
_EPSILON = float(np.finfo(np.float64).eps)


@dataclass(frozen=True, eq=False)
class Anchors:
    """Images and the noise level of each, fixed before any input is seen.

    Parameters
    ----------
    images : array_like, shape (count, height, width, channels)
        uint8 or floating point in [0, 1].
    sigmas : array_like of float, shape (count,)
        Noise levels, > 0.
    """

    images: ArrayLike
    sigmas: ArrayLike
    _points: Points = field(init=False, repr=False)
    _levels: NDArray[np.float64] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        points, levels = as_points(self.images), np.asarray(self.sigmas, np.float64)
        if levels.shape != (len(points),):
            raise ArgumentError("sigmas", f"must be {len(points)} noise levels", levels.shape)
        for sigma in set(levels.tolist()):
            positive("sigmas", sigma)
        object.__setattr__(self, "_points", points)
        object.__setattr__(self, "_levels", levels)

    @property
    def sha256(self) -> str:
        """SHA-256 of the anchors and their levels."""
        return arrays_digest(self._points, self._levels)

    @property
    def digest(self) -> str:
        """Eight hexadecimal digits that name the anchors and their levels."""
        return self.sha256[:8]

    @property
    def levels(self) -> tuple[float, ...]:
        """Distinct noise levels, ascending."""
        return tuple(sorted(set(self._levels.tolist())))

    def shares(self) -> list[tuple[float, float]]:
        """Share of the anchors at each level, ascending levels."""
        return [(sigma, float(np.mean(self._levels == sigma))) for sigma in self.levels]

    def locate(self, image: Image) -> tuple[float, float]:
        """Noise level of an image (lowest index on ties), and the L2 radius inside which it is the
        same.

        The radius is rounded down; it is infinite if there is one level only.
        """
        x = image.astype(np.float64).ravel()
        squares = _squares(self._points - x)
        sigma = float(self._levels[int(np.argmin(squares))])
        same = np.flatnonzero(self._levels == sigma)
        other = np.flatnonzero(self._levels != sigma)
        if not len(other):
            return sigma, math.inf
        nearest = same[np.argsort(squares[same], kind="stable")[:_CANDIDATES]]
        return sigma, max(self._distance(int(i), other, squares) for i in nearest)

    def _distance(self, i: int, other: NDArray[np.intp], squares: NDArray[np.float64]) -> float:
        """Distance to the nearest bisector between anchor i and anchors of other levels."""
        gaps = np.sqrt(_squares(self._points[other] - self._points[i]))
        # Rounding of the squares, here and where the deployed rule compares them.
        error = 8.0 * (self._points.shape[1] + 4) * _EPSILON * (squares[other] + squares[i])
        ahead = squares[other] - squares[i] - error
        if not ahead.min() > 0.0:
            return 0.0
        return math.nextafter(float((ahead / (2.0 * gaps)).min()) * (1.0 - 1e-12), 0.0)

    def save(self, path: str | Path) -> None:
        """Write the anchors as a new npz file with ``x`` and ``sigma``, whole or not at all."""
        check_target(path := at_home(path))
        try:
            with whole_file(path) as file:
                np.savez_compressed(file, x=np.asarray(self.images), sigma=self._levels)
        except OSError as error:
            raise unwritable(path, error) from error


def read_anchors(path: str | Path) -> Anchors:
    """Anchors that `Anchors.save` wrote."""
    arrays = npz_arrays(at_home(path, "anchors"), "x", "sigma")
    try:
        return Anchors(arrays["x"], arrays["sigma"])
    except (KeyError, TypeError, ValueError) as error:  # ArgumentError is a ValueError
        rule = "must hold images x and noise levels sigma"
        raise FileError(path, rule, reason_of(error)) from error


def _squares(rows: Points) -> NDArray[np.float64]:
    return np.asarray(np.einsum("ij,ij->i", rows, rows))
