"""Sequential tests on a stream of votes: exact group-sequential plans for a fixed radius."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from dualsmooth.engine.bounds.live_counts import LiveCounts
from dualsmooth.engine.checks import closed_unit, error_level, integers, non_negative, open_unit
from dualsmooth.engine.errors import ArgumentError

_DEFAULT_FIRST_LOOK = 100
# Covers the rounding of a recursion over thousands of looks, below 1e-10 of alpha.
_LEVEL_MARGIN = 1.0 - 1e-9


@dataclass(frozen=True, slots=True)
class GroupSequentialPlan:
    """Thresholds of a group-sequential test of P(vote for the class) <= p0 = Phi(r / sigma).

    Certify at the first look j with K_j >= thresholds[j], where K_j counts the successes among the
    first looks[j] votes; ``looks[j] + 1`` means that look j cannot certify. Under every p <= p0 the
    plan errs with probability at most alpha: ``cumulative_alpha`` is what is allowed up to each
    look, ``spent`` the exact error at p0. ``futility`` stops uncertified when K_j <= futility[j],
    -1 meaning never; it is not binding: the thresholds hold whether it is obeyed or not.
    """

    p0: float
    alpha: float
    looks: tuple[int, ...]
    thresholds: tuple[int, ...]
    cumulative_alpha: tuple[float, ...]
    spent: tuple[float, ...]
    futility: tuple[int, ...] | None = None


def group_sequential_plan(
    p0: float,
    looks: Sequence[int],
    alpha: float,
    spending: Sequence[float] | None = None,
    *,
    beta: float | None = None,
) -> GroupSequentialPlan:
    """Exact one-sided test of p <= p0 with several looks.

    c_j = min{ c : P_{p0}(K_i < c_i for i < j, K_j >= c) <= s_j - used_{j-1} }, where used_j is the
    exact error so far. Under any p <= p0 the error is at most alpha, by coupling in p.

    Parameters
    ----------
    p0 : float
        Probability to beat, in (0, 1).
    looks : sequence of int
        Votes at each look, >= 1 and strictly increasing; they must be the looks really made.
    alpha : float
        Error probability of the whole plan, in (0, 1).
    spending : sequence of float, optional
        Cumulative error s_j allowed at each look: non-decreasing, >= 0, at most alpha.
        Default: s_j = (alpha/2) (1 + ln(n_j/100)) / (1 + ln(N/100)), s_J = alpha, for which the
        first of several looks must be >= 100.
    beta : float, optional
        Also make futility thresholds: the mirrored plan, which stops a stream with p >= p0 with
        probability at most ``beta``. Its spending is in proportion.
    """
    p0, alpha = open_unit("p0", p0), error_level("alpha", alpha)
    votes = _checked_looks(looks)
    if spending is None:
        allowed = _default_spending(votes, alpha)
    else:
        allowed = _checked_spending(spending, votes, alpha)
    thresholds, spent = _boundary(p0, votes, allowed)
    futility = None
    if beta is not None:
        scale = open_unit("beta", beta) / alpha
        mirrored, _ = _boundary(1.0 - p0, votes, tuple(scale * level for level in allowed))
        futility = tuple(n - c for n, c in zip(votes, mirrored, strict=True))
    return GroupSequentialPlan(p0, alpha, votes, thresholds, allowed, spent, futility)


def crossing_probability(thresholds: Sequence[int], looks: Sequence[int], p: float) -> float:
    """Exact probability that the count reaches its threshold at some look.

    P(K_j >= thresholds[j] for some j) for a true probability p, rounded up by less than 1e-19 per
    look. A threshold above the look's votes means never.
    """
    p, votes = closed_unit("p", p), _checked_looks(looks)
    stops = integers("thresholds", np.asarray(thresholds))
    if stops.shape != (len(votes),):
        raise ArgumentError("thresholds", "must have one entry per look", stops.shape)
    law = LiveCounts(p)
    return math.fsum(law.advance(n) + law.stop(int(c)) for n, c in zip(votes, stops, strict=True))


def _boundary(
    p0: float, looks: tuple[int, ...], allowed: tuple[float, ...]
) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Least thresholds whose cumulative error stays within ``allowed``, and that error."""
    law, used = LiveCounts(p0), 0.0
    thresholds, spent = [], []
    for votes, limit in zip(looks, allowed, strict=True):
        used += law.advance(votes)
        threshold = law.least_threshold(limit * _LEVEL_MARGIN - used)
        used += law.stop(threshold)
        thresholds.append(threshold)
        spent.append(used)
    return tuple(thresholds), tuple(spent)


def _checked_looks(looks: Sequence[int]) -> tuple[int, ...]:
    votes = integers("looks", np.asarray(looks))
    if votes.ndim != 1 or votes.size == 0 or votes[0] < 1 or np.any(np.diff(votes) < 1):
        raise ArgumentError("looks", "must be strictly increasing integers >= 1", looks)
    return tuple(int(n) for n in votes)


def _default_spending(looks: tuple[int, ...], level: float) -> tuple[float, ...]:
    if len(looks) > 1 and looks[0] < _DEFAULT_FIRST_LOOK:
        rule = f"must start at >= {_DEFAULT_FIRST_LOOK} for the default spending"
        raise ArgumentError("looks", rule, looks[0], "look later or pass spending")
    growth = [1.0 + math.log(n / _DEFAULT_FIRST_LOOK) for n in looks[:-1]]
    last = 1.0 + math.log(looks[-1] / _DEFAULT_FIRST_LOOK)
    return (*(0.5 * level * g / last for g in growth), level)


def _checked_spending(
    spending: Sequence[float], looks: tuple[int, ...], alpha: float
) -> tuple[float, ...]:
    levels = tuple(non_negative("spending", s) for s in spending)
    if len(levels) != len(looks):
        raise ArgumentError("spending", "must have one entry per look", len(levels))
    if any(b < a for a, b in pairwise(levels)) or levels[-1] > alpha:
        raise ArgumentError("spending", "must not decrease and must end at most at alpha", levels)
    return levels
