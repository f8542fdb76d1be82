"""Certified L2 radii from probability bounds, always rounded down.

Distances are in input units: pixels on [0, 1].
"""

import math
from collections.abc import Sequence

import scipy

from dualsmooth.engine.checks import closed_unit
from dualsmooth.engine.radius.two_scale import noise_scale

QUANTILE_ERROR = 1e-10
"""Bounds the error of a computed normal quantile z by QUANTILE_ERROR * (1 + |z|)."""


def gaussian_radius(p_lower: float, sigma: float) -> float:
    """Radius sigma * z(p_lower) of Cohen et al. (2019), rounded down.

    If a class has probability at least ``p_lower`` > 1/2 under N(x, sigma^2 I), it keeps a
    probability above 1/2 at every input closer than the radius (Salman et al., 2019, Lemma 2).

    Parameters
    ----------
    p_lower : float
        Lower bound of the class probability, in [0, 1].
    sigma : float
        Noise standard deviation, finite and > 0, as a user names it (`noise_scale`).

    Returns
    -------
    float
        L2 radius; 0.0 when nothing is certified, infinite only for p_lower = 1.
    """
    return _scaled(_quantile_below(closed_unit("p_lower", p_lower)), sigma)


def margin_radius(first_lower: float, second_lower: float, sigma: float) -> float:
    """Radius sigma * (z(first) + z(second)), rounded down.

    A probability of at least ``first_lower`` under N(x, sigma^2 I) stays above 1 - ``second_lower``
    at every input closer than this (Salman et al., 2019, Lemma 2). With half of sigma it is the
    two-class radius of Cohen et al. (2019): ``first`` bounds the class, ``second`` the event that
    its strongest rival is not voted for.

    Parameters
    ----------
    first_lower, second_lower : float
        Lower bounds of probabilities, in [0, 1].
    sigma : float
        As for `gaussian_radius`.

    Returns
    -------
    float
        L2 radius; 0.0 when nothing is certified, infinite if one bound is 1 and the other not 0.
    """
    first = _quantile_below(closed_unit("first_lower", first_lower))
    second = _quantile_below(closed_unit("second_lower", second_lower))
    total = first + second
    return _scaled(math.nextafter(total, 0.0) if math.isfinite(total) else total, sigma)


def _quantile_below(p: float) -> float:
    z = float(scipy.special.ndtri(p))
    return z - QUANTILE_ERROR * (1.0 + abs(z)) if math.isfinite(z) else z


def _scaled(quantile: float, sigma: float) -> float:
    scale = noise_scale(sigma)
    if not quantile > 0.0:
        return 0.0
    return math.nextafter(scale * quantile, 0.0) if math.isfinite(quantile) else math.inf


def interval_radius(constancy: Sequence[float], levels: Sequence[float]) -> float:
    """Radius of a chain of growing sets of noise levels (theorem C1); 0.0 for an empty chain.

    Inside ``constancy[m]`` the selected level stays in the m-th set; inside ``levels[m]`` every
    level of that set returns the same class. The radius is max over m of their minimum.
    """
    return max((min(a, b) for a, b in zip(constancy, levels, strict=True)), default=0.0)
