"""Error probabilities of routed methods, exactly: every outcome of a few votes is enumerated.

Two levels, two classes. True probabilities lie just below the edge of a radius that is claimed, or
are certain; a claim is wrong beyond the distance at which the worst selector and classifiers with
these probabilities answer otherwise. `test_adaptive.py` draws more votes than can be enumerated.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from math import comb, inf, prod
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.special import ndtr, ndtri

from dualsmooth.engine.budget import Budget
from dualsmooth.engine.certificate import Claim
from dualsmooth.engine.draws import Counts, Draw
from dualsmooth.engine.ledger import AlphaLedger
from dualsmooth.engine.methods.dual import DualSmoothing
from dualsmooth.engine.runtime.drive import answered

ALPHA, TAU, SIGMAS = 0.3, 0.7, (0.5, 1.0)
NAMES = ("level 0", "level 1", "selector")
SCENE = SimpleNamespace(tau=TAU, sigmas=SIGMAS, classifier_at=lambda s: NAMES[SIGMAS.index(s)])


@dataclass(frozen=True)
class Outcome:
    """One way the votes may fall: first answers and second ones of each network, and the claim."""

    ways: int
    votes: tuple[tuple[int, int], ...]
    claim: Claim


class Unanswered(Exception):
    """A draw that an outcome has no votes for yet."""


def outcomes(method: DualSmoothing, budget: Budget) -> Iterator[Outcome]:
    """Every way the votes of a certificate may fall."""
    waiting: list[tuple[int, ...]] = [()]
    while waiting:
        firsts = waiting.pop()
        asked: list[Draw] = []

        def answer(
            draw: Draw, firsts: tuple[int, ...] = firsts, asked: list[Draw] = asked
        ) -> Counts:
            asked.append(draw)
            if len(asked) > len(firsts):
                raise Unanswered
            first = firsts[len(asked) - 1]
            return np.array([first, draw.count - first, 0], np.int64)

        try:
            claim = answered(method.certify(budget, ALPHA), answer)
        except Unanswered:
            waiting += [(*firsts, first) for first in range(asked[-1].count + 1)]
            continue
        of = [[(f, d.count - f) for f, d in zip(firsts, asked, strict=True) if d.model == name]
              for name in NAMES]  # fmt: skip
        ways = prod(comb(d.count, first) for first, d in zip(firsts, asked, strict=True))
        yield Outcome(ways, tuple((sum(a for a, _ in v), sum(b for _, b in v)) for v in of), claim)


def true_radius(label: int, firsts: tuple[float, ...]) -> float:
    """The least distance at which a level may be routed to whose class may be another."""
    *classes, low = firsts
    routed = 0 if low >= 0.5 else 1
    away = TAU * abs(float(ndtri(low)))
    reach = [0.0 if level == routed else away for level in (0, 1)]
    right = [p if label == 0 else 1.0 - p for p in classes]
    rho = [s * float(ndtri(p)) for s, p in zip(SIGMAS, right, strict=True)]
    return min(max(0.0, *pair) for pair in zip(reach, rho, strict=True))


def worst(method: DualSmoothing, budget: Budget) -> float:
    """The largest probability of a wrong claim over all true probabilities that are tried."""
    known = list(outcomes(method, budget))
    ways = np.array([o.ways for o in known], float)
    votes = np.array([o.votes for o in known])
    label = np.array([-1 if o.claim.predicted is None else o.claim.predicted for o in known])
    radius, found = np.array([o.claim.radius for o in known]), 0.0
    for edge in {o.claim.radius for o in known if 0.0 < o.claim.radius < inf}:
        below = [float(ndtr(edge / s * (1 - 1e-9))) for s in (*SIGMAS, TAU)]
        for firsts in product(*((p, 1.0 - p, 0.5, 1.0) for p in below)):
            p = np.array([(first, 1.0 - first) for first in firsts])
            chance = ways * np.where(votes > 0, p**votes, 1.0).prod((1, 2))
            assert chance.sum() == pytest.approx(1.0)
            true = np.array([true_radius(0, firsts), true_radius(1, firsts)])
            found = max(found, float(chance[(label >= 0) & (radius > true[label])].sum()))
    return found


BUDGETS = Budget.fixed(2, 5), Budget.precise(0.05, 2, 6), Budget.decide((0.1, 0.3), 2, 5)


@pytest.mark.parametrize("budget", BUDGETS, ids=lambda budget: budget.kind)
@pytest.mark.parametrize(
    ("rule", "routing", "split"),
    [("plurality", "point", False), ("plurality", "point", True), ("median", "point", False),
     ("median", "interval", False), ("median", "interval", True)],
)  # fmt: skip
def test_wrong_claims_are_as_rare_as_promised(
    rule: str, routing: str, split: bool, budget: Budget
) -> None:
    found = worst(DualSmoothing(SCENE, rule, routing, split), budget)
    assert 0.1 * ALPHA < found <= ALPHA  # not vacuous; few votes cannot spend all


def test_a_chain_at_full_alpha_in_both_stages_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    levels = {"selector": ALPHA, "classifier": ALPHA}
    ledger = AlphaLedger("chain", 2 * ALPHA, levels)
    monkeypatch.setattr(DualSmoothing, "_ledger", lambda *_: ledger)
    assert worst(DualSmoothing(SCENE, "median", "interval"), Budget.fixed(2, 5)) > ALPHA
