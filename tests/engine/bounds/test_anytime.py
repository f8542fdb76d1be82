import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from dualsmooth.engine.bounds.anytime import anytime_lower, stirling_remainder
from dualsmooth.engine.bounds.sequential import crossing_probability
from dualsmooth.engine.errors import ArgumentError

REFERENCE = json.loads((Path(__file__).parents[2] / "reference" / "statistics.json").read_text())
ANYTIME_ERROR: list[dict[str, Any]] = REFERENCE["anytime_error"]


def least_counts(p: float, looks: NDArray[np.int64], alpha: float) -> NDArray[np.int64]:
    """Least k per look whose bound exceeds p, n + 1 where none does."""
    spread = 12 * np.sqrt(looks * p * (1 - p)) + 40
    low = np.maximum(np.floor(looks * p).astype(np.int64), 0)  # the bound is at most k / n
    high = np.minimum(np.ceil(looks * p + spread).astype(np.int64), looks + 1)
    while np.any(high - low > 1):
        middle = (low + high) // 2
        exceeds = anytime_lower(np.minimum(middle, looks), looks, alpha) > p
        low, high = np.where(exceeds, low, middle), np.where(exceeds, middle, high)
    return np.asarray(high, dtype=np.int64)


def exact_error(p: float, looks: NDArray[np.int64], alpha: float) -> float:
    return crossing_probability(least_counts(p, looks, alpha).tolist(), looks.tolist(), p)


def test_bound_agrees_with_38_digit_values_and_never_exceeds_them() -> None:
    for case in REFERENCE["beta_binomial"]:
        bound = float(anytime_lower(case["k"], case["n"], float(case["alpha"])))
        truth = float(case["bb_onesided_jeffreys_lower"])
        assert truth - 1e-9 < bound <= truth, case


def test_distance_to_one_keeps_its_digits() -> None:
    case = next(c for c in REFERENCE["beta_binomial"] if c["k"] == c["n"] == 1_000_000)
    bound = float(anytime_lower(case["k"], case["n"], float(case["alpha"])))
    truth = 1 - float(case["bb_onesided_jeffreys_lower"])
    assert 0 < (1 - bound) / truth - 1 < 2e-10


@pytest.mark.parametrize("case", REFERENCE["decision_thresholds"], ids=lambda c: str(c["p0"]))
def test_decision_thresholds(case: dict[str, Any]) -> None:
    looks = np.array(case["n"])
    counts = least_counts(case["p0"], looks, float(case["alpha"]))
    assert_array_equal(counts, case["min_k_bb_onesided"])


@pytest.mark.parametrize("alpha", [0.2, 1e-3, 1e-9])
@pytest.mark.parametrize("n", [1, 2, 3, 10, 137, 4001])
def test_bound_grows_with_the_count_and_stays_below_the_frequency(n: int, alpha: float) -> None:
    k = np.arange(n + 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bound = anytime_lower(k, n, alpha)
    assert bound[0] == 0.0
    assert np.all(np.diff(bound)[bound[1:] > 0] > 0)  # the smallest counts may round down to 0
    assert np.all(bound[n // 2 + 1 :] > 0)
    assert np.all(bound[1:] < k[1:] / n)


def test_stricter_level_gives_a_smaller_bound() -> None:
    k = np.arange(1, 501)
    loose, strict = anytime_lower(k, 500, 1e-3), anytime_lower(k, 500, 1e-4)
    assert np.all(strict < loose)


def test_counts_and_votes_broadcast() -> None:
    grid = anytime_lower([[3], [5]], [10, 20, 30], 0.01)
    assert grid.shape == (2, 3)
    assert grid[1, 2] == anytime_lower(5, 30, 0.01)


def test_entry_of_a_table_has_the_bits_of_a_single_call() -> None:
    table = anytime_lower(np.arange(1001), 1000, 1e-3)
    assert_array_equal(table, [float(anytime_lower(k, 1000, 1e-3)) for k in range(1001)])


@pytest.mark.parametrize("p", [0.05, 0.5, 0.7, 0.9, 0.99])
@pytest.mark.parametrize("alpha", [0.1, 0.01])
def test_bound_read_after_every_vote_errs_with_probability_at_most_alpha(
    p: float, alpha: float
) -> None:
    looks = np.arange(1, 601)
    assert 0.0 < exact_error(p, looks, alpha) <= alpha


@pytest.mark.parametrize("case", ANYTIME_ERROR[:4], ids=lambda c: str(c["p"]))
def test_exact_error_of_looks_every_hundred_votes(case: dict[str, Any]) -> None:
    error = exact_error(case["p"], np.arange(100, 100_001, 100), 1e-3)
    assert error == pytest.approx(case["ever_exceeds_p"]["bb1"], rel=1e-7)
    assert error <= 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("case", ANYTIME_ERROR[4:], ids=lambda c: str(c["p"]))
def test_exact_error_of_looks_at_every_vote(case: dict[str, Any]) -> None:
    looks, expected = np.arange(1, 20_001), case["ever_exceeds_p"]
    assert exact_error(case["p"], looks, 1e-3) == pytest.approx(expected["bb1"], rel=1e-7)
    # A threshold of 1 / (2 alpha), the broken variant, is caught by the same recursion.
    doubled = exact_error(case["p"], looks, 2e-3)
    assert doubled == pytest.approx(expected["bb1_threshold_1_over_2alpha"], rel=1e-7)
    assert doubled > 1e-3


@pytest.mark.parametrize(
    ("k", "n", "alpha", "argument"),
    [
        (5, 10, 0.0, "alpha"),
        (5, 10, 1.0, "alpha"),
        (5, 10, float("nan"), "alpha"),
        (5, 10, True, "alpha"),
        (11, 10, 0.1, "k"),
        (-1, 10, 0.1, "k"),
        (5.0, 10, 0.1, "k"),
        (float("nan"), 10, 0.1, "k"),
        (0, 0, 0.1, "n"),
        (5, float("inf"), 0.1, "n"),
    ],
)
def test_bad_arguments_are_named(k: Any, n: Any, alpha: Any, argument: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        anytime_lower(k, n, alpha)
    assert caught.value.argument == argument


def test_the_remainder_of_stirling_s_formula() -> None:
    """Differences follow the gamma recurrence."""
    x = np.concatenate([np.arange(0.5, 40.0, 0.25), np.geomspace(40.0, 1e7, 200)])
    expected = (x + 0.5) * np.log1p(1.0 / x) - 1.0
    assert_allclose(stirling_remainder(x) - stirling_remainder(x + 1.0), expected, atol=3e-14)
    assert_allclose(stirling_remainder(1.0), 1.0 - 0.5 * np.log(2.0 * np.pi), rtol=1e-14)
    assert_allclose(stirling_remainder(1e9), 1.0 / 12e9, rtol=1e-14)
