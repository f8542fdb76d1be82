import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

from dualsmooth.engine.bounds.binomial import (
    clopper_pearson_lower,
    clopper_pearson_table,
    clopper_pearson_upper,
    majority_p_value,
)
from dualsmooth.engine.errors import ArgumentError

REFERENCE = Path(__file__).parents[2] / "reference"
CASES = json.loads((REFERENCE / "statistics.json").read_text())["clopper_pearson"]


def test_lower_bounds_match_forty_digits_and_never_exceed_them() -> None:
    for case in CASES:
        bound = clopper_pearson_lower(case["k"], case["n"], float(case["alpha"]))
        exact = Fraction(case["lower"])
        assert isinstance(bound, float)
        assert float(abs(Fraction(bound) - exact)) <= 1e-12 * float(exact), case
        gap = Fraction(case["one_minus_lower"])
        assert float(abs(1 - Fraction(bound) - gap)) <= 1e-10 * float(gap) + 3e-16, case


def test_upper_bounds_match_forty_digits() -> None:
    checked = [case for case in CASES if "upper" in case]
    assert len(checked) > 200
    for case in checked:
        bound = clopper_pearson_upper(case["k"], case["n"], float(case["alpha"]))
        assert bound == pytest.approx(float(case["upper"]), rel=1e-10), case


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
