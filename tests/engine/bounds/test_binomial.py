import json
import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

from dualsmooth.engine.bounds.anytime import anytime_lower
from dualsmooth.engine.bounds.binomial import clopper_pearson_lower
from dualsmooth.engine.bounds.order_statistics import order_statistic_lower, order_statistic_upper
from dualsmooth.engine.bounds.proportions import (
    clopper_pearson_table,
    clopper_pearson_upper,
    majority_p_value,
)
from dualsmooth.engine.bounds.sequential import group_sequential_plan
from dualsmooth.engine.budget import Budget
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.methods.fixed import FixedSmoothing
from dualsmooth.engine.models.network import OneNetwork
from dualsmooth.engine.settings import Settings

REFERENCE = Path(__file__).parents[2] / "reference"
CASES = json.loads((REFERENCE / "statistics.json").read_text())["clopper_pearson"]


def test_lower_bounds_match_forty_digits_and_never_exceed_them() -> None:
    for case in CASES:
        bound = clopper_pearson_lower(case["k"], case["n"], float(case["alpha"]))
        exact = Fraction(case["lower"])
        assert isinstance(bound, float)
        assert 0 <= exact - Fraction(bound) <= Fraction(1e-12) * exact, case
        gap = Fraction(case["one_minus_lower"])
        assert float(abs(1 - Fraction(bound) - gap)) <= 1e-10 * float(gap) + 3e-16, case


def test_upper_bounds_match_forty_digits_and_never_fall_below_them() -> None:
    checked = [case for case in CASES if "upper" in case]
    assert len(checked) > 200
    for case in checked:
        bound = clopper_pearson_upper(case["k"], case["n"], float(case["alpha"]))
        assert bound == pytest.approx(float(case["upper"]), rel=1e-10), case
        assert Fraction(float(bound)) >= Fraction(case["upper"]), case


def test_normal_quantiles_match_forty_digits() -> None:
    for case in CASES:
        if "ndtri_lower" in case:
            bound = clopper_pearson_lower(case["k"], case["n"], float(case["alpha"]))
            exact = float(case["ndtri_lower"])
            assert exact - 1e-10 <= special.ndtri(bound) <= exact + 2e-11


@pytest.mark.parametrize("alpha", ["0.001", "0.0005", "1e-8"])
@pytest.mark.parametrize("n", [1, 7, 100, 100_000, 1_000_000])
def test_tails_stay_below_alpha(n: int, alpha: str) -> None:
    k = np.unique(np.linspace(1, n, 200).astype(np.int64))
    level = float(alpha)
    lower = np.asarray(clopper_pearson_lower(k, n, level))
    assert np.all(special.betainc(k, n - k + 1, lower) <= level * (1 + 1e-9))
    upper = np.asarray(clopper_pearson_upper(k - 1, n, level))
    assert np.all(special.betaincc(k, n - k + 1, upper) <= level * (1 + 1e-9))


def test_closed_forms_at_the_ends() -> None:
    assert clopper_pearson_lower(0, 50, 0.01) == 0.0
    assert clopper_pearson_upper(50, 50, 0.01) == 1.0
    assert clopper_pearson_lower(50, 50, 0.01) == pytest.approx(0.01 ** (1 / 50), rel=1e-15)
    assert clopper_pearson_upper(0, 50, 0.01) == pytest.approx(1 - 0.01 ** (1 / 50), rel=1e-14)
    # Cephes gives 0.9375 here, and a bound that is too high in the second case.
    assert clopper_pearson_lower(10**5, 10**5, 1e-8) == pytest.approx(0.99981581, abs=1e-8)
    assert special.betainc(990, 11, clopper_pearson_lower(990, 1000, 1e-12)) <= 1e-12 * (1 + 1e-9)


@pytest.mark.parametrize("n", [1, 3, 20, 60])
@pytest.mark.parametrize("alpha", [0.2, 0.01, 0.001])
def test_coverage_by_exact_enumeration(n: int, alpha: float) -> None:
    """P(L > p) <= alpha and P(U < p) <= alpha for every p; a doubled alpha breaks it."""
    k = np.arange(n + 1)
    lower = np.asarray(clopper_pearson_lower(k, n, alpha))
    upper = np.asarray(clopper_pearson_upper(k, n, alpha))
    doubled = np.asarray(clopper_pearson_lower(k, n, min(2 * alpha, 0.99)))
    worst = worst_doubled = 0.0
    just_below = np.concatenate([lower[1:], doubled[1:]]) * (1 - 1e-12)
    for p in np.concatenate([np.linspace(0.001, 0.999, 199), just_below]):
        mass = stats.binom.pmf(k, n, p)
        worst = max(worst, mass[lower > p].sum(), mass[upper < p].sum())
        worst_doubled = max(worst_doubled, mass[doubled > p].sum())
    assert worst <= alpha * (1 + 1e-6)
    assert worst_doubled > 1.5 * alpha


@given(st.integers(1, 10**6), st.data(), st.floats(1e-9, 0.4))
def test_bounds_are_ordered_and_mirror_each_other(
    n: int, data: st.DataObject, alpha: float
) -> None:
    k = data.draw(st.integers(0, n))
    lower, upper = clopper_pearson_lower(k, n, alpha), clopper_pearson_upper(k, n, alpha)
    assert 0.0 <= lower <= k / n <= upper <= 1.0
    assert upper == pytest.approx(1 - clopper_pearson_lower(n - k, n, alpha), rel=1e-9)
    if k < n:
        assert lower <= clopper_pearson_lower(k + 1, n, alpha)


