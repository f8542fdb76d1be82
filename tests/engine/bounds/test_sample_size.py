import pytest

from dualsmooth.engine.bounds.binomial import clopper_pearson_lower
from dualsmooth.engine.bounds.sample_size import Pilot, planned_votes
from dualsmooth.engine.radius.gaussian import gaussian_radius

N, ALPHA = 100_000, 1e-3


def pilot(k: int, sigma: float = 0.5) -> Pilot:
    return Pilot(k, 500, sigma, ALPHA)


def radius(p: float, n: int, sigma: float = 0.5) -> float:
    return gaussian_radius(float(clopper_pearson_lower(round(p * n), n, ALPHA)), sigma)


@pytest.mark.parametrize("k", [350, 400, 450, 490, 497])
def test_planned_votes_keep_the_radius_within_the_tolerance(k: int) -> None:
    _, n = planned_votes(None, pilot(k), N, 0.05)
    assert n < N / 3
    assert radius(k / 500, n) >= 0.94 * radius(k / 500, N)
    assert radius(k / 500, n // 3) < 0.95 * radius(k / 500, N)  # and not far more votes than needed


def test_a_smaller_tolerance_takes_more_votes() -> None:
    sizes = [planned_votes(None, pilot(450), N, t)[1] for t in (0.2, 0.1, 0.05, 0.02, 0.01, 1e-9)]
    assert sizes == sorted(sizes)
    assert sizes[-1] == N


def test_hopeless_pilots_take_the_fewest_votes() -> None:
    assert planned_votes(pilot(100), pilot(499), N, 0.05) == (100, 100)
    assert planned_votes(pilot(499), pilot(0), N, 0.05) == (100, 100)


def test_the_stage_that_does_not_bind_takes_fewer_votes() -> None:
    selector, classifier = planned_votes(pilot(500, 1.0), pilot(400, 0.25), N, 0.05)
    assert selector <= 200 < classifier
    selector, classifier = planned_votes(pilot(400, 0.25), pilot(500, 1.0), N, 0.05)
    assert classifier <= 200 < selector


def test_fewer_votes_than_the_smallest_choice() -> None:
    assert planned_votes(pilot(480), pilot(480), 50, 0.05) == (50, 50)
