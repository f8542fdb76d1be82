"""PREDICT of the cascade and of continuous variational smoothing is wrong as rarely as promised.

10,000 seeded runs per case at alpha = 0.05, with exactly known vote probabilities near the edges of
the decision; more wrong answers than the 1 - 1e-6 quantile of Bin(10,000, alpha) fail.
"""

from collections.abc import Callable

import numpy as np
import pytest

from dualsmooth.engine.draws import Counts, Draw, Prediction
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.methods import cascade
from dualsmooth.engine.methods.cascade import CascadeSmoothing
from dualsmooth.engine.methods.method import PredictProcedure
from dualsmooth.engine.methods.variational_continuous import ContinuousVariational
from dualsmooth.engine.runtime.drive import answered
from tests.engine.methods.coverage.conftest import most_wrong
from tests.engine.methods.coverage.test_local import Common

RUNS, ALPHA = 10_000, 0.05
LIMIT = most_wrong(RUNS, ALPHA)


def answers(
    make: Callable[[], PredictProcedure], votes: Callable[[Draw], list[float]], runs: int = RUNS
) -> list[Prediction]:
    rng = np.random.default_rng(9)

    def answer(draw: Draw) -> Counts:
        return rng.multinomial(draw.count, [*votes(draw), 0.0])

    return [answered(make(), answer) for _ in range(runs)]


CASES = {
    "first stage just unsure": ({1.0: [0.69, 0.31, 0.0], 0.5: [0.02, 0.98, 0.0]}, 1),
    "first stage just sure": ({1.0: [0.71, 0.29, 0.0], 0.5: [0.02, 0.98, 0.0]}, 0),
    "two rivals": ({1.0: [0.5, 0.49, 0.01], 0.5: [0.05, 0.9, 0.05]}, 1),
    "clear": ({1.0: [0.95, 0.03, 0.02], 0.5: [0.02, 0.98, 0.0]}, 0),
}


def wrong(name: str) -> int:
    """Runs of the cascade that answer another class than the deployed classifier's."""
    probabilities, truth = CASES[name]
    method = CascadeSmoothing(Common((0.5, 1.0)), 0.7)
    found = answers(lambda: method.predict(100, ALPHA), lambda draw: probabilities[draw.sigma])
    if name == "clear":
        assert sum(p.predicted == 0 for p in found) > RUNS // 2
    return sum(p.predicted not in (None, truth) for p in found)


@pytest.mark.parametrize("name", CASES)
def test_the_cascade_rarely_answers_another_class(name: str) -> None:
    assert wrong(name) <= LIMIT


def test_deciding_by_the_shares_alone_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unsound: the share of the votes takes the place of its bound."""
    monkeypatch.setattr(cascade, "clopper_pearson_lower", lambda k, n, _: k / n)
    assert wrong("first stage just sure") > LIMIT


def test_continuous_variational_rarely_answers_another_class() -> None:
    """A steady selector; class 0 has just under half of the mass at every level."""
    method = ContinuousVariational(Common((0.25, 0.26), 0.5), 100)

    def votes(draw: Draw) -> list[float]:
        return [0.98, 0.02] if draw.model == "selector" else [0.499, 0.501]

    found = answers(lambda: method.predict(60, ALPHA), votes, 1000)
    assert sum(p.predicted == 0 for p in found) <= most_wrong(1000, ALPHA)


def test_continuous_variational_answers_where_it_is_clear() -> None:
    method = ContinuousVariational(Common((0.25, 0.26), 0.5), 100)

    def votes(draw: Draw) -> list[float]:
        return [0.98, 0.02] if draw.model == "selector" else [0.01, 0.99]

    found = answers(lambda: method.predict(400, ALPHA), votes, 20)
    assert {p.predicted for p in found} == {1}
    assert all(p.sigmas[0] < p.sigmas[1] for p in found)
    with pytest.raises(ArgumentError, match="n must be at least 2"):
        method.predict(1, ALPHA)
