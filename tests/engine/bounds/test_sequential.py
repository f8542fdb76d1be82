import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

import dualsmooth.engine.bounds.sequential as sequential
from dualsmooth.engine.bounds.live_counts import LiveCounts
from dualsmooth.engine.bounds.sequential import (
    GroupSequentialPlan,
    crossing_probability,
    group_sequential_plan,
)
from dualsmooth.engine.errors import ArgumentError

REFERENCE = json.loads((Path(__file__).parents[2] / "reference" / "statistics.json").read_text())
PLANS: list[dict[str, Any]] = REFERENCE["group_sequential"]
ANYTIME_ERROR: list[dict[str, Any]] = REFERENCE["anytime_error"][:4]
EVERY_HUNDRED = list(range(100, 100_001, 100))
ALPHA = 1e-3


def path_probability(event: Callable[[Sequence[int]], bool], n: int, p: float) -> float:
    """Probability of an event about the running counts, by enumerating all 2^n vote sequences."""
    total = 0.0
    for votes in itertools.product((0, 1), repeat=n):
        counts = list(itertools.accumulate(votes))
        if event(counts):
            total += p ** counts[-1] * (1 - p) ** (n - counts[-1])
    return total


def crosses(counts: Sequence[int], looks: Sequence[int], thresholds: Sequence[int]) -> bool:
    return any(counts[n - 1] >= c for n, c in zip(looks, thresholds, strict=True))


def fixed_level_thresholds(looks: Sequence[int], p: float, level: float) -> list[int]:
    """Least counts whose exact lower bound at this level exceeds p."""
    return [int(k) + 1 for k in binom.isf(level, looks, p)]


@pytest.mark.parametrize("case", PLANS, ids=lambda c: str(c["p0"]))
def test_plan_agrees_with_reference(case: dict[str, Any]) -> None:
    plan = group_sequential_plan(case["p0"], case["looks"], ALPHA, case["cum_alpha"])
    assert list(plan.thresholds) == case["thresholds"]
    assert plan.spent[-1] == pytest.approx(case["alpha_used"], rel=1e-9)
    again = crossing_probability(plan.thresholds, plan.looks, plan.p0)
    assert again == pytest.approx(case["crossing_check"], rel=1e-9)


@pytest.mark.parametrize("case", ANYTIME_ERROR, ids=lambda c: str(c["p"]))
def test_default_plan_with_a_thousand_looks(case: dict[str, Any]) -> None:
    plan = group_sequential_plan(case["p"], EVERY_HUNDRED, ALPHA)
    expected = case["ever_exceeds_p"]["exact_group_sequential_half_alpha_last"]
    assert plan.spent[-1] == pytest.approx(expected, rel=1e-7)
    assert plan.cumulative_alpha[-1] == ALPHA
    assert all(used <= s for used, s in zip(plan.spent, plan.cumulative_alpha, strict=True))


@pytest.mark.parametrize("case", ANYTIME_ERROR, ids=lambda c: str(c["p"]))
def test_fixed_level_bounds_read_at_several_looks(case: dict[str, Any]) -> None:
    p, expected = case["p"], case["ever_exceeds_p"]
    naive = fixed_level_thresholds(EVERY_HUNDRED, p, ALPHA)
    error = crossing_probability(naive, EVERY_HUNDRED, p)
    assert error == pytest.approx(expected["clopper_pearson_every_look"], rel=1e-7)
    assert error > 1.6 * ALPHA
    looks, shares = [1000, 10_000, 100_000], [0.1, 0.2, 0.7]
    split = [
        fixed_level_thresholds([n], p, w * ALPHA)[0] for n, w in zip(looks, shares, strict=True)
    ]
    error = crossing_probability(split, looks, p)
    assert error == pytest.approx(expected["cp_three_looks"], rel=1e-7)
    once = crossing_probability([naive[-1]], [100_000], p)
    assert once == pytest.approx(expected["clopper_pearson_fixed_n"], rel=1e-7)


def test_peeking_at_one_half_errs_more_than_twenty_times_too_often() -> None:
    naive = fixed_level_thresholds(EVERY_HUNDRED, 0.5, ALPHA)
    assert crossing_probability(naive, EVERY_HUNDRED, 0.5) > 20 * ALPHA


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    looks=st.sets(st.integers(1, 9), min_size=1).map(sorted),
    thresholds=st.lists(st.integers(0, 11), min_size=9, max_size=9),
    p=st.just(0.0) | st.floats(1e-300, 1.0),  # SciPy overflows below the normal numbers
)
def test_recursion_equals_enumeration_of_all_paths(
    looks: list[int], thresholds: list[int], p: float
) -> None:
    stops = thresholds[: len(looks)]
    exact = path_probability(lambda counts: crosses(counts, looks, stops), looks[-1], p)
    assert crossing_probability(stops, looks, p) == pytest.approx(exact, rel=1e-12, abs=1e-15)


def test_mass_cut_from_the_band_counts_as_an_error() -> None:
    looks = [300, 600]
    never, always_heads = [301, 600], 0.5**600
    error = crossing_probability(never, looks, 0.5)
    assert always_heads <= error < 2e-19  # a band that cut silently would report 0


class ForgetsToDrop(LiveCounts):
    """Broken on purpose: stopped mass is reported but stays in the law."""

    def stop(self, threshold: int) -> float:
        kept, first = self._mass.copy(), self._first
        stopped = super().stop(threshold)
        self._mass, self._first = kept, first
        return stopped


