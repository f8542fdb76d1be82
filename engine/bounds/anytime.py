"""Lower confidence bound that may be read after any number of votes."""

import math

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from dualsmooth.engine.bounds.binomial import check_counts
from dualsmooth.engine.checks import error_level

Array = NDArray[np.float64]
_LOWEST_LOGIT = -60.0
_MOST_STEPS = 200
_STEP = 1e-11

# Rounding moves the root by less than 1e-12 (1 - L) [measured against 38 digits, n <= 1e6].
_ROUND_DOWN = 1e-10


def anytime_lower(k: ArrayLike, n: ArrayLike, alpha: float) -> Array:
    """One-sided beta-binomial mixture bound, valid at all sample sizes at once.

    L_n = inf{ p : M_n(p) < 1/alpha } with a = b = 1/2 and

        M_n(p) = B(a+k, b+n-k) P(Beta(a+k, b+n-k) > p) / [ B(a,b) P(Beta(a,b) > p) p^k (1-p)^(n-k) ]

    At the true p, M_n is a mixture of likelihood ratios over larger probabilities: a martingale of
    mean 1. Ville's inequality gives P( L_n > p for some n ) <= alpha under any stopping rule and
    for all radii at once; the running maximum of L_n is valid too.

    Parameters
    ----------
    k, n : array_like of int, broadcastable
        Successes and votes so far, 0 <= k <= n, n >= 1.
    alpha : float
        Error probability over all n together, in (0, 1).

    Returns
    -------
    ndarray of float64, broadcast shape
        In [0, 1), rounded down; 0 where k = 0. Zero-dimensional for scalars.
    """
    alpha = error_level("alpha", alpha)
    successes, votes = check_counts(k, n)
    bound = np.zeros(successes.shape)
    some = successes > 0
    if np.any(some):
        x = _root(successes[some], votes[some], alpha)
        bound[some] = np.maximum(
            scipy.special.expit(x) - _ROUND_DOWN * scipy.special.expit(-x), 0.0
        )
    return bound


def _root(k: Array, n: Array, alpha: float) -> Array:
    """Logit of a p with M_n(p) >= 1/alpha, close below the root; k >= 1."""
    low = np.full(k.shape, _LOWEST_LOGIT)
    # M falls in p and is at most 1 at p = k/n.
    high = scipy.special.logit(np.minimum(k / n, 1.0 - 1e-16))
    x = low
    moving = np.ones(k.shape, dtype=bool)  # a found root stays put: no entry depends on its mates
    for _ in range(_MOST_STEPS):
        value, slope = _log_mixture(x, k, n)
        value = value + math.log(alpha)
        low, high = np.where(value >= 0.0, x, low), np.where(value >= 0.0, high, x)
        newton = x - value / slope
        inside = (newton >= low) & (newton <= high)
        better = np.where(inside, newton, 0.5 * (low + high))
        x, moving = np.where(moving, better, x), moving & (np.abs(better - x) > _STEP)
        if not np.any(moving):
            break
    below = x - _STEP
    reached = _log_mixture(below, k, n)[0] + math.log(alpha) >= 0.0
    return np.where(reached, below, low)


def _log_mixture(x: Array, k: Array, n: Array) -> tuple[Array, Array]:
    """ln M_n at p = expit(x) and its derivative in x."""
    p, q = scipy.special.expit(x), scipy.special.expit(-x)
    a, b, s = k + 0.5, n - k + 0.5, n + 1.0
    # ln[ B(a, b) / (p^k q^(n-k)) ] by Stirling, in the ratios a/(s p) and b/(s q) close to 1.
    gap = np.where(p < 0.5, a - s * p, s * q - b)
    ratio = (
        k * np.log1p(gap / (s * p))
        + (n - k) * np.log1p(-gap / (s * q))
        + 0.5 * np.log(2.0 * np.pi / s)
        + (stirling_remainder(a) + stirling_remainder(b) - stirling_remainder(s))
    )
    above = scipy.special.betainc(b, a, q)
    prior = (2.0 / np.pi) * np.arctan(np.exp(-0.5 * x))  # P(Beta(1/2, 1/2) > p), exact near p = 1
    value = ratio + np.log(above / (np.pi * prior))
    width = np.sqrt(p * q)
    slope = n * p - k - width * np.exp(-ratio) / above + width / (np.pi * prior)
    return value, slope


_SERIES_FROM = 16.0


def stirling_remainder(x: ArrayLike) -> NDArray[np.float64]:
    """ln Gamma(x) - [(x - 1/2) ln x - x + ln(2 pi)/2] for x > 0, absolute error below 2e-14."""
    x = np.asarray(x, dtype=np.float64)
    small = np.minimum(x, _SERIES_FROM)
    direct = scipy.special.gammaln(small) - (
        (small - 0.5) * np.log(small) - small + 0.5 * math.log(2 * math.pi)
    )
    y = 1.0 / np.maximum(x, _SERIES_FROM)
    z = y * y
    series = y * (1 / 12 - z * (1 / 360 - z * (1 / 1260 - z * (1 / 1680 - z * (1 / 1188)))))
    return np.asarray(np.where(x < _SERIES_FROM, direct, series), dtype=np.float64)
