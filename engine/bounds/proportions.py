"""Binomial statistics that no certificate rests on: upper bounds, tables, and PREDICT's test."""

from functools import lru_cache

import numpy as np
import scipy
from numpy.typing import ArrayLike

from dualsmooth.engine.bounds.binomial import (
    ULP,
    Floats,
    check_counts,
    clopper_pearson_lower,
    corrected,
    slack_of,
)
from dualsmooth.engine.checks import LEAST_LEVEL, error_level
from dualsmooth.engine.errors import ArgumentError


def clopper_pearson_upper(k: ArrayLike, n: ArrayLike, alpha: float) -> float | Floats:
    """One-sided exact upper bound of a binomial proportion (Clopper and Pearson, 1934).

    U solves P(Bin(n, U) <= k) = alpha, so P(U < p) <= alpha for every true p. Closed forms:
    1 at k = n and 1 - alpha^(1/n) at k = 0.

    Parameters
    ----------
    k, n, alpha
        As for `clopper_pearson_lower`.

    Returns
    -------
    float or ndarray of float64
        In (0, 1], rounded up.
    """
    successes, trials = check_counts(k, n)
    bound = _upper(successes, trials, error_level("alpha", alpha))
    return float(bound) if np.ndim(k) == 0 and np.ndim(n) == 0 else bound


def _upper(successes: Floats, trials: Floats, level: float) -> Floats:
    slack = slack_of(trials, level)
    with np.errstate(invalid="ignore"):
        bound = scipy.special.betainccinv(
            successes + 1, trials - successes, level * (1.0 - 2.0 * slack)
        )
    none_of_them = -np.expm1(np.log(level) / trials) * (1.0 + 4.0 * ULP)
    bound = np.where(successes == 0, none_of_them, bound)
    bound = np.where(successes == trials, 1.0, np.minimum(np.nextafter(bound, 2.0), 1.0))

    def tail(p: Floats) -> Floats:
        return np.asarray(
            scipy.special.betaincc(successes + 1, np.maximum(trials - successes, 1), p)
        )

    inside = (successes > 0) & (successes < trials)
    return corrected(bound, tail, level * (1.0 - slack), 1.0, inside)


@lru_cache(maxsize=32)
def clopper_pearson_table(n: int, alpha: float) -> Floats:
    """Lower bounds for every k = 0 .. n, computed once per (n, alpha) and read-only.

    About half a second at n = 100,000; looking up a bound is then one index.

    Parameters
    ----------
    n, alpha
        As for `clopper_pearson_lower`.

    Returns
    -------
    ndarray of float64, shape (n + 1,)
        Non-decreasing.
    """
    table = np.asarray(clopper_pearson_lower(np.arange(n + 1), n, alpha))
    table = np.minimum.accumulate(table[::-1])[::-1].copy()
    table.flags.writeable = False
    return table


def majority_p_value(first: int, second: int) -> float:
    """Two-sided binomial p-value that two classes are equally likely.

    The test of PREDICT (Hung and Fithian, 2019; Cohen et al., 2019): return the top class if the
    p-value of its count against the runner-up's is at most alpha.

    Parameters
    ----------
    first, second : int
        Votes of the top class and of the runner-up, first >= second >= 0.

    Returns
    -------
    float
        In [0, 1], rounded up; 1 when there are no votes.
    """
    if not first >= second >= 0:
        raise ArgumentError("first", "must be >= second >= 0", (first, second))
    if first == second:
        return 1.0
    value = float(scipy.special.betainc(first, second + 1, 0.5))
    slack = slack_of(np.array(float(first)), max(value, LEAST_LEVEL))
    return min(1.0, 2.0 * value * (1.0 + float(slack)))
