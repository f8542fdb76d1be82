"""Remainder of Stirling's formula: log-gamma without its large, cancelling part."""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaln

_SERIES_FROM = 16.0


def stirling_remainder(x: ArrayLike) -> NDArray[np.float64]:
    """ln Gamma(x) - [ (x - 1/2) ln x - x + ln(2 pi)/2 ].

    Parameters
    ----------
    x : array_like of float64
        Positive.

    Returns
    -------
    ndarray of float64
        Absolute error below 2e-14; near 1/(12 x) for large x.
    """
    x = np.asarray(x, dtype=np.float64)
    small = np.minimum(x, _SERIES_FROM)
    direct = gammaln(small) - ((small - 0.5) * np.log(small) - small + 0.5 * math.log(2 * math.pi))
    y = 1.0 / np.maximum(x, _SERIES_FROM)
    z = y * y
    series = y * (1 / 12 - z * (1 / 360 - z * (1 / 1260 - z * (1 / 1680 - z * (1 / 1188)))))
    return np.asarray(np.where(x < _SERIES_FROM, direct, series), dtype=np.float64)
