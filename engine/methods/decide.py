"""Budget ``decide``: is the radius above r? Exact sequential tests over a fixed grid of radii.

A claim "radius > r" holds if all tests of some set pass at r. Selection votes fix the sets. Each
test is the group-sequential plan of one event at one radius (`decision_plan`) on the estimation
votes of one network. Its outcome is a function of those votes alone: other tests, the
order in which they are run and stopping early decide only whether it is looked at. So every way of
being lazy is sound, and the least promising test of a set runs first.

One radius. A single set: a false claim needs the one event with the smallest true radius to pass,
at its level (intersection-union; Berger 1982). A chain of growing sets (theorem C1 of
`dualsmooth.engine.methods.dual`): let S be the last set not all of whose selector events have a
true radius above r. All selector tests of one r share votes and plan, so an event that contains
another has at least its count at every look and passes if that one does, futility or not. A false
claim through S or a smaller set therefore makes a fixed false event of S pass: a_sel. Through a
larger set, the level with the smallest true radius in the set after S, a fixed one, passes: a_cls.
With full alpha in both stages a chain can err with probability 2 alpha; the sum is needed.

The grid. Radii are claimed in increasing order and none is skipped, so a false claim needs a false
claim of the smallest false radius: the level of one radius holds for the grid.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import inf
from typing import NamedTuple

import scipy

from dualsmooth.engine.budget import Budget
from dualsmooth.engine.draws import Counts, Draw
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.ledger import Bound, RadiusTest
from dualsmooth.engine.methods.votes import event_votes
from dualsmooth.engine.radius.decision import (
    check_reachable,
    decision_looks,
    decision_plan,
    least_probability,
)


def check_radii(budget: Budget, sigma: float, alpha: float, runner_up: bool) -> None:
    """Raise `ArgumentError` if no votes at the largest sigma can certify a grid's last radius."""
    check_reachable(budget.radii, sigma, budget.n, alpha)
    if runner_up and budget.radii:
        hint = "its tests are about more than half of the votes"
        raise ArgumentError("runner_up", "must be off with a decide budget", True, hint)


class VoteStream:
    """Estimation votes of one network at one noise level, drawn look by look, each once.

    ``pilot`` are selection votes of the same network: they tell promising tests from others.
    """

    def __init__(self, draw: Draw, pilot: Counts | None = None) -> None:
        self.draw, self.looks, self.latest = draw, decision_looks(draw.count), pilot
        self._sizes = tuple(b - a for a, b in pairwise((0, *self.looks)))
        self._seen: list[Counts] = []

    def until(self, look: int) -> Generator[Draw, Counts, Counts]:
        """All votes up to a look."""
        while len(self._seen) <= look:
            count, *ahead = self._sizes[len(self._seen) :]
            first = self.draw.first + self.looks[len(self._seen)] - count
            votes = yield replace(self.draw, first=first, count=count, ahead=tuple(ahead))
            self.latest = votes + self._seen[-1] if self._seen else votes
            self._seen.append(self.latest)
        return self._seen[look]


@dataclass(eq=False)
class EventTests:
    """Tests of one event on the votes of a stream, which trials may share; each at level alpha."""

    stage: str
    event: tuple[str, int]
    stream: VoteStream
    alpha: float
    tests: dict[float, RadiusTest] = field(default_factory=dict)

    def passes(self, radius: float) -> Generator[Draw, Counts, bool]:
        """Run the test of a radius as far as it takes to decide it."""
        if radius not in self.tests:
            self.tests[radius] = yield from self._test(radius)
        return self.tests[radius].outcome == "certified"

    def _test(self, radius: float) -> Generator[Draw, Counts, RadiusTest]:
        draw = self.stream.draw
        plan = decision_plan(radius, draw.sigma, draw.count, self.alpha)
        if plan is None or plan.futility is None:
            p0 = least_probability(radius, draw.sigma)
            return RadiusTest(radius, p0, draw.count, -1, 0, 0, draw.count + 1, -1, "unreachable")
        outcome, look, k = "undecided", -1, 0
        while outcome == "undecided" and look + 1 < len(plan.looks):
            look += 1
            k = event_votes((yield from self.stream.until(look)), *self.event)
            if k >= plan.thresholds[look]:
                outcome = "certified"
            elif k <= plan.futility[look]:
                outcome = "futile"
        votes, passes, gives_up = plan.looks[look], plan.thresholds[look], plan.futility[look]
        return RadiusTest(radius, plan.p0, draw.count, look, votes, k, passes, gives_up, outcome)

    @property
    def outlook(self) -> float:
        """Radius that the votes so far suggest; infinite before any. Only orders the tests."""
        if self.stream.latest is None:
            return inf
        k, n = event_votes(self.stream.latest, *self.event), int(self.stream.latest.sum())
        return self.stream.draw.sigma * float(scipy.special.ndtri((k + 0.5) / (n + 1.0)))

    @property
    def bound(self) -> Bound:
        """The tests as a certificate records them."""
        tests = tuple(self.tests.values())
        passed = [(t.radius, t.p0) for t in tests if t.outcome == "certified"]
        radius, lower = max(passed, default=(0.0, 0.0))
        event, sigma = f"{self.event[0]} {self.event[1]}", self.stream.draw.sigma
        last = max(tests, key=lambda t: t.n)
        return Bound(self.stage, event, sigma, last.k, last.n, self.alpha, lower, radius, tests)


class Decision(NamedTuple):
    """Largest radius claimed, the set that claimed it, and the stage that ended the sequence.

    ``failed_at`` is None if every radius was claimed.
    """

    radius: float
    member: int | None
    failed_at: str | None


def decide(
    radii: Sequence[float], sets: Sequence[Sequence[EventTests]]
) -> Generator[Draw, Counts, Decision]:
    """Claim radii in increasing order, each through the first set all of whose tests pass.

    There is one set, or a chain of growing ones; a trial that fails rules out every set it is in.
    """
    alive, radius, member = list(range(len(sets))), 0.0, None
    for target in radii:
        failed = yield from _first_failure(sets[alive[0]], target)
        while failed:
            alive = [m for m in alive if failed not in sets[m]]
            if not alive:
                return Decision(radius, member, failed.stage)
            failed = yield from _first_failure(sets[alive[0]], target)
        radius, member = target, alive[0]
    return Decision(radius, member, None)


def _first_failure(
    trials: Sequence[EventTests], radius: float
) -> Generator[Draw, Counts, EventTests | None]:
    """The first test that fails, the least promising run first; None if all pass."""
    waiting = list(trials)
    while waiting:
        waiting.sort(key=lambda trial: trial.outlook)
        trial = waiting.pop(0)
        if not (yield from trial.passes(radius)):
            return trial
    return None
