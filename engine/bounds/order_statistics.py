"""Order statistics that bound a quantile: how far down or up the sorted votes one must go.

With n independent values of one distribution sorted ascending, X_(1) <= .. <= X_(n), and
q(p) = inf{y : P(X <= y) >= p}:

    k_lo = max{k : P(Bin(n, p) >= k) >= 1 - alpha}        P( X_(k_lo) > q(p) ) <= alpha
    k_up = min{k : P(Bin(n, p) <= k - 1) >= 1 - alpha}    P( X_(k_up) < q(p) ) <= alpha

Median smoothing (Chiang et al., arXiv 2007.03730) takes p = Phi(-e / tau) for the lower and
p = Phi(e / tau) for the upper bound on the median at any point within distance e.
"""

from collections.abc import Callable

import scipy

from dualsmooth.engine.checks import closed_unit, error_level, positive_integer

# SciPy's tails are within 5e-8 of the truth, relatively, up to n = 1e6; a tail this close to alpha
# counts as too large.
_TAIL_MARGIN = 1.0 - 1e-6


def order_statistic_lower(n: int, p: float, alpha: float) -> int | None:
    """Index of the order statistic that is a lower bound of the p-quantile.

    k_lo = max{k : P(Bin(n, p) >= k) >= 1 - alpha}.

    Parameters
    ----------
    n : int
        Number of values, fixed beforehand.
    p : float
        Quantile, in [0, 1].
    alpha : float
        Error probability of this one side, in (0, 1).

    Returns
    -------
    int or None
        1-based index into the values sorted ascending, or None if no value is low enough.
    """
    n, p, alpha = _checked(n, p, alpha)
    # P(Bin(n, p) <= k - 1) grows with k and must stay within alpha.
    good = _last(
        lambda k: scipy.special.betaincc(k, n - k + 1, p) <= alpha * _TAIL_MARGIN, 0, n + 1
    )
    return good if good >= 1 else None


def order_statistic_upper(n: int, p: float, alpha: float) -> int | None:
    """Index of the order statistic that is an upper bound of the p-quantile.

    k_up = min{k : P(Bin(n, p) <= k - 1) >= 1 - alpha}. It exists only if n >= ln(alpha) / ln(p).

    Parameters
    ----------
    n, p, alpha
        As for `order_statistic_lower`.

    Returns
    -------
    int or None
        1-based index into the values sorted ascending, or None if no value is high enough.
    """
    n, p, alpha = _checked(n, p, alpha)
    # P(Bin(n, p) >= k) falls with k and must come down to alpha.
    good = _last(lambda k: scipy.special.betainc(k, n - k + 1, p) <= alpha * _TAIL_MARGIN, n + 1, 0)
    return good if good <= n else None


def _last(holds: Callable[[int], bool], good: int, bad: int) -> int:
    """The index nearest to ``bad`` at which a condition still holds, by bisection."""
    while abs(good - bad) > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if holds(middle) else (good, middle)
    return good


def _checked(n: int, p: float, alpha: float) -> tuple[int, float, float]:
    return positive_integer("n", n), closed_unit("p", p), error_level("alpha", alpha)
