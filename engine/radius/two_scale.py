"""Neyman-Pearson bound between two Gaussians whose centers and noise levels both differ.

    L(p; R, s0, s1, d) = inf{ P_{N(x1, s1^2 I)}(A) : P_{N(x0, s0^2 I)}(A) >= p },  |x1 - x0| = R

(Sukenik et al., arXiv 2110.05365). With k = ln(s1 / s0), nu = d - 1, and independent w ~ N(0, 1),
S ~ chi^2_nu, the worst set is {kap (S - nu + w^2) + 2 b w <= t}: the inside (s1 > s0) or outside
(s1 < s0) of a ball. Its mass V(t; kap, b) gives

    V(t0; kap0, b0) = p,    kap0 = -expm1(-2k),  b0 = s0 R / s1^2
    L = V(t1; kap1, b1),    kap1 = expm1(2k),    b1 = s1 R / s0^2
    t1 = t0 - 4 sinh(k)^2 nu - (R / s1)^2 - (R / s0)^2

The textbook form by non-central chi-square distributions turns into NaN as s1 -> s0; V stays
accurate. Cohen's formula Phi(z(p) - R/s0) is used at s1 == s0 only: just off equality in
high dimension it is too high, so it would be unsound.
"""

import math
from collections.abc import Callable
from functools import cache

import numpy as np
import scipy

from dualsmooth.engine.checks import closed_unit, non_negative, positive, positive_integer
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.radius.ball_mass import ball_mass

_ROUND_DOWN = 1e-10
SCALE_ERROR = 2.0**-22
"""Bounds how far rounding two noise levels to float32 moves the logarithm of their ratio."""


def noise_scale(sigma: float) -> float:
    """The scale that radii are in: sigma, or its float32 value if that is smaller.

    Gaussian noise is scaled in float32, integer noise by thresholds of sigma itself.
    """
    with np.errstate(over="ignore"):
        return min(positive("sigma", sigma), float(np.float32(sigma)))


def two_scale_lower_bound(
    p: float, distance: float, sigma0: float, sigma1: float, dim: int
) -> float:
    """Least probability at another point and noise level, given the probability at this one.

    The same base classifier must be deployed at both levels. {sigma1 : L >= 1/2} is an interval
    that contains sigma0, and L falls with the distance: to show L > 1/2 for all levels in
    [lo, hi] and all distances up to R, both ends at distance R suffice (one end does not).

    Parameters
    ----------
    p : float
        Probability, or a lower confidence bound of it, at level ``sigma0``, in [0, 1).
    distance : float
        L2 distance between the two points, input units, >= 0.
    sigma0, sigma1 : float
        Noise standard deviations per pixel, > 0, same units as ``distance``.
    dim : int
        Number of input components, >= 1.

    Returns
    -------
    float
        Lower bound of L, float64, rounded down by 1e-10; 0 where nothing can be shown.
    """
    p, dim = _probability(p), positive_integer("dim", dim)
    distance = non_negative("distance", distance)
    sigma0, sigma1 = positive("sigma0", sigma0), positive("sigma1", sigma1)
    gap = (sigma1 - sigma0) / sigma0
    # The difference is exact for close levels, so log1p keeps every digit of a tiny log-ratio.
    log_ratio = math.log1p(gap) if abs(gap) < 0.5 else math.log(sigma1) - math.log(sigma0)
    return _lower_bound(p, distance / sigma0, log_ratio, dim)