def test_table_equals_single_bounds_and_is_shared() -> None:
    table = clopper_pearson_table(1000, 0.001)
    single = np.array([clopper_pearson_lower(k, 1000, 0.001) for k in range(1001)])
    assert np.all(abs(table - single) <= 1e-13 * single)
    assert np.all(np.diff(table) >= 0)
    assert clopper_pearson_table(1000, 0.001) is table
    assert not table.flags.writeable


@given(st.integers(0, 2000), st.integers(0, 2000))
def test_majority_p_value_is_the_two_sided_binomial_test(a: int, b: int) -> None:
    first, second = max(a, b), min(a, b)
    expected = stats.binomtest(first, first + second, 0.5).pvalue if first else 1.0
    assert majority_p_value(first, second) == pytest.approx(expected, rel=1e-9, abs=1e-300)


@pytest.mark.parametrize(
    ("k", "n", "alpha", "argument"),
    [
        (-1, 10, 0.1, "k"),
        (11, 10, 0.1, "k"),
        (1.0, 10, 0.1, "k"),
        (0, 0, 0.1, "n"),
        (1, 10.0, 0.1, "n"),
        (1, 10, 0.0, "alpha"),
        (1, 10, 1.0, "alpha"),
        (1, 10, float("nan"), "alpha"),
    ],
)
def test_bad_arguments_are_named(k: int, n: int, alpha: float, argument: str) -> None:
    for bound in (clopper_pearson_lower, clopper_pearson_upper):
        with pytest.raises(ArgumentError, match=f"^{argument} "):
            bound(k, n, alpha)


def exact_tail(k: int, n: int, p: float | Fraction) -> Fraction:
    """P(Bin(n, p) >= k) from above, within 2^-150 relatively: the terms fall from k on."""
    success = Fraction(p)
    numerator, size = success.numerator, success.denominator
    term = math.comb(n, k) * numerator**k * (size - numerator) ** (n - k)
    shift = max(0, term.bit_length() - 256)
    term = (term >> shift) + 1
    total = 0
    for j in range(k, n + 1):
        total += term
        if term < total >> 200:
            total += total >> 150
            break
        term = term * (n - j) * numerator // ((j + 1) * (size - numerator)) + 1
    return Fraction(total << shift, size**n)


COUNTS = [(1, 1), (1, 2), (2, 2), (1, 40), (7, 9), (39, 40), (20, 40), (99, 100), (530, 1000)]
COUNTS += [(k, 1000) for k in (1, 3, 600, 900, 999, 1000)]


@pytest.mark.parametrize("alpha", [0.5, 0.05, 1e-3, 5e-4, 1e-9, 1e-30, 1e-100])
def test_bounds_are_on_the_safe_side_of_exact_integers(alpha: float) -> None:
    """Not by a tolerance: the tail at the bound, in exact arithmetic, is at most alpha."""
    level = Fraction(alpha)
    for k, n in COUNTS:
        lower = float(clopper_pearson_lower(k, n, alpha))
        assert exact_tail(k, n, lower) <= level, (k, n)
        assert exact_tail(k, n, lower * (1 + 1e-11)) > level or lower * (1 + 1e-11) >= 1, (k, n)
        upper = float(clopper_pearson_upper(n - k, n, alpha))
        if upper < 1.0:
            assert exact_tail(k, n, 1 - Fraction(upper)) <= level, (n - k, n)


@pytest.mark.slow
@pytest.mark.parametrize(("k", "n"), [(3412, 6706), (9900, 10_000), (50_100, 100_000)])
def test_bounds_of_many_votes_are_on_the_safe_side_of_exact_integers(k: int, n: int) -> None:
    """(3412, 6706) at 4.4e-77 is where SciPy's tail was found to err most."""
    for alpha in (4.448672052507622e-77, 1e-3):
        assert exact_tail(k, n, float(clopper_pearson_lower(k, n, alpha))) <= Fraction(alpha)


@pytest.mark.parametrize("alpha", [9.9e-101, 1e-120, 1e-300, 5e-324])
def test_levels_below_those_of_scipys_tails_are_refused(alpha: float) -> None:
    checks: list[Callable[[float], object]] = [
        lambda a: clopper_pearson_lower(5, 10, a),
        lambda a: clopper_pearson_upper(5, 10, a),
        lambda a: anytime_lower(5, 10, a),
        lambda a: order_statistic_lower(10, 0.5, a),
        lambda a: order_statistic_upper(10, 0.5, a),
        lambda a: group_sequential_plan(0.6, (100, 200), a),
        lambda a: Settings(alpha=a),
        lambda a: FixedSmoothing(OneNetwork(), 0.25).certify(Budget.fixed(5, 5), a),
        lambda a: FixedSmoothing(OneNetwork(), 0.25).predict(5, a),
    ]
    for check in checks:
        with pytest.raises(ArgumentError, match="alpha must be at least 1e-100"):
            check(alpha)
    assert clopper_pearson_lower(10, 10, 1e-100) > 0.0


def test_a_level_that_is_split_counts_as_its_parts() -> None:
    split = FixedSmoothing(OneNetwork(), 0.25, runner_up=True)
    with pytest.raises(ArgumentError, match="at least 2e-100"):
        split.certify(Budget.fixed(5, 5), 1.5e-100)
    split.certify(Budget.fixed(5, 5), 2e-100)
