"""Joint votes: a row is drawn once, stages answer each other, and runs can be audited."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from dualsmooth.engine.budget import Budget
from dualsmooth.engine.certificate import Certificate, Claim
from dualsmooth.engine.data.spec import load_images
from dualsmooth.engine.draws import Counts, Draw, Prediction
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.methods.dual import DualSmoothing
from dualsmooth.engine.methods.fixed import FixedSmoothing
from dualsmooth.engine.models.bundle import SELECTOR, Bundle
from dualsmooth.engine.models.joint import class_votes, level_votes
from dualsmooth.engine.runs.audit import audit
from dualsmooth.engine.runs.certify import certify_run
from dualsmooth.engine.runs.log import read_log
from dualsmooth.engine.runs.replay import Choice, replay
from dualsmooth.engine.runtime.drive import answered
from dualsmooth.engine.settings import Settings


class Two:
    sigmas = (0.5, 1.0)
    tau = 1.0
    joint = True

    def classifier_at(self, sigma: float) -> str:
        return f"classifier@{sigma:g}"


METHOD = DualSmoothing(Two())
Answers = dict[str, list[int]]
"""Votes by network and stage, scaled to the size of a draw; of pairs for the selector: class 0 and
1 of level 0, then of level 1."""
AT_TAU: Answers = {"selector": [0, 0, 1, 99, 0]}
BELOW: Answers = {"selector": [40, 59, 0, 1, 0], "classifier@0.5": [99, 1, 0]}


def play(answers: Answers, budget: Budget) -> tuple[Claim, list[Draw]]:
    draws = list[Draw]()

    def answer(draw: Draw) -> Counts:
        draws.append(draw)
        shares = np.array(answers[draw.model], np.int64)
        votes: Counts = shares * draw.count // shares.sum()
        votes[shares.argmax()] += draw.count - votes.sum()
        return votes

    return answered(METHOD.certify(budget, 0.001), answer), draws


def asked(draws: list[Draw]) -> list[tuple[str, str, int, int]]:
    return [(draw.model, draw.phase.name, draw.first, draw.count) for draw in draws]


def test_an_image_routed_to_tau_costs_what_fixed_smoothing_costs() -> None:
    claim, draws = play(AT_TAU, Budget.fixed(100, 1000))
    selector = [("selector", "SELECT_GUESS", 0, 100), ("selector", "SELECT_ESTIMATE", 0, 1000)]
    assert asked(draws) == selector
    assert (claim.predicted, claim.sigma, claim.interval) == (1, 1.0, (1, 1))
    assert [(b.stage, b.event, b.k, b.n) for b in claim.bounds] == [
        ("selector", ">= 1", 1000, 1000), ("classifier", "= 1", 990, 1000),
    ]  # fmt: skip


@pytest.mark.parametrize("budget", [Budget.precise(0.1, n0=100, n=5000),
                                    Budget.decide((0.5, 1.0), n0=100, n=5000)],
                         ids=lambda budget: budget.kind)  # fmt: skip
def test_adaptive_budgets_draw_no_row_twice(budget: Budget) -> None:
    alone = FixedSmoothing(Two(), 1.0)
    claim, draws = play(AT_TAU, budget)
    assert {draw.model for draw in draws} == {"selector"}
    ends = [0, *(d.first + d.count for d in draws if d.phase.name == "SELECT_ESTIMATE")]
    assert [d.first for d in draws if d.phase.name == "SELECT_ESTIMATE"] == ends[:-1]
    assert {bound.stage for bound in claim.bounds} == {"selector", "classifier"}
    counts = list[int]()

    def answer(draw: Draw) -> Counts:
        counts.append(draw.count)
        return np.array([draw.count // 100, draw.count - draw.count // 100, 0])

    answered(alone.certify(budget, 0.001), answer)
    assert sum(draw.count for draw in draws) <= 1.1 * sum(counts)


def test_other_levels_draw_their_own_rows_and_more_at_tau_if_they_must() -> None:
    claim, draws = play(BELOW, Budget.precise(0.05, n0=100, n=10_000))
    networks = [draw.model for draw in draws]
    assert networks[:4] == ["selector", "classifier@0.5", "selector", "classifier@0.5"]
    assert claim.alpha.rule == "chain"
    torn = {"selector": [55, 0, 45, 0, 0], "classifier@0.5": [99, 1, 0]}
    claim, draws = play(torn, Budget.precise(0.05, n0=100, n=10_000))
    bounds = {(bound.stage, bound.sigma): bound.n for bound in claim.bounds}
    at_tau = [(d.first, d.count) for d in draws if d.phase.name == "SELECT_ESTIMATE"]
    assert claim.interval == (0, 1)
    assert bounds["classifier", 1.0] == sum(count for _, count in at_tau)
    assert bounds["classifier", 1.0] >= bounds["classifier", 0.5]


@pytest.mark.parametrize(
    ("votes", "answer"),
    [(AT_TAU, Prediction(1, (1.0,), None)), (BELOW, Prediction(0, (0.5,), None)),
     ({"selector": [0, 30, 30, 40, 0]}, Prediction(1, (1.0,), None)),
     ({"selector": [0, 0, 50, 50, 0]}, Prediction(None, (1.0,), "classifier")),
     (BELOW | {"selector": [0, 0, 0, 0, 1]}, Prediction(None, (0.5, 1.0), "classifier"))], ids=str,
)  # fmt: skip
def test_predict(votes: Answers, answer: Prediction) -> None:
    def scaled(draw: Draw) -> Counts:
        shares = np.array(votes[draw.model])
        found: Counts = shares * draw.count // shares.sum()
        return found

    assert answered(METHOD.predict(1000, 0.001), scaled) == answer


def test_sums_of_pairs_keep_the_invalid_votes() -> None:
    pairs = np.array([1, 2, 3, 4, 5, 6, 7])
    assert level_votes(pairs, 2).tolist() == [6, 15, 7]
    assert class_votes(pairs, 2).tolist() == [5, 7, 9, 7]


SETTINGS = Settings(Budget.fixed(20, 300), precision="fp32", device="cpu", threads=1)
IDS = [0, 5, 9, 40]


def certified(method: DualSmoothing, folder: Path, settings: Settings = SETTINGS) -> Path:
    certify_run(method, load_images("digits"), IDS, settings, folder)
    return folder


def forged(certificate: Certificate) -> Certificate:
    """The votes for classes of two levels change places: sums over classes stay as they were."""
    first = certificate.counts[1]
    votes = np.array(first.votes)
    votes[[*range(10), *range(10, 20)]] = votes[[*range(10, 20), *range(10)]]
    counts = [dataclasses.replace(first, votes=tuple(votes.tolist())), *certificate.counts[2:]]
    return dataclasses.replace(certificate, counts=(certificate.counts[0], *counts))


@pytest.mark.parametrize("budget", [Budget.fixed(20, 300), Budget.decide((0.01, 0.1), 20, 600),
                                    Budget.precise(0.1, 50, 600)],
                         ids=lambda budget: budget.kind)  # fmt: skip
def test_runs_are_audited_and_drawn_again(
    joint_bundle: Bundle, tmp_path: Path, budget: Budget
) -> None:
    settings = dataclasses.replace(SETTINGS, budget=budget)
    data = load_images("digits")
    folder = certified(DualSmoothing(joint_bundle), tmp_path / "run", settings)
    log = folder / "certificates.jsonl"
    assert read_log(folder)[0].method == "dual(median, interval, prefer balanced, joint votes)"
    assert {len(r.votes) for c in read_log(folder) for r in c.counts if r.model == SELECTOR} == {31}
    for comparison in ("exact", "statistical"):
        seen = audit(folder, data)
        assert seen.findings == []
        assert seen.plan is not None
        replay(seen, seen.plan, joint_bundle, data, Choice(1.0, 3, comparison))
        assert seen.findings == []
    lines = [forged(certificate).to_json() for certificate in read_log(folder)]
    log.write_text("\n".join(lines) + "\n")
    seen = audit(folder, data)
    if not seen.findings:
        assert seen.plan is not None
        replay(seen, seen.plan, joint_bundle, data, Choice(1.0, 3, "exact"))
    assert seen.findings


def test_fixed_runs_of_a_joint_bundle_are_drawn_again(joint_bundle: Bundle, tmp_path: Path) -> None:
    """With the expert at tau, which dual does not ask."""
    assert set(DualSmoothing(joint_bundle).roles) == {SELECTOR, "classifier"}
    data = load_images("digits")
    certify_run(FixedSmoothing(joint_bundle, 0.5), data, IDS, SETTINGS, tmp_path / "run")
    seen = audit(tmp_path / "run", data)
    assert seen.plan is not None
    replay(seen, seen.plan, joint_bundle, data, Choice(1.0, 3, "exact"))
    assert seen.findings == []


def test_what_cannot_have_joint_votes_is_named(joint_bundle: Bundle) -> None:
    with pytest.raises(ArgumentError, match=r"tau must be one of the levels .* joint votes"):
        dataclasses.replace(joint_bundle, tau=0.6)
