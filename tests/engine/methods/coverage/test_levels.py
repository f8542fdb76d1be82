"""Error probabilities with two, four, five and seven noise levels, exactly.

Selection votes fix the routed level, the chain, the class or the stage, and a promise holds
whatever they were: they are given. Every outcome of the estimation votes is enumerated. True
probabilities are those that leave one bound alone at the edge of a claimed radius, and others.
`test_adaptive.py` draws more votes than can be enumerated.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations, pairwise, permutations, product
from math import inf, lgamma
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from dualsmooth.engine.budget import Budget
from dualsmooth.engine.draws import Counts, Draw, Phase
from dualsmooth.engine.ledger import AlphaLedger
from dualsmooth.engine.methods import routing
from dualsmooth.engine.methods.cascade import CascadeSmoothing
from dualsmooth.engine.methods.dual import DualSmoothing
from dualsmooth.engine.methods.method import Method
from dualsmooth.engine.runtime.drive import answered
from tests.engine.methods.coverage.conftest import just_below, slow, spend_twice

ALPHA, TAU = 0.4, 0.7
Floats = NDArray[np.float64]


def scene(levels: int) -> Any:
    """Names of that many levels, each with a classifier of two classes."""
    sigmas = tuple(0.25 * 1.5**level for level in range(levels))
    return SimpleNamespace(
        tau=TAU, sigmas=sigmas, classifier_at=lambda s: f"level {sigmas.index(s)}"
    )


def fallen(votes: int, bins: int) -> Iterator[tuple[int, ...]]:
    """Every way in which votes may fall into bins."""
    for bars in combinations(range(votes + bins - 1), bins - 1):
        ends = (-1, *bars, votes + bins - 1)
        yield tuple(b - a - 1 for a, b in pairwise(ends))


class Unanswered(Exception):
    """A draw that an outcome has no votes for yet."""


@dataclass(frozen=True)
class Outcomes:
    """All outcomes: log ways, votes per network and bin in one row, and what was answered."""

    ways: Floats
    votes: Floats
    answers: list[Any]

    def chance(self, truths: Floats) -> Floats:
        """Probability of every outcome, shape (outcomes, truths), for probabilities per bin."""
        with np.errstate(divide="ignore"):
            logs = np.maximum(np.log(truths), -1e6)
        return np.exp(self.ways[:, None] + self.votes @ logs.T)


def outcomes(
    method: Method, procedure: Any, levels: int, given: dict[Phase, tuple[int, ...]]
) -> Outcomes:
    """Every way the votes of a procedure may fall, those of some phases being given."""
    names = ["selector", *map(method.networks.classifier_at, method.networks.sigmas)]
    starts = dict(zip(names, [0, *range(levels, 3 * levels, 2)], strict=True))
    waiting: list[tuple[tuple[int, ...], ...]] = [()]
    ways, rows, answers = list[float](), list[Floats](), list[Any]()
    while waiting:
        votes = waiting.pop()
        asked = list[Draw]()

        def answer(
            draw: Draw, votes: Sequence[tuple[int, ...]] = votes, asked: list[Draw] = asked
        ) -> Counts:
            if draw.phase in given:
                return np.array([*given[draw.phase], 0])
            asked.append(draw)
            if len(asked) > len(votes):
                raise Unanswered
            return np.array([*votes[len(asked) - 1], 0])

        try:
            answers.append(answered(procedure(), answer))
        except Unanswered:
            bins = levels if asked[-1].model == "selector" else 2
            waiting += [(*votes, more) for more in fallen(asked[-1].count, bins)]
            continue
        row, log = np.zeros(3 * levels), 0.0
        for draw, counts in zip(asked, votes, strict=True):
            row[starts[draw.model] : starts[draw.model] + len(counts)] += counts
            log += lgamma(draw.count + 1) - sum(lgamma(k + 1) for k in counts)
        ways.append(log)
        rows.append(row)
    return Outcomes(np.array(ways), np.array(rows), answers)


def truths(levels: int, edge: float, sigmas: Sequence[float], share: float) -> Iterator[Floats]:
    """Selectors between two levels, one of them at the edge of a radius; classes at it or sure."""
    held = [just_below(edge, TAU), 0.5, 1.0 - 1e-12]
    classes = [just_below(edge, s) for s in sigmas]
    rng = np.random.default_rng(levels)
    for one, other in permutations(range(levels), 2):
        for mass, at_edge in product(held, product((True, False), repeat=levels)):
            if rng.random() > share:
                continue
            selector = np.zeros(levels)
            selector[one], selector[other] = mass, 1.0 - mass
            right = np.where(at_edge, classes, 1.0 - 1e-12)
            yield np.concatenate([selector, np.stack([right, 1.0 - right], 1).ravel()])


def true_radius(rule: str, truth: Floats, sigmas: Sequence[float]) -> float:
    """The least distance at which a level may be routed to whose class may not be the first."""
    levels = len(sigmas)
    selector, right = truth[:levels], truth[levels::2]
    rho = [s * float(ndtri(p)) for s, p in zip(sigmas, right, strict=True)]
    if rule == "plurality":
        routed, z = int(selector.argmax()), ndtri(selector)
        reach = [TAU / 2 * float(z[routed] - z[j]) for j in range(levels)]
    else:
        below = np.minimum(selector.cumsum(), 1.0)
        routed = int((below >= 0.5).nonzero()[0][0])
        above = [1.0 - (below[j - 1] if j else 0.0) for j in range(levels)]
        reach = [
            0.0 if j == routed
            else TAU * float(ndtri(below[j - 1])) if j > routed
            else TAU * float(ndtri(above[j + 1]))
            for j in range(levels)
        ]  # fmt: skip
    return min(max(0.0, *pair) for pair in zip(reach, rho, strict=True))


@cache
def guesses(levels: int) -> list[tuple[int, ...]]:
    """Selection votes for every chain there is, and of one level alone."""
    found = {}
    for votes in fallen(levels, levels):
        counts = np.array([*votes, 0])
        start = routing.routed_level("median", counts)
        assert start is not None
        alone = counts[start] == levels
        found[alone, start, *routing.growing_chain(counts, start)] = votes
    return list(found.values())


def worst(method: DualSmoothing, budget: Budget, every: int, share: float) -> float:
    """The largest probability of a wrong claim, over selection votes (so many left out) and truths
    (a share of them).
    """
    sigmas, found = method.networks.sigmas, 0.0
    for votes in guesses(len(sigmas))[::every]:
        given = {Phase.SELECT_GUESS: votes, Phase.CLASS_GUESS: (budget.n0, 0)}
        known = outcomes(method, lambda: method.certify(budget, ALPHA), len(sigmas), given)
        radius = np.array([claim.radius for claim in known.answers])
        for edge in {r for r in radius if 0.0 < r < inf}:
            tried = np.array(list(truths(len(sigmas), edge, sigmas, share)))
            true = np.array([true_radius(method.selector_rule, t, sigmas) for t in tried])
            chance = known.chance(tried)
            assert np.allclose(chance.sum(0), 1.0)
            found = max(found, float((chance * (radius[:, None] > true)).sum(0).max()))
    return found


FEW = Budget.fixed(3, 4)
RULES = (
    *(("median", "interval"), ("median", "interval", True), ("median", "point")),
    *(("plurality", "point"), ("plurality", "point", True)),
)
BUDGETS = (FEW, Budget.decide((0.1, 0.2), 3, 5), Budget.precise(0.05, 3, 4))
CASES = [
    *((2, rule, budget, 1, 1.0) for rule in RULES for budget in BUDGETS),
    (4, ("median", "interval"), FEW, 2, 0.1),
    (4, ("plurality", "point"), FEW, 1, 0.2),
    *(slow(4, ("median", "interval"), budget, 1, 1.0) for budget in BUDGETS),
    *(slow(4, rule, FEW, 1, 1.0) for rule in RULES[1:4]),
    slow(5, ("median", "interval"), Budget.fixed(3, 3), 1, 0.3),
    slow(7, ("median", "interval"), Budget.fixed(3, 3), 8, 0.01),
]


@pytest.mark.parametrize(("levels", "rule", "budget", "every", "share"), CASES)
def test_wrong_claims_are_as_rare_as_promised(
    levels: int, rule: tuple[Any, ...], budget: Budget, every: int, share: float
) -> None:
    found = worst(DualSmoothing(scene(levels), *rule), budget, every, share)
    assert 0.4 * ALPHA < found <= ALPHA * (1.0 + 1e-9)


@pytest.mark.parametrize(
    ("levels", "votes", "every", "share"), [(2, 4, 1, 1.0), (4, 3, 5, 0.5), slow(5, 3, 5, 0.5)]
)
def test_a_chain_at_full_alpha_in_both_stages_is_noticed(
    monkeypatch: pytest.MonkeyPatch, levels: int, votes: int, every: int, share: float
) -> None:
    spend_twice(monkeypatch, ALPHA)
    method = DualSmoothing(scene(levels), "median", "interval")
    assert worst(method, Budget.fixed(3, votes), every, share) > 1.2 * ALPHA


def test_a_side_of_the_interval_forgotten_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """With two levels every interval but the last has one side only."""
    honest = routing.constancy_events
    monkeypatch.setattr(routing, "constancy_events", lambda *about: honest(*about)[:1])
    method = DualSmoothing(scene(4), "median", "point")
    assert worst(method, Budget.fixed(3, 3), 1, 0.2) > 1.2 * ALPHA


def test_a_level_of_the_interval_forgotten_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def newest_only(claim: routing.ChainClaim, radii: list[float]) -> None:
        claim.smallest.append(min(radii))

    monkeypatch.setattr(routing.ChainClaim, "add", newest_only)
    assert worst(DualSmoothing(scene(4)), Budget.fixed(3, 3), 5, 0.5) > 1.04 * ALPHA


def cascade_worst(levels: int, threshold: float, votes: int, alpha: float) -> float:
    """As `worst`, of a cascade that stops at its last stage: none before it must be sure."""
    method = CascadeSmoothing(scene(levels), threshold)
    sigmas, z0 = np.array(method.sigmas), float(ndtri(threshold))
    ledger = AlphaLedger("minimum", alpha, {"classifier": alpha, "earlier": alpha})
    known = outcomes(method, lambda: method._estimate(0, 0, votes, ledger), levels, {})
    radius, found = np.array([claim.radius for claim in known.answers]), 0.0
    for edge in {r for r in radius if 0.0 < r < inf}:
        near = edge / sigmas * (1 - 1e-9)
        for at_edge in product((True, False), repeat=levels):
            margin = np.where(at_edge, near, 7.0 - z0)
            right = ndtr(margin + np.array([z0, *[-z0] * (levels - 1)]))
            truth = [*np.eye(levels)[0], *np.stack([right, 1.0 - right], 1).ravel()]
            true = float((sigmas * margin).min())
            found = max(found, float(known.chance(np.array([truth]))[radius > true].sum()))
    return found


@pytest.mark.parametrize("threshold", [0.5, 0.6])
@pytest.mark.parametrize(("levels", "votes"), [(4, 5), (5, 4), slow(7, 4)])
def test_a_cascade_of_many_levels(levels: int, votes: int, threshold: float) -> None:
    """One minimum over all stages: every bound at the full alpha, however many there are."""
    assert 0.5 * ALPHA < cascade_worst(levels, threshold, votes, ALPHA) <= ALPHA * (1.0 + 1e-9)
    assert cascade_worst(levels, threshold, votes, 1.5 * ALPHA) > 1.2 * ALPHA


def answers_wrong(method: Method, votes: int, alpha: float) -> float:
    """The largest probability that PREDICT answers another class than the deployed classifier."""
    levels, cascade = len(method.sigmas), isinstance(method, CascadeSmoothing)
    known = outcomes(method, lambda: method.predict(votes, alpha), levels, {})
    answers = [-1 if a.predicted is None else a.predicted for a in known.answers]
    edge = method.threshold if isinstance(method, CascadeSmoothing) else 0.5
    sides = (edge - 1e-9, edge + 1e-9, 1e-12, 1.0 - 1e-12)
    rng, found = np.random.default_rng(levels), 0.0
    for one, other in permutations(range(levels), 2) if not cascade else [(0, 1)]:
        for right in product(sides, repeat=levels):
            if rng.random() > 64 / 4**levels and not cascade:
                continue
            selector = np.zeros(levels)
            selector[one], selector[other] = 0.5 + 1e-9, 0.5 - 1e-9
            best = [(0, p) if p >= 0.5 else (1, 1.0 - p) for p in right]
            sure = [label for label, p in reversed(best) if p >= edge]
            deployed = (sure[0] if sure else -1) if cascade else best[one][0]
            truth = [*selector, *[q for p in right for q in (p, 1.0 - p)]]
            wrong = [answer not in (-1, deployed) for answer in answers]
            found = max(found, float(known.chance(np.array([truth]))[wrong].sum()))
    return found


@pytest.mark.parametrize(
    ("method", "votes"),
    [(DualSmoothing(scene(4)), 4), (DualSmoothing(scene(4), "plurality"), 4),
     (CascadeSmoothing(scene(4), 0.6), 6),
     slow(DualSmoothing(scene(5)), 4), slow(CascadeSmoothing(scene(5), 0.6), 7)],
)  # fmt: skip
def test_answers_are_wrong_as_rarely_as_promised(method: Method, votes: int) -> None:
    assert 0.05 * ALPHA < answers_wrong(method, votes, ALPHA) <= ALPHA
