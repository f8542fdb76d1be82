"""Distances to reference images: a noise level that provably drifts slowly, and regions of anchors.

Reference images are part of the deployed classifier: CERTIFY and PREDICT must use the same.
Distances are L2 over pixels in [0, 1], float64, by direct differences (no expanded squares).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import exp
from typing import Any

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from dualsmooth.engine.checks import non_negative, positive, positive_integer
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.images import Image, unit_float
from dualsmooth.engine.records import arrays_digest

Points = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class NeighbourNoise:
    """sigma(x) = base * exp(rate * (mean distance to the nearest references - offset)).

    A mean of distances to the k nearest of a fixed set changes by at most ||x - y|| between x and
    y, so |ln sigma(x) - ln sigma(y)| <= rate * ||x - y|| everywhere (Sukenik et al., 2022).

    Parameters
    ----------
    references : array_like, shape (count, height, width, channels)
        Images, uint8 or floating point in [0, 1].
    base : float
        Noise level where the mean distance equals ``offset``.
    rate : float
        Semi-elasticity per unit of L2 distance, >= 0.
    offset : float
        Typical mean distance, >= 0.
    neighbours : int
        k, at most the number of references.
    """

    references: ArrayLike
    base: float
    rate: float = 0.01
    offset: float = 0.0
    neighbours: int = 20
    _tree: "scipy.spatial.KDTree" = field(init=False, repr=False)
    _digest: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        positive("base", self.base)
        non_negative("rate", self.rate)
        non_negative("offset", self.offset)
        points = as_points(self.references)
        if positive_integer("neighbours", self.neighbours) > len(points):
            rule = f"must be at most the {len(points)} references"
            raise ArgumentError("neighbours", rule, self.neighbours)
        object.__setattr__(self, "_tree", scipy.spatial.KDTree(points))
        object.__setattr__(self, "_digest", arrays_digest(points))

    def at(self, image: Image) -> float:
        """Noise level of an image."""
        return self.base * exp(self.rate * (self.mean_distance(image) - self.offset))

    def mean_distance(self, image: Image) -> float:
        """Mean L2 distance to the k nearest references."""
        distances, _ = self._tree.query(image.astype(np.float64).ravel(), self.neighbours)
        return float(np.mean(distances))

    @property
    def record(self) -> dict[str, Any]:
        """Everything that decides the noise level."""
        names = ("base", "rate", "offset", "neighbours")
        return {name: getattr(self, name) for name in names} | {"references": self._digest}


def describe(record: Mapping[str, Any]) -> str:
    """A `NeighbourNoise.record` in short."""
    return (
        f"{record['base']:g}, rate {record['rate']:g}, {record['neighbours']} nearest, "
        f"offset {record['offset']:g}, references {record['references'][:8]}"
    )


def as_points(images: ArrayLike) -> Points:
    """Images as rows of finite float64 pixels in [0, 1], exactly as the networks get them."""
    array = np.asarray(images)
    if array.ndim != 4 or not len(array):
        rule = "must be images (count, height, width, channels)"
        raise ArgumentError("references", rule, array.shape)
    points = np.stack([unit_float(image).astype(np.float64).ravel() for image in array])
    if not np.isfinite(points).all():
        raise ArgumentError("references", "must hold finite numbers", "NaN or infinity")
    return points