def test_keeping_stopped_mass_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequential, "LiveCounts", ForgetsToDrop)
    case = PLANS[0]
    plan = group_sequential_plan(case["p0"], case["looks"], ALPHA, case["cum_alpha"])
    assert list(plan.thresholds) != case["thresholds"]
    error = crossing_probability(case["thresholds"], case["looks"], case["p0"])
    assert error > 1.05 * case["crossing_check"]


@pytest.mark.parametrize("p0", [0.3, 0.6914624612740131, 0.99])
def test_thresholds_are_the_least_allowed(p0: float) -> None:
    looks = [100, 200, 400, 1000, 1500]
    plan = group_sequential_plan(p0, looks, 0.01)
    for j, limit in enumerate(plan.cumulative_alpha):
        until = looks[: j + 1]
        assert crossing_probability(plan.thresholds[: j + 1], until, p0) <= limit
        lower = [*plan.thresholds[:j], plan.thresholds[j] - 1]
        assert crossing_probability(lower, until, p0) > limit * (1 - 1e-9)


def test_error_stays_within_alpha_for_every_smaller_probability() -> None:
    plan = group_sequential_plan(0.8, range(100, 3001, 100), 0.01)
    below = [crossing_probability(plan.thresholds, plan.looks, p) for p in np.linspace(0, 0.8, 81)]
    assert np.all(np.diff(below) >= -1e-16)
    assert 0.008 < below[-1] <= 0.01
    assert crossing_probability(plan.thresholds, plan.looks, 0.85) > 0.99


def test_impossible_looks_have_a_threshold_above_their_votes() -> None:
    plan = group_sequential_plan(0.99, [5, 1000], 0.001, [0.0, 0.001])
    assert plan.thresholds[0] == 6
    assert plan.spent[0] == 0.0
    assert group_sequential_plan(0.999, [100], 0.001).thresholds == (101,)


def test_futility_is_the_mirrored_plan_and_leaves_the_thresholds_alone() -> None:
    looks, beta = [100, 300, 900], 0.02
    plan = group_sequential_plan(0.7, looks, 0.01, beta=beta)
    assert plan.futility is not None
    assert plan.thresholds == group_sequential_plan(0.7, looks, 0.01).thresholds
    failures = [n - f for n, f in zip(looks, plan.futility, strict=True)]
    stopped = crossing_probability(failures, looks, 1 - 0.7)
    assert 0.5 * beta < stopped <= beta
    assert all(f < c for f, c in zip(plan.futility, plan.thresholds, strict=True))
    assert crossing_probability(failures, looks, 0.5) > 0.999  # p = 1/2 is dismissed


def union_and_gate(
    plans: Sequence[GroupSequentialPlan], truth: float, n: int
) -> tuple[float, float]:
    """Probabilities that any test, and that the leading tests, claim a radius that is false."""
    false = [truth <= plan.p0 for plan in plans]

    def outcomes(counts: Sequence[int]) -> list[bool]:
        return [crosses(counts, plan.looks, plan.thresholds) for plan in plans]

    def gate(counts: Sequence[int]) -> bool:
        held = zip(outcomes(counts), false, strict=True)
        return any(wrong for _, wrong in itertools.takewhile(lambda pair: pair[0], held))

    def any_test(counts: Sequence[int]) -> bool:
        return any(f and o for f, o in zip(false, outcomes(counts), strict=True))

    return path_probability(any_test, n, truth), path_probability(gate, n, truth)


def test_gatekeeping_keeps_the_level_and_taking_the_largest_radius_does_not() -> None:
    alpha = 0.046
    late = group_sequential_plan(0.5, [8, 14], alpha, [0.0, alpha])
    early = group_sequential_plan(0.52, [8, 14], alpha, [alpha, alpha])
    largest, gated = union_and_gate([late, early], 0.5, 14)
    assert largest > alpha
    assert 0.0 < gated <= alpha
    assert union_and_gate([late, early], 0.51, 14)[1] <= alpha


NAN = float("nan")


@pytest.mark.parametrize(
    ("arguments", "argument"),
    [
        ((NAN, [100], 0.1), "p0"),
        ((1.0, [100], 0.1), "p0"),
        ((0.5, [100], NAN), "alpha"),
        ((0.5, [100], 0.0), "alpha"),
        ((0.5, [], 0.1), "looks"),
        ((0.5, [0, 100], 0.1), "looks"),
        ((0.5, [100, 100], 0.1), "looks"),
        ((0.5, [100.0, 200.0], 0.1), "looks"),
        ((0.5, [50, 100], 0.1), "looks"),
        ((0.5, [100, 200], 0.1, [0.1]), "spending"),
        ((0.5, [100, 200], 0.1, [0.1, 0.05]), "spending"),
        ((0.5, [100, 200], 0.1, [0.1, 0.2]), "spending"),
        ((0.5, [100, 200], 0.1, [NAN, 0.1]), "spending"),
    ],
)
def test_bad_plan_arguments_are_named(arguments: Any, argument: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        group_sequential_plan(*arguments)
    assert caught.value.argument == argument


@pytest.mark.parametrize(
    ("arguments", "argument"),
    [
        (([5], [10], NAN), "p"),
        (([5, 6], [10], 0.5), "thresholds"),
        (([5.5], [10], 0.5), "thresholds"),
    ],
)
def test_bad_crossing_arguments_are_named(arguments: Any, argument: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        crossing_probability(*arguments)
    assert caught.value.argument == argument


def test_bad_beta_is_named() -> None:
    with pytest.raises(ArgumentError, match="beta"):
        group_sequential_plan(0.5, [100], 0.1, beta=NAN)
