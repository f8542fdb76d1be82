"""Gaussian mass of a ball around an off-center point, stable when the ball is nearly a half-space.

    V(t; kap, b) = P( kap (S - nu + w^2) + 2 b w <= t ),   w ~ N(0, 1), S ~ chi^2_nu independent

For kap > 0 the event is a ball of radius^2 nu + t/kap + (b/kap)^2 around w = -b/kap. As kap -> 0
both diverge, so V is one Gauss-Legendre sum in the polar angle of the ball: over w where the
spread of S decides, over sqrt(S) where b decides. Both integrands are smooth for every nu >= 1,
and at nu = 0 the event is an interval. Against 40-digit values the error is below 1e-13.
"""

import math
from functools import cache

import numpy as np
import scipy
from numpy.typing import NDArray

from dualsmooth.engine.bounds.anytime import stirling_remainder

Array = NDArray[np.float64]

_NODES = 200
# Standard normal mass beyond 14 and chi mass beyond 12 around its center: below 1e-30.
_NORMAL_REACH = 14.0
_CHI_REACH = 12.0


def ball_mass(t: float, kap: float, b: float, nu: int, *, below: bool) -> float:
    """Probability V(t; kap, b) or its complement, each as a sum of positive terms.

    ``t``, ``kap`` and ``b`` are threshold, curvature (not 0, either sign) and slope (>= 0) of the
    quadratic form, ``nu`` the degrees of freedom of S. ``below`` asks for P(<= t), else P(> t): ask
    for the smaller one to keep its digits.
    """
    if kap < 0.0:
        return ball_mass(-t, -kap, b, nu, below=not below)
    # kap (S + (w + b/kap)^2) <= t + kap nu + b^2/kap: a ball of this squared radius around -b/kap.
    squared = (t + kap * nu) / kap + (b / kap) ** 2
    if not squared > 0.0:
        return 0.0 if below else 1.0
    if nu == 0:
        return float(_between_roots(np.array([t]), kap, b, below)[0])
    if kap * math.sqrt(2.0 * nu) > 2.0 * b:
        return _sum_over_normal(t, kap, b, nu, math.sqrt(squared), below)
    return _sum_over_chi(t, kap, b, nu, math.sqrt(squared), below)


def _between_roots(m: Array, kap: float, b: float, below: bool) -> Array:
    """Normal mass of {kap w^2 + 2 b w <= m}, or of its complement, stable as kap -> 0."""
    reach = b + np.sqrt(np.maximum(b**2 + kap * m, 0.0))
    high, low = m / reach, -reach / kap
    mass = (
        scipy.special.ndtr(high) - scipy.special.ndtr(low)
        if below
        else scipy.special.ndtr(-high) + scipy.special.ndtr(low)
    )
    return np.asarray(mass, dtype=np.float64)


def _sum_over_normal(t: float, kap: float, b: float, nu: int, radius: float, below: bool) -> float:
    """Integrate over w; the distribution of S given w is explicit."""
    center = -b / kap
    low, high = max(-_NORMAL_REACH, center - radius), min(_NORMAL_REACH, center + radius)
    if not low < high:
        return 0.0 if below else 1.0
    angle, weight = _gauss_legendre(
        math.asin(max((low - center) / radius, -1.0)), math.asin(min((high - center) / radius, 1.0))
    )
    w = center + radius * np.sin(angle)
    weight = weight * radius * np.cos(angle) * np.exp(-0.5 * w**2) / math.sqrt(2.0 * math.pi)
    half = 0.5 * np.maximum(nu + (t - 2.0 * b * w) / kap - w**2, 0.0)
    if below:
        return float(weight @ scipy.special.gammainc(0.5 * nu, half))
    return float(weight @ scipy.special.gammaincc(0.5 * nu, half)) + float(
        scipy.special.ndtr(low) + scipy.special.ndtr(-high)
    )


def _sum_over_chi(t: float, kap: float, b: float, nu: int, radius: float, below: bool) -> float:
    """Integrate over r = sqrt(S); the normal mass given r is explicit."""
    low = max(math.sqrt(nu) - _CHI_REACH, 0.0)
    high = min(math.sqrt(nu) + _CHI_REACH, radius)
    if not low < high:
        return 0.0 if below else 1.0
    angle, weight = _gauss_legendre(math.asin(low / radius), math.asin(high / radius))
    r = radius * np.sin(angle)
    weight = weight * radius * np.cos(angle) * _chi_density(r, nu)
    mass = float(weight @ _between_roots(t - kap * (r**2 - nu), kap, b, below))
    return mass if below else mass + float(scipy.special.gammaincc(0.5 * nu, 0.5 * radius**2))


def _chi_density(r: Array, nu: int) -> Array:
    """Density of the chi distribution, scaled around sqrt(nu) so that large nu cancels nothing."""
    half = 0.5 * nu
    constant = 0.5 * math.log(half / (2.0 * math.pi)) - float(stirling_remainder(half))
    y = r / math.sqrt(nu) - 1.0
    exponent = math.log(2.0) + constant - nu * (y + 0.5 * y**2 - np.log1p(y)) - np.log(r)
    return np.asarray(np.exp(exponent), dtype=np.float64)


def _gauss_legendre(low: float, high: float) -> tuple[Array, Array]:
    nodes, weights = _unit_nodes()
    return 0.5 * (low + high) + 0.5 * (high - low) * nodes, 0.5 * (high - low) * weights


@cache
def _unit_nodes() -> tuple[Array, Array]:
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    return nodes, weights
