"""Joint votes keep the promise of votes on noise of their own; what breaks it is noticed.

10,000 seeded runs per case at alpha = 0.01; wrong runs must not exceed the 1 - 1e-6 quantile of
Bin(10,000, alpha), so the false-alarm rate is 1e-6 per case. A run is wrong if its radius exceeds
the one that the true probabilities of pairs (level, class) allow. They lie just below the edge of a
claim, and level and class depend on each other as much as they can, in either direction.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from dualsmooth.engine.budget import Budget
from dualsmooth.engine.draws import Counts, Draw, Phase
from dualsmooth.engine.methods.dual import DualSmoothing
from dualsmooth.engine.models import joint
from dualsmooth.engine.runs.frontier import merged
from dualsmooth.engine.runtime.drive import answered
from tests.engine.methods.coverage.conftest import (
    ALPHA,
    LIMIT,
    RUNS,
    drawn,
    just_below,
    slow,
    spend_twice,
)

FIXED = Budget.fixed(n0=20, n=200)
DECIDE = Budget.decide((0.25, 0.5), n0=20, n=500)
PRECISE = Budget.precise(0.1, n0=50, n=400)
SIGMAS = (0.5, 1.0)


@dataclass(frozen=True)
class Scene:
    """Probabilities of level 1, of class 0 at level 0, and of class 0 at tau, which is level 1.

    With ``opposed`` a row for the one is as often as possible no row for the other, else it is as
    often as possible a row for both.
    """

    upper: float
    lower_class: float
    upper_class: float
    opposed: bool = False

    sigmas = SIGMAS
    tau = 1.0
    joint = True

    def classifier_at(self, sigma: float) -> str:
        return "lower"

    @cached_property
    def pairs(self) -> NDArray[np.float64]:
        """Of levels 0 and 1, then of classes 0 and 1, and no invalid ones: shape (5,)."""
        level, label = self.upper, self.upper_class
        both = max(0.0, level + label - 1) if self.opposed else min(level, label)
        return np.array([label - both, 1 - level - label + both, both, level - both, 0.0])

    def law(self, draw: Draw) -> Sequence[float]:
        """What rows of a draw vote for."""
        assert (draw.model == "selector") == (draw.sigma == self.tau)
        lower = (self.lower_class, 1 - self.lower_class, 0.0)
        return self.pairs.tolist() if draw.model == "selector" else lower

    def radius(self, label: int) -> float:
        """Largest radius that the probabilities allow for a class."""
        signs = 1 if label == 0 else -1
        lower, upper = (
            signs * s * ndtri(p)
            for s, p in zip(SIGMAS, (self.lower_class, self.upper_class), strict=True)
        )
        level = float(ndtri(self.upper)) * self.tau
        return float(max(0.0, min(-level, lower), min(level, upper), min(lower, upper)))


SCENES = {
    "selector at the edge": Scene(just_below(0.25), 0.98, 0.98),
    "classifier at the edge": Scene(0.98, just_below(0.25, 0.5), just_below(0.25)),
    "both at the edge": Scene(just_below(0.25), 0.3, just_below(0.25)),
    "both at the edge, opposed": Scene(just_below(0.25), 0.3, just_below(0.25), opposed=True),
    # Theorem C1's worst case: tau's level fails by the selector, both levels by the lower one.
    "chain at the edge, opposed": Scene(
        just_below(0.25), just_below(0.25, 0.5), 0.95, opposed=True
    ),
    "class undecided": Scene(0.95, 0.2, 0.5),
}


def wrong(scene: Scene, budget: Budget, rule: str = "median", routing: str = "interval") -> int:
    """Number of wrong certificates among 10,000."""
    method, rng = DualSmoothing(scene, rule, routing), np.random.default_rng(5)
    true = scene.radius(0), scene.radius(1)
    claims = [drawn(method.certify(budget, ALPHA), scene.law, rng) for _ in range(RUNS)]
    return sum(c.predicted is not None and c.radius > true[c.predicted] for c in claims)


QUICK = {("chain at the edge, opposed", "interval", "precise")}
CASES = [
    (case if (*case[:2], case[2].kind) in QUICK else slow(*case))
    for name in SCENES
    for routing in ("interval", "point")
    for budget in (FIXED, DECIDE, PRECISE)
    for case in [(name, routing, budget)]
]


@pytest.mark.parametrize(("name", "routing", "budget"), CASES)
def test_joint_votes_keep_the_promise(name: str, routing: str, budget: Budget) -> None:
    assert wrong(SCENES[name], budget, "median", routing) <= LIMIT


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENES)
@pytest.mark.parametrize("budget", [FIXED, DECIDE, PRECISE], ids=lambda budget: budget.kind)
def test_the_published_rule_keeps_it(name: str, budget: Budget) -> None:
    assert wrong(SCENES[name], budget, "plurality", "point") <= LIMIT


def test_one_noise_for_guess_and_bound_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The class is guessed by the rows that bound it."""
    monkeypatch.setitem(joint.STAGES, Phase.CLASS_GUESS, Phase.SELECT_ESTIMATE)
    assert wrong(SCENES["class undecided"], FIXED, "median", "point") > LIMIT


def test_class_votes_of_another_sigma_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Votes at tau stand for the expert of the smaller level."""
    monkeypatch.setattr(joint, "joint_level", lambda networks: 0)
    scene = Scene(0.05, just_below(0.1, 0.5), 0.95)
    method, rng = DualSmoothing(scene), np.random.default_rng(5)
    claims = [drawn(method.certify(FIXED, ALPHA), scene.law, rng) for _ in range(200)]
    assert sum(claim.radius > scene.radius(0) for claim in claims) > 100


@pytest.mark.slow
def test_full_alpha_in_both_stages_of_a_chain_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shared noise does not make one level do for both."""
    spend_twice(monkeypatch)
    assert wrong(SCENES["chain at the edge, opposed"], DECIDE) > LIMIT


EDGES = (-0.3, 0.3)


@pytest.mark.slow
def test_a_threshold_chosen_after_joint_votes_is_caught() -> None:
    """Pairs of a score's bin and a class: at either threshold the level changes at 0.3."""
    bins = np.array([*np.outer(np.diff([0.0, *ndtr(EDGES), 1.0]), (1.0, 0.0)).flat, 0.0])
    budget, rng = Budget.fixed(20, 1000), np.random.default_rng(3)
    method, wrong = DualSmoothing(Scene(0.5, 1.0, 1.0), "plurality"), np.zeros(2, np.int64)
    for _ in range(RUNS):
        votes = [rng.multinomial(n, bins) for n in (budget.n0, budget.n)]
        radii = [at_threshold(method, budget, votes, threshold) for threshold in EDGES]
        wrong += [radii[0] > 0.3, max(radii) > 0.3]
    assert wrong[0] <= LIMIT < wrong[1]


def at_threshold(
    method: DualSmoothing, budget: Budget, votes: list[NDArray[np.int64]], threshold: float
) -> float:
    """Radius from recorded votes for bins; class 0 at the other level, too."""

    def answer(draw: Draw) -> Counts:
        if draw.model != "selector":
            return np.array([draw.count, 0, 0], np.int64)
        return merged(votes[draw.phase is Phase.SELECT_ESTIMATE], EDGES, (threshold,))

    return answered(method.certify(budget, ALPHA), answer).radius
