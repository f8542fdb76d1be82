from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from dualsmooth.engine.bounds.sequential import crossing_probability
from dualsmooth.engine.radius.decision import decision_looks, decision_plan, least_probability
from dualsmooth.engine.radius.gaussian import gaussian_radius


def test_looks_are_close_at_first_and_then_five_per_cent_apart() -> None:
    looks = decision_looks(100_000)
    assert looks[:20] == tuple(range(100, 2001, 100))
    assert looks[-1] == 100_000
    assert all(b - a <= max(100, 0.05 * a) for a, b in pairwise(looks))
    assert len(looks) < 110
    assert [decision_looks(n) for n in (1, 99, 100, 101, 200)] == [
        (1,), (99,), (100,), (100, 101), (100, 200),
    ]  # fmt: skip


@settings(max_examples=60)
@given(st.floats(1e-6, 1e3), st.floats(1e-6, 1e3))
def test_probability_to_beat_is_rounded_up(radius: float, sigma: float) -> None:
    p = least_probability(radius, sigma)
    assert gaussian_radius(p, sigma) >= radius
    if radius < 5 * sigma:
        assert gaussian_radius(p, sigma) <= radius + 1e-8 * sigma


@pytest.mark.parametrize("ratio", [0.01, 0.25, 0.5, 1.0, 2.0, 3.0])
@pytest.mark.parametrize(("n", "alpha"), [(100_000, 1e-3), (10_000, 1e-6), (500, 0.01)])
def test_exact_error_of_every_plan_is_within_alpha(ratio: float, n: int, alpha: float) -> None:
    plan = decision_plan(ratio * 0.25, 0.25, n, alpha)
    if plan is None:
        all_votes = least_probability(ratio, 1.0) ** n
        assert all_votes > 0.4 * alpha  # n of n votes show too little
        return
    assert crossing_probability(plan.thresholds, plan.looks, plan.p0) <= alpha
    peeking = [int(binom.isf(alpha, votes, plan.p0)) + 1 for votes in plan.looks]
    if plan.thresholds[0] <= plan.looks[0]:
        assert crossing_probability(peeking, plan.looks, plan.p0) > 1.5 * alpha


@pytest.mark.parametrize("ratio", [0.5, 1.0, 2.0])
def test_futility_stops_a_true_radius_no_more_often_than_alpha(ratio: float) -> None:
    plan = decision_plan(ratio, 1.0, 100_000, 1e-3)
    assert plan is not None
    assert plan.futility is not None
    failures = [votes - f for votes, f in zip(plan.looks, plan.futility, strict=True)]
    assert crossing_probability(failures, plan.looks, 1.0 - plan.p0) <= 1e-3


def test_exact_power_is_close_to_that_of_a_fixed_sample() -> None:
    """At a p the fixed test certifies with probability .99, the sequential one does nearly."""
    plan = decision_plan(0.5, 1.0, 100_000, 1e-3)
    assert plan is not None
    fixed = int(binom.isf(1e-3, 100_000, plan.p0)) + 1
    p = plan.p0 + 0.0080
    assert binom.sf(fixed - 1, 100_000, p) > 0.98
    assert crossing_probability(plan.thresholds, plan.looks, p) > 0.96
