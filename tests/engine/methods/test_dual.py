"""The dual procedure step by step, with votes handed to it."""

from functools import partial
from math import inf

import numpy as np
import pytest

from dualsmooth.engine.budget import Budget
from dualsmooth.engine.certificate import Claim
from dualsmooth.engine.draws import Counts, Draw, Prediction
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.methods.dual import DualSmoothing
from dualsmooth.engine.runtime.drive import answered


class Three:
    sigmas = (0.1, 0.2, 0.4)
    tau = 0.5

    def classifier_at(self, sigma: float) -> str:
        return "classifier"


def play(
    method: DualSmoothing, answers: dict[tuple[str, int], list[int]], n: int = 1000
) -> tuple[Claim, list[Draw]]:
    """Run CERTIFY; answers give votes by (phase, level), scaled to the size of the draw."""
    draws = list[Draw]()

    def answer(draw: Draw) -> Counts:
        draws.append(draw)
        return scaled(answers, draw)

    return answered(method.certify(Budget.fixed(n0=100, n=n), 0.001), answer), draws


def scaled(answers: dict[tuple[str, int], list[int]], draw: Draw) -> Counts:
    votes = np.array(answers[draw.phase.name, draw.level], np.int64)
    found: Counts = votes * draw.count // votes.sum()
    return found


CLASSES = {("CLASS_GUESS", 1): [0, 10, 0], ("CLASS_ESTIMATE", 0): [0, 10, 0],
           ("CLASS_ESTIMATE", 1): [0, 10, 0], ("CLASS_ESTIMATE", 2): [1, 9, 0]}  # fmt: skip
SURE = CLASSES | {("SELECT_GUESS", 0): [0, 10, 0, 0], ("SELECT_ESTIMATE", 0): [0, 10, 0, 0]}
TORN = CLASSES | {("SELECT_GUESS", 0): [4, 5, 1, 0], ("SELECT_ESTIMATE", 0): [4, 5, 1, 0]}


def test_unanimous_selection_votes_need_no_chain_and_no_split() -> None:
    interval, draws = play(DualSmoothing(Three()), SURE)
    point, _ = play(DualSmoothing(Three(), "median", "point"), SURE)
    plurality, _ = play(DualSmoothing(Three(), "plurality"), SURE)
    assert interval.alpha == point.alpha
    assert (interval.alpha.rule, interval.alpha.total) == ("minimum", 0.001)
    assert interval.radius == point.radius == plurality.radius > 0
    assert [d.level for d in draws if d.phase.name == "CLASS_ESTIMATE"] == [1]


def test_torn_selection_votes_grow_a_chain_at_half_alpha_per_stage() -> None:
    certificate, draws = play(DualSmoothing(Three()), TORN)
    assert certificate.alpha.rule == "chain"
    assert certificate.alpha.total == 0.001
    assert {bound.alpha for bound in certificate.bounds} == {0.0005}
    assert [d.level for d in draws if d.phase.name == "CLASS_ESTIMATE"] == [1, 0]
    assert certificate.interval == (0, 1)
    point, _ = play(DualSmoothing(Three(), "median", "point"), TORN)
    plurality, _ = play(DualSmoothing(Three(), "plurality"), TORN)
    assert (plurality.radius, plurality.abstained_at) == (0.0, "selector")
    assert 0.0 < point.radius < 0.1 < 0.2 < certificate.radius


def test_the_choice_is_made_before_estimation_votes_are_seen() -> None:
    """Estimation votes that disagree with unanimous selection votes do not bring the chain back."""
    surprised = SURE | {("SELECT_ESTIMATE", 0): [5, 5, 0, 0]}
    certificate, _ = play(DualSmoothing(Three()), surprised)
    assert (certificate.radius, certificate.predicted) == (0.0, None)
    assert certificate.abstained_at == "selector"


def test_published_split_is_wider() -> None:
    split, _ = play(DualSmoothing(Three(), "plurality", published_split=True), SURE)
    sharp, _ = play(DualSmoothing(Three(), "plurality"), SURE)
    assert {bound.alpha for bound in split.bounds} == {0.0005}
    assert 0 < split.radius < sharp.radius


def test_radius_is_the_smaller_of_selector_and_classifier() -> None:
    certificate, _ = play(DualSmoothing(Three(), "plurality"), SURE)
    selector, classifier = (
        [b.radius for b in certificate.bounds if b.stage == stage]
        for stage in ("selector", "classifier")
    )
    assert certificate.radius == min(selector + classifier)
    assert min(selector) < inf


@pytest.mark.parametrize("rule", ["median", "plurality"])
def test_invalid_votes_abstain(rule: str) -> None:
    nothing = SURE | {("SELECT_GUESS", 0): [0, 0, 0, 10]}
    certificate, draws = play(DualSmoothing(Three(), rule), nothing)
    assert (certificate.abstained_at, certificate.sigma, len(draws)) == ("selector", None, 1)
    certificate, _ = play(DualSmoothing(Three(), rule), SURE | {("CLASS_GUESS", 1): [0, 0, 10]})
    assert (certificate.abstained_at, certificate.radius) == ("classifier", 0.0)


def predict(method: DualSmoothing, answers: dict[tuple[str, int], list[int]]) -> Prediction:
    return answered(method.predict(1000, 0.001), partial(scaled, answers))


def test_predict_asks_every_level_the_selector_cannot_exclude() -> None:
    answers = {("SELECT_PREDICT", 0): [5, 5, 0, 0], ("CLASS_PREDICT", 0): [0, 10, 0],
               ("CLASS_PREDICT", 1): [0, 10, 0]}  # fmt: skip
    assert predict(DualSmoothing(Three()), answers) == Prediction(1, (0.1, 0.2), None)
    torn = answers | {("CLASS_PREDICT", 1): [10, 0, 0]}
    assert predict(DualSmoothing(Three()), torn) == Prediction(None, (0.1, 0.2), "classifier")
    assert predict(DualSmoothing(Three(), "plurality"), answers).abstained_at == "selector"


@pytest.mark.parametrize(
    ("rule", "routing", "argument"),
    [
        ("mean", None, "selector_rule"),
        ("median", "best", "routing"),
        ("plurality", "interval", "routing"),
    ],
)
def test_bad_options(rule: str, routing: str | None, argument: str) -> None:
    with pytest.raises(ArgumentError, match=f"^{argument} "):
        DualSmoothing(Three(), rule, routing)
