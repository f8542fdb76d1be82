"""Certified L2 radii from probability bounds, always rounded down.

Distances are in input units: pixels on [0, 1].
"""

import math
from collections.abc import Sequence

from scipy import special

from dualsmooth.engine.checks import closed_unit, positive
from dualsmooth.engine.two_scale import semielastic_radius, two_scale_lower_bound

__all__ = ["gaussian_radius", "interval_radius", "semielastic_radius", "two_scale_lower_bound"]

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
        Noise standard deviation, finite and > 0.

    Returns
    -------
    float
        L2 radius; 0.0 when nothing is certified, infinite only for p_lower = 1.

    Raises
    ------
    ArgumentError
        If an argument is outside its range or NaN.
    """
    z = float(special.ndtri(closed_unit("p_lower", p_lower)))
    positive("sigma", sigma)
    safe = z - QUANTILE_ERROR * (1.0 + abs(z)) if math.isfinite(z) else z
    if not safe > 0.0:
        return 0.0
    return math.nextafter(sigma * safe, 0.0) if math.isfinite(safe) else math.inf


def interval_radius(constancy: Sequence[float], levels: Sequence[float]) -> float:
    """Radius of a chain of growing sets of noise levels (theorem C1).

    Inside ``constancy[m]`` the selected level stays in the m-th set; inside ``levels[m]`` every
    level of that set returns the same class. The radius is max over m of their minimum.

    Parameters
    ----------
    constancy, levels : sequence of float
        One radius per set, sets growing.

    Returns
    -------
    float
        0.0 for an empty chain.
    """
    return max((min(a, b) for a, b in zip(constancy, levels, strict=True)), default=0.0)
