"""Budget ``decide`` step by step: laziness, records an audit can recompute, stops and sequences."""

import dataclasses
import json
from itertools import pairwise

import numpy as np
import pytest

from dualsmooth.engine.budget import Budget
from dualsmooth.engine.certificate import Certificate
from dualsmooth.engine.draws import Counts, Draw, Phase
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.ledger import Bound
from dualsmooth.engine.methods.decide import EventTests, VoteStream, decide
from dualsmooth.engine.methods.dual import DualSmoothing
from dualsmooth.engine.methods.fixed import FixedSmoothing
from dualsmooth.engine.radius.decision import decision_plan
from dualsmooth.engine.runtime.drive import answered
from tests.engine.conftest import STAMP
from tests.engine.methods.test_dual import Three

GRID = (0.1, 0.2, 0.3)
BUDGET = Budget.decide(GRID, n0=100, n=20_000)
Answers = dict[tuple[str, int], list[int]]


def play(
    method: DualSmoothing | FixedSmoothing, answers: Answers, budget: Budget = BUDGET
) -> tuple[Certificate, list[Draw]]:
    """Run CERTIFY; answers give shares of votes by (phase, level)."""
    draws = list[Draw]()

    def answer(draw: Draw) -> Counts:
        draws.append(draw)
        shares = np.array(answers[draw.phase.name, draw.level], np.int64)
        votes: Counts = shares * draw.count // shares.sum()
        votes[shares.argmax()] += draw.count - votes.sum()
        return votes

    claim = answered(method.certify(budget, 0.001), answer)
    return Certificate.of(claim, STAMP, 0, None, (), 0.0), draws


def estimates(draws: list[Draw]) -> list[tuple[str, int]]:
    return [(d.phase.name, d.level) for d in draws if d.phase.name.endswith("ESTIMATE")]


SURE: Answers = {
    ("SELECT_GUESS", 0): [0, 10, 0, 0], ("SELECT_ESTIMATE", 0): [0, 10, 0, 0],
    ("CLASS_GUESS", 1): [0, 10, 0], ("CLASS_ESTIMATE", 1): [0, 10, 0],
    ("CLASS_ESTIMATE", 0): [0, 10, 0], ("CLASS_ESTIMATE", 2): [1, 99, 0],
}  # fmt: skip
TORN = SURE | {("SELECT_GUESS", 0): [4, 5, 1, 0], ("SELECT_ESTIMATE", 0): [4, 5, 1, 0]}


@pytest.mark.parametrize(
    "method",
    [DualSmoothing(Three()), DualSmoothing(Three(), "plurality"), FixedSmoothing(Three(), 0.2)],
    ids=lambda method: method.name,
)
def test_clear_votes_are_decided_with_few(method: DualSmoothing | FixedSmoothing) -> None:
    certificate, draws = play(method, SURE)
    assert certificate.radius == 0.3
    assert certificate.exceeds_radius
    assert certificate.predicted == 1
    assert sum(d.count for d in draws) <= 800


def test_draws_of_a_phase_follow_each_other_and_end_at_the_cap() -> None:
    close = SURE | {("CLASS_ESTIMATE", 1): [18, 82, 0]}  # radius .183 at sigma .2
    certificate, draws = play(FixedSmoothing(Three(), 0.2), close, Budget.decide([0.18], n=5000))
    parts = [d for d in draws if d.phase is Phase.CLASS_ESTIMATE]
    assert parts[0].first == 0
    assert all(b.first == a.first + a.count for a, b in pairwise(parts))
    assert parts[-1].first + parts[-1].count == 5000
    assert certificate.bounds[0].tests[0].outcome == "undecided"
    assert (certificate.radius, certificate.abstained_at) == (0.0, "classifier")


def test_a_futile_selector_costs_no_classifier_estimate() -> None:
    lost = SURE | {("SELECT_ESTIMATE", 0): [5, 5, 0, 0], ("SELECT_GUESS", 0): [4, 6, 0, 0]}
    certificate, draws = play(DualSmoothing(Three(), "plurality"), lost)
    assert set(estimates(draws)) == {("SELECT_ESTIMATE", 0)}
    assert (certificate.radius, certificate.abstained_at) == (0.0, "selector")
    assert certificate.bounds[0].tests[0].outcome == "futile"


def test_the_less_promising_stage_is_tested_first() -> None:
    weak = {("CLASS_GUESS", 1): [5, 6, 0], ("CLASS_ESTIMATE", 1): [5, 5, 0]}
    certificate, draws = play(DualSmoothing(Three(), "plurality"), SURE | weak)
    assert set(estimates(draws)) == {("CLASS_ESTIMATE", 1)}
    assert certificate.abstained_at == "classifier"


def test_the_radius_is_the_last_of_the_leading_run() -> None:
    middling = SURE | {("CLASS_ESTIMATE", 1): [12, 88, 0]}  # radius .235 at sigma .2
    certificate, _ = play(DualSmoothing(Three(), "median", "point"), middling)
    assert certificate.radius == 0.2
    classifier = certificate.bounds[-1]
    assert [t.outcome for t in classifier.tests] == ["certified", "certified", "futile"]
    assert (classifier.radius, certificate.abstained_at) == (0.2, None)
    assert max(t.radius for b in certificate.bounds for t in b.tests) == 0.3


