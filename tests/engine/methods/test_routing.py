from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualsmooth.engine.methods.routing import (
    ChainClaim,
    constancy_bounds,
    growing_chain,
    possible_levels,
    routed_level,
)
from dualsmooth.engine.methods.votes import event_bound, majority_class, top_class

VOTES = st.lists(st.integers(0, 200), min_size=2, max_size=7).map(lambda v: np.array(v, np.int64))


def votes(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def test_top_class_takes_the_lowest_index_and_never_invalid() -> None:
    assert top_class(votes(3, 5, 5, 99)) == 1
    assert top_class(votes(0, 0, 7)) is None


def test_median_and_plurality_differ_where_they_should() -> None:
    spread = votes(40, 30, 30, 0)
    assert (routed_level("median", spread), routed_level("plurality", spread)) == (1, 0)
    assert routed_level("median", votes(50, 25, 25, 0)) == 0
    assert routed_level("median", votes(0, 0, 0, 100)) is None
    assert routed_level("median", votes(10, 0, 0, 90)) == 2


@given(VOTES)
def test_chain_grows_by_one_level_from_the_routed_one_to_all(guess: np.ndarray) -> None:
    start = routed_level("median", guess)
    if start is None:
        return
    chain = growing_chain(guess, start)
    assert chain[0] == (start, start)
    assert chain[-1] == (0, len(guess) - 2)
    for (low, high), (next_low, next_high) in pairwise(chain):
        assert (low - next_low, next_high - high) in ((1, 0), (0, 1))


def test_chain_follows_the_votes() -> None:
    assert growing_chain(votes(10, 80, 20, 5, 0), 1) == [(1, 1), (1, 2), (0, 2), (0, 3)]
    assert growing_chain(votes(30, 80, 20, 5, 0), 1) == [(1, 1), (0, 1), (0, 2), (0, 3)]


@given(VOTES, st.sampled_from([0.05, 0.001]))
def test_constancy_grows_along_the_chain(estimate: np.ndarray, alpha: float) -> None:
    start = routed_level("median", estimate)
    if start is None or len(estimate) < 3:
        return
    radii = [
        min((b.radius for b in constancy_bounds("median", estimate, s, 0.5, alpha)), default=np.inf)
        for s in growing_chain(estimate, start)
    ]
    assert radii == sorted(radii)
    assert radii[-1] == np.inf


@given(VOTES, st.sampled_from([0.05, 0.001]))
def test_median_radius_is_at_least_the_plurality_radius(estimate: np.ndarray, alpha: float) -> None:
    level = routed_level("plurality", estimate)
    if level is None:
        return
    interval = (level, level)
    plurality = constancy_bounds("plurality", estimate, interval, 0.5, alpha)[0].radius
    median = [b.radius for b in constancy_bounds("median", estimate, interval, 0.5, alpha)]
    assert min(median, default=np.inf) >= plurality


def test_invalid_votes_are_in_n_but_never_in_an_event() -> None:
    bound = event_bound("selector", votes(10, 20, 30, 40), ">=", 1, 0.5, 0.01)
    assert (bound.k, bound.n) == (50, 100)
    assert event_bound("selector", votes(10, 20, 30, 40), "<=", 1, 0.5, 0.01).k == 30
    assert event_bound("selector", votes(10, 20, 30, 40), "=", 2, 0.5, 0.01).k == 30


def test_majority_needs_significance_against_invalid_votes_too() -> None:
    assert majority_class(votes(90, 10, 0), 0.01) == 0
    assert majority_class(votes(90, 10, 85), 0.01) is None
    assert majority_class(votes(40, 10, 85), 0.01) is None
    assert majority_class(votes(52, 48, 0), 0.01) is None


def test_possible_levels() -> None:
    assert list(possible_levels("median", votes(90, 5, 5, 0), 0.01)) == [0]
    assert list(possible_levels("median", votes(5, 90, 5, 0), 0.01)) == [1]
    assert list(possible_levels("median", votes(50, 0, 50, 0), 0.01)) == [0, 1, 2]
    assert list(possible_levels("plurality", votes(50, 0, 50, 0), 0.01)) == []
    assert list(possible_levels("plurality", votes(5, 90, 5, 0), 0.01)) == [1]


def run_claim(constancy: list[float], class_radii: dict[int, float]) -> tuple[ChainClaim, set[int]]:
    claim, drawn = ChainClaim([(1, 1), (0, 1), (0, 2)], constancy), set[int]()
    while levels := claim.next_levels():
        assert not drawn & set(levels)
        drawn |= set(levels)
        claim.add([class_radii[level] for level in levels])
    return claim, drawn


@pytest.mark.parametrize(
    ("constancy", "radii", "radius", "interval", "drawn"),
    [
        ([0.5, 0.6, np.inf], {1: 0.4, 0: 1.0, 2: 1.0}, 0.4, (1, 1), {1}),
        ([0.1, 0.3, np.inf], {1: 0.4, 0: 0.2, 2: 0.05}, 0.2, (0, 1), {0, 1}),
        ([0.1, 0.3, np.inf], {1: 0.4, 0: 0.35, 2: 0.33}, 0.33, (0, 2), {0, 1, 2}),
        ([0.0, 0.0, np.inf], {1: 0.4, 0: 0.35, 2: 0.33}, 0.33, (0, 2), {0, 1, 2}),
        ([0.3, 0.3, np.inf], {1: 0.0, 0: 0.35, 2: 0.33}, 0.0, None, {1}),
    ],
)
def test_claim_draws_only_what_can_help(
    constancy: list[float],
    radii: dict[int, float],
    radius: float,
    interval: tuple[int, int] | None,
    drawn: set[int],
) -> None:
    claim, used = run_claim(constancy, radii)
    assert (claim.radius, claim.interval, used) == (radius, interval, drawn)


@given(
    st.lists(st.floats(0, 2), min_size=3, max_size=3),
    st.lists(st.floats(0, 2), min_size=3, max_size=3),
)
def test_stopping_early_loses_nothing(constancy: list[float], radii: list[float]) -> None:
    """The early stop equals the maximum over all sets."""
    growing = [*sorted(constancy[:2]), np.inf]
    claim, _ = run_claim(growing, dict(enumerate(radii)))
    smallest = [radii[1], min(radii[0], radii[1]), min(radii)]
    assert claim.radius == max(min(a, b) for a, b in zip(growing, smallest, strict=True))
