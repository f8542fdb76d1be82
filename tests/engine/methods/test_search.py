from collections.abc import Callable
from dataclasses import replace
from math import inf

import numpy as np
import pytest
from scipy.special import ndtr

from dualsmooth.engine.draws import Counts, Draw, Phase
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.methods.search import (
    GridSearch,
    MultiStart,
    Quasiconcave,
    Search,
    SearchProcedure,
    make_search,
    objective,
)
from dualsmooth.engine.models.network import OneNetwork
from dualsmooth.engine.models.sources.load import load_bundle
from dualsmooth.engine.runtime.drive import answered

PEAK = 0.4


def one_peak(sigma: float) -> float:
    """P(class 0) whose J has a single maximum at PEAK: z falls linearly in sigma."""
    return float(ndtr(2.0 * (2 * PEAK - sigma)))


def two_peaks(sigma: float) -> float:
    return float(ndtr(3.0 if sigma < 0.2 else 0.1 if sigma < 0.6 else 1.2))


def run(procedure: SearchProcedure, p: Callable[[float], float]) -> tuple[float, list[Draw]]:
    """Answer draws with expected counts."""
    draws: list[Draw] = []

    def answer(draw: Draw) -> Counts:
        draws.append(draw)
        k = round(p(draw.sigma) * draw.count)
        return np.array([k, draw.count - k, 0], np.int64)

    return answered(procedure, answer), draws


@pytest.mark.parametrize(
    "search", [MultiStart((0.1, 0.3, 0.7), votes=10_000, steps=12),
               Quasiconcave(0.1, 0.7, votes=10_000, steps=8)],
)  # fmt: skip
def test_a_single_peak_is_found(search: Search) -> None:
    found, draws = run(search.run(OneNetwork()), one_peak)
    assert abs(found - PEAK) < 0.03
    assert {draw.phase for draw in draws} <= {Phase.SEARCH, Phase.SEARCH_CHECK}


def test_several_starts_find_the_higher_of_two_peaks() -> None:
    found, _ = run(MultiStart((0.1, 0.5, 1.0), votes=1000).run(OneNetwork()), two_peaks)
    assert found > 0.6


def test_levels_are_compared_on_common_noise_and_chosen_on_fresh_noise() -> None:
    _, draws = run(MultiStart((0.1, 0.5)).run(OneNetwork()), one_peak)
    climbing = [draw for draw in draws if draw.phase is Phase.SEARCH]
    assert {(draw.first, draw.level) for draw in climbing} == {(0, 0)}
    assert draws[-1].phase is Phase.SEARCH_CHECK


def test_grid_search_takes_one_of_its_levels() -> None:
    found, draws = run(GridSearch((0.12, 0.25, 0.5)).run(OneNetwork()), two_peaks)
    assert found == 0.12
    assert len(draws) == 3


def test_objective_is_cautious_at_the_ends() -> None:
    assert objective(np.array([0, 0, 7]), 0.5) == -inf
    assert objective(np.array([100, 0, 0]), 0.5) == pytest.approx(0.25 * 2 * 2.5758, rel=1e-3)
    assert objective(np.array([50, 50, 0]), 0.5) == 0.0


@pytest.mark.parametrize(
    "make",
    [lambda: MultiStart(()), lambda: MultiStart((0.5, 0.25)), lambda: MultiStart(votes=0),
     lambda: Quasiconcave(0.1, 1.0, step=0.2), lambda: GridSearch((0.0, 1.0))],
)  # fmt: skip
def test_bad_searches_are_refused(make: Callable[[], Search]) -> None:
    with pytest.raises(ArgumentError):
        make()


def test_bisection_needs_two_levels() -> None:
    dual = load_bundle("digits-dual")
    expert = {"classifier": dual.networks["classifier@0.25"]}
    alone = replace(dual, sigmas=(0.25,), tau=None, networks=expert)
    with pytest.raises(ArgumentError, match=r"search must be multi-start or grid .* level, 0.25"):
        make_search(alone, "quasiconcave")
