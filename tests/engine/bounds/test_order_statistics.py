import json
from fractions import Fraction
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, norm

from dualsmooth.engine.bounds.order_statistics import order_statistic_lower, order_statistic_upper
from dualsmooth.engine.errors import ArgumentError

REFERENCE = json.loads((Path(__file__).parents[2] / "reference" / "idrs.json").read_text())
CASES: list[dict[str, Any]] = REFERENCE["order_statistics"]
MARGIN = Fraction(1) - Fraction(1, 500_000)


def at_least(k: int, n: int, p: float) -> Fraction:
    """P(Bin(n, p) >= k) in exact rational arithmetic."""
    q = Fraction(p)
    return sum((comb(n, i) * q**i * (1 - q) ** (n - i) for i in range(k, n + 1)), Fraction(0))


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c['n']}-{c['eps_over_tau']}")
def test_indices_agree_with_reference(case: dict[str, Any]) -> None:
    n, alpha = case["n"], case["alpha_each_side"]
    assert order_statistic_lower(n, case["p_lo"], alpha) == case["k_lo_1indexed"]
    assert order_statistic_upper(n, case["p_hi"], alpha) == case["k_up_1indexed"]


SMALL = given(n=st.integers(1, 12), p=st.floats(0.0, 1.0), alpha=st.floats(1e-6, 0.999))
QUICK = settings(deadline=None, derandomize=True, max_examples=300)


@SMALL
@QUICK
def test_lower_index_is_sound_and_the_next_one_is_not(n: int, p: float, alpha: float) -> None:
    k = order_statistic_lower(n, p, alpha) or 0
    # X_(k) > q(p) needs fewer than k values at or below the quantile.
    assert k == 0 or 1 - at_least(k, n, p) <= Fraction(alpha)
    assert k == n or 1 - at_least(k + 1, n, p) > Fraction(alpha) * MARGIN


@SMALL
@QUICK
def test_upper_index_is_sound_and_the_one_before_is_not(n: int, p: float, alpha: float) -> None:
    k = order_statistic_upper(n, p, alpha) or n + 1
    # X_(k) < q(p) needs at least k values below the quantile.
    assert k == n + 1 or at_least(k, n, p) <= Fraction(alpha)
    assert k == 1 or at_least(k - 1, n, p) > Fraction(alpha) * MARGIN


@pytest.mark.parametrize("case", [c for c in CASES if c["k_lo_1indexed"]], ids=lambda c: str(c))
def test_reading_the_index_as_zero_based_breaks_the_level(case: dict[str, Any]) -> None:
    n, alpha = case["n"], case["alpha_each_side"]
    lower = order_statistic_lower(n, case["p_lo"], alpha)
    upper = order_statistic_upper(n, case["p_hi"], alpha)
    assert lower is not None
    assert upper is not None
    miss_low = [binom.cdf(k - 1, n, case["p_lo"]) for k in (lower, lower + 1)]
    miss_high = [binom.sf(k - 1, n, case["p_hi"]) for k in (upper, upper - 1)]
    assert miss_low[0] <= alpha < miss_low[1]
    assert miss_high[0] <= alpha < miss_high[1]


@pytest.mark.parametrize(("reach", "least"), [(1, 44), (2, 331), (3, 5627), (4, 239_991)])
def test_votes_needed_for_a_finite_bound(reach: int, least: int) -> None:
    p = float(norm.cdf(reach))
    assert order_statistic_upper(least, p, 5e-4) == least
    assert order_statistic_upper(least - 1, p, 5e-4) is None


def test_published_indices_at_ten_thousand_votes() -> None:
    assert order_statistic_lower(10_000, float(norm.cdf(-1)), 5e-4) == 1467
    assert order_statistic_upper(10_000, float(norm.cdf(1)), 5e-4) == 8534


def test_certain_and_impossible_quantiles() -> None:
    assert order_statistic_lower(10, 0.0, 0.1) is None
    assert order_statistic_lower(10, 1.0, 0.1) == 10
    assert order_statistic_upper(10, 0.0, 0.1) == 1
    assert order_statistic_upper(10, 1.0, 0.1) is None


def test_bounds_cover_the_median_of_sampled_values() -> None:
    n, alpha, runs = 60, 0.05, 4000
    lower, upper = order_statistic_lower(n, 0.5, alpha), order_statistic_upper(n, 0.5, alpha)
    assert lower is not None
    assert upper is not None
    values = np.sort(np.random.default_rng(0).standard_normal((runs, n)), axis=1)
    allowed = binom.isf(1e-6, runs, alpha)
    assert np.sum(values[:, lower - 1] > 0) <= allowed
    assert np.sum(values[:, upper - 1] < 0) <= allowed


@pytest.mark.parametrize("function", [order_statistic_lower, order_statistic_upper])
@pytest.mark.parametrize(
    ("arguments", "argument"),
    [
        ((0, 0.5, 0.1), "n"),
        ((10.0, 0.5, 0.1), "n"),
        ((True, 0.5, 0.1), "n"),
        ((10, float("nan"), 0.1), "p"),
        ((10, 1.1, 0.1), "p"),
        ((10, 0.5, float("nan")), "alpha"),
        ((10, 0.5, 0.0), "alpha"),
        ((10, 0.5, float("inf")), "alpha"),
        ((10, "0.5", 0.1), "p"),
    ],
)
def test_bad_arguments_are_named(function: Any, arguments: Any, argument: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        function(*arguments)
    assert caught.value.argument == argument