def semielastic_radius(p: float, sigma: float, rate: float, dim: int, error: float = 0.0) -> float:
    """Certified radius when the noise level may drift with the distance.

    sup{ R : L > 1/2 at distance R for both sigma e^{+rate R} and sigma e^{-rate R} }, valid when
    |ln sigma(x) - ln sigma(y)| <= rate |x - y| holds everywhere. The intervals are nested in R, so
    the two ends decide.

    Parameters
    ----------
    p : float
        Lower confidence bound of the class probability at level ``sigma``, in [0, 1).
    sigma : float
        Noise standard deviation per pixel at the certified point, > 0.
    rate : float
        Semi-elasticity of sigma per unit of L2 distance, >= 0; 0 gives sigma * z(p).
    dim : int
        Number of input components, >= 1.
    error : float
        What ln sigma may be off at any distance, by rounding (`SCALE_ERROR` for float32).

    Returns
    -------
    float
        Radius, L2, input units, float64, rounded down; 0 where nothing is certified.
    """
    p, sigma = _probability(p), positive("sigma", sigma)
    rate, dim = non_negative("rate", rate), positive_integer("dim", dim)

    def excess(delta: float) -> float:
        drift = rate * sigma * delta + error
        ends = (_lower_bound(p, delta, drift, dim), _lower_bound(p, delta, -drift, dim))
        return min(ends) - 0.5

    if not excess(0.0) > 0.0:
        return 0.0
    guess = float(scipy.special.ndtri(p)) / math.sqrt(1.0 + 2.0 * dim * (rate * sigma) ** 2)
    root = math.exp(_root(lambda log_delta: -excess(math.exp(log_delta)), math.log(guess), 1e-12))
    for shrink in (1e-11, 1e-9, 1e-6):  # the root is known to 1e-12; what is returned was checked
        delta = root * (1.0 - shrink)
        if excess(delta) > 0.0:
            return float(np.nextafter(sigma * delta, 0.0))
    return 0.0


def _probability(p: object) -> float:
    number = closed_unit("p", p)
    if number == 1.0:
        raise ArgumentError("p", "must be in [0, 1)", p, "a confidence bound is never 1")
    return number


def _lower_bound(p: float, delta: float, log_ratio: float, dim: int) -> float:
    """L rounded down, for delta = R / s0 and log_ratio = ln(s1 / s0)."""
    # Outside these limits L is not worth its digits; 0 is always a valid lower bound.
    if not (p > _ROUND_DOWN and delta < 1e3 and abs(log_ratio) < 20.0):
        return 0.0
    if log_ratio == 0.0:
        mass = float(scipy.special.ndtr(scipy.special.ndtri(p) - delta))
    else:
        nu, inverse = dim - 1, math.exp(-2.0 * log_ratio)
        t0 = _solve(p, -math.expm1(-2.0 * log_ratio), delta * inverse, nu)
        t1 = t0 - 4.0 * math.sinh(log_ratio) ** 2 * nu - delta**2 * (1.0 + inverse)
        kap1, b1 = math.expm1(2.0 * log_ratio), delta * math.exp(log_ratio)
        mass = ball_mass(t1, kap1, b1, nu, below=True)
    return mass - _ROUND_DOWN if mass > _ROUND_DOWN else 0.0


def _solve(p: float, kap: float, b: float, nu: int) -> float:
    """The t with V(t; kap, b) = p, found on the logarithm of the smaller tail."""
    below = p <= 0.5
    target = math.log(p if below else 1.0 - p)
    scale = math.sqrt(2.0 * kap**2 * (nu + 1) + 4.0 * b**2)

    def miss(u: float) -> float:
        tail = ball_mass(kap + scale * u, kap, b, nu, below=below)
        difference = math.log(max(tail, 1e-300)) - target
        return difference if below else -difference

    # Cornish-Fisher: the normal quantile, corrected for skewness.
    z = float(scipy.special.ndtri(p))
    skewness = (8.0 * kap**3 * (nu + 1) + 24.0 * kap * b**2) / scale**3
    return kap + scale * _root(miss, z + (z * z - 1.0) * skewness / 6.0, 1e-14)


def _root(increasing: Callable[[float], float], guess: float, tolerance: float) -> float:
    """Root of an increasing function by bracketing from a guess."""
    function = cache(increasing)
    near, step = guess, -0.02 if function(guess) > 0.0 else 0.02
    far = near + step
    while function(far) * step < 0.0:
        step *= 2.0
        near, far = far, far + step
    return float(scipy.optimize.brentq(function, near, far, xtol=tolerance, rtol=1e-14))