def test_a_chain_widens_where_the_selector_fails() -> None:
    certificate, draws = play(DualSmoothing(Three()), TORN)
    assert certificate.alpha.rule == "chain"
    assert {bound.alpha for bound in certificate.bounds} == {0.0005}
    point, _ = play(DualSmoothing(Three(), "median", "point"), TORN)
    assert point.radius == 0.1
    assert certificate.radius == 0.3
    assert certificate.interval == (0, 1)
    assert ("CLASS_ESTIMATE", 2) not in estimates(draws)
    disagree = TORN | {("CLASS_ESTIMATE", 0): [10, 0, 0]}
    certificate, _ = play(DualSmoothing(Three()), disagree)
    assert (certificate.radius, certificate.interval) == (point.radius, (1, 1))


def recomputed(bound: Bound) -> tuple[float, float]:
    """Lower bound and radius of a decided event, from plans made afresh."""
    lower, radius = 0.0, 0.0
    for test in bound.tests:
        plan = decision_plan(test.radius, bound.sigma, test.most, bound.alpha)
        assert plan is not None
        assert plan.futility is not None
        assert (plan.p0, plan.looks[test.look]) == (test.p0, test.n)
        assert (plan.thresholds[test.look], plan.futility[test.look]) == (
            test.threshold, test.futility,
        )  # fmt: skip
        assert (test.k >= test.threshold) == (test.outcome == "certified")
        if test.outcome == "certified":
            lower, radius = test.p0, test.radius
    return lower, radius


@pytest.mark.parametrize("answers", [SURE, TORN], ids=["sure", "torn"])
def test_records_can_be_recomputed_and_read_back(answers: Answers) -> None:
    certificate, _ = play(DualSmoothing(Three()), answers)
    for bound in certificate.bounds:
        assert recomputed(bound) == (bound.lower, bound.radius)
    assert Certificate.from_json(certificate.to_json()) == certificate
    altered = json.loads(certificate.to_json())
    altered["bounds"][0]["tests"][0]["k"] += 1
    with pytest.raises(ValueError, match="checksum"):
        Certificate.from_json(json.dumps(altered))


def test_other_budgets_write_the_lines_they_always_wrote() -> None:
    certificate, _ = play(FixedSmoothing(Three(), 0.2), SURE, Budget.fixed(100, 1000))
    assert set(json.loads(certificate.to_json())["bounds"][0]) == {
        "stage", "event", "sigma", "k", "n", "alpha", "lower", "radius",
    }  # fmt: skip
    assert Certificate.from_json(certificate.to_json()) == certificate


def test_levels_that_cannot_reach_a_radius_draw_nothing() -> None:
    """Radius 1.2 is 6 sigma at level 1 (0.2), though 3 sigma at level 2."""
    certificate, draws = play(DualSmoothing(Three(), "plurality"), SURE, Budget.decide([1.2]))
    classifier = certificate.bounds[-1]
    assert (classifier.tests[0].outcome, classifier.n, classifier.radius) == ("unreachable", 0, 0.0)
    assert (certificate.radius, certificate.abstained_at) == (0.0, "classifier")
    assert not [draw for draw in draws if draw.phase is Phase.CLASS_ESTIMATE]


@pytest.mark.parametrize("method", [FixedSmoothing(Three(), 0.2), DualSmoothing(Three())])
def test_a_grid_no_level_can_reach_is_refused(method: DualSmoothing | FixedSmoothing) -> None:
    with pytest.raises(ArgumentError, match=r"^radii must be below"):
        method.certify(Budget.decide([0.1, 3.0], n=1000), 0.001)


@pytest.mark.parametrize("budget", [BUDGET, Budget.precise(n=1000)], ids=lambda b: b.kind)
@pytest.mark.parametrize("rule", ["median", "plurality"])
def test_invalid_votes_abstain(rule: str, budget: Budget) -> None:
    nothing = SURE | {("SELECT_GUESS", 0): [0, 0, 0, 10]}
    certificate, draws = play(DualSmoothing(Three(), rule), nothing, budget)
    assert (certificate.abstained_at, certificate.sigma, len(draws)) == ("selector", None, 1)
    unsure = SURE | {("CLASS_GUESS", 1): [0, 0, 10]}
    certificate, _ = play(DualSmoothing(Three(), rule), unsure, budget)
    assert (certificate.abstained_at, certificate.radius) == ("classifier", 0.0)


def test_a_failed_test_rules_out_every_set_it_is_in() -> None:
    streams = [VoteStream(Draw("m", 0.2, Phase.CLASS_ESTIMATE, 0, 1000, k)) for k in range(3)]
    first, second, third = (EventTests("classifier", ("=", 0), s, 0.01) for s in streams)
    asked = list[int]()

    def answer(draw: Draw) -> Counts:
        asked.append(draw.level)
        share = 0 if draw.level == 0 else draw.count
        return np.array([share, draw.count - share, 0])

    decision = answered(decide((0.1, 0.2), [[first], [first, second], [third]]), answer)
    assert set(asked) == {0, 2}
    assert decision == (0.2, 2, None)


def test_thresholds_of_larger_radii_are_higher() -> None:
    """Why testing the larger radius first does no harm with these plans, and is not noticed."""
    plans = [decision_plan(r, 0.5, 100_000, 0.001) for r in (0.25, 0.5, 1.0, 1.5)]
    for low, high in pairwise(plans):
        assert low is not None
        assert high is not None
        assert all(a <= b for a, b in zip(low.thresholds, high.thresholds, strict=True))


def test_pilots_of_another_size_change_only_the_order() -> None:
    few, _ = play(DualSmoothing(Three()), SURE, dataclasses.replace(BUDGET, n0=10))
    many, _ = play(DualSmoothing(Three()), SURE)
    assert few == many
