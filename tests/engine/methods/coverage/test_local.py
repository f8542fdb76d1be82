"""Coverage of runner-up, cascade, anchors, semi-elastic and continuous variational smoothing.

10,000 seeded runs per case at alpha = 0.01, with votes drawn from exactly known probabilities. A
run is wrong if its radius exceeds the deployed classifier's true radius; more wrong runs than the
1 - 1e-6 quantile of Bin(10,000, alpha) fail, so the false-alarm rate is 1e-6 per case. Each method
has an unsound variant that the same test catches. Few votes, so that histories repeat and a
procedure runs once for each.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from math import exp

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

from dualsmooth.engine.budget import Budget
from dualsmooth.engine.certificate import Claim
from dualsmooth.engine.draws import Counts, Draw
from dualsmooth.engine.methods.cascade import CascadeSmoothing
from dualsmooth.engine.methods.fixed import FixedSmoothing
from dualsmooth.engine.methods.insta import AnchorSmoothing, frozen_radius_unsound
from dualsmooth.engine.methods.method import Method, Procedure
from dualsmooth.engine.methods.regions.anchors import Anchors
from dualsmooth.engine.methods.semielastic import SemielasticAt
from dualsmooth.engine.methods.variational_continuous import ContinuousVariational
from dualsmooth.engine.runtime.drive import answered
from tests.engine.methods.coverage.conftest import ALPHA, LIMIT, RUNS

BUDGET = Budget.fixed(n0=2, n=40)
Probabilities = Callable[[Draw], list[float]]


@dataclass(frozen=True)
class Common:
    """One classifier for every level, beside a selector."""

    sigmas: tuple[float, ...] = ()
    tau: float | None = None

    def classifier_at(self, sigma: float) -> str:
        return "classifier"

    def common_classifier(self) -> str:
        return "classifier"


@dataclass
class Replay:
    """Runs a procedure on given votes once per distinct history: it is a function of its votes."""

    make: Callable[[], Procedure]
    known: dict[tuple[tuple[int, ...], ...], Draw | Claim] = field(default_factory=dict)

    def radius(self, probabilities: Probabilities, rng: np.random.Generator) -> float:
        history: tuple[tuple[int, ...], ...] = ()
        while isinstance(step := self._next(history), Draw):
            votes = rng.multinomial(step.count, [*probabilities(step), 0.0])
            history = (*history, tuple(votes.tolist()))
        return step.radius

    def _next(self, history: tuple[tuple[int, ...], ...]) -> Draw | Claim:
        if history not in self.known:
            self.known[history] = play(self.make(), history)
        return self.known[history]


def play(procedure: Procedure, history: tuple[tuple[int, ...], ...]) -> Draw | Claim:
    draw = next(procedure)
    try:
        for votes in history:
            draw = procedure.send(np.array(votes, np.int64))
    except StopIteration as stop:
        result: Claim = stop.value
        return result
    return draw


def wrong(make: Callable[[], Procedure], probabilities: Probabilities, radius: float) -> int:
    replay, rng = Replay(make), np.random.default_rng(5)
    return sum(replay.radius(probabilities, rng) > radius for _ in range(RUNS))


def certified(method: Method, frozen: bool) -> Procedure:
    """The method's own procedure; unsound, with ``frozen``: the radius with sigma frozen."""
    certificate = yield from method.certify(BUDGET, ALPHA)
    if frozen:
        return replace(certificate, radius=frozen_radius_unsound(certificate))
    return certificate


# Runner-up: three classes on a line, class 0 up to a, class 1 up to b, class 2 beyond.

LINE = (0.1, 0.5)


def shares(at: float, sigma: float) -> list[float]:
    below = [float(ndtr((edge - at) / sigma)) for edge in LINE]
    return [below[0], below[1] - below[0], 1.0 - below[1]]


def true_line_radius(sigma: float) -> float:
    def lead(at: float) -> float:
        mine, *others = shares(at, sigma)
        return mine - max(others)

    return float(brentq(lead, 0.0, 2.0))


def test_runner_up_keeps_its_promise() -> None:
    method = FixedSmoothing(Common(), 0.4, runner_up=True)
    votes = shares(0.0, 0.4)
    assert votes[0] < 0.6
    assert wrong(lambda: method.certify(BUDGET, ALPHA), lambda draw: votes,
                 true_line_radius(0.4)) <= LIMIT  # fmt: skip


def test_runner_up_certifies_a_class_below_half_of_the_votes() -> None:
    counts = ([42, 30, 28, 0], [4200, 2900, 2900, 0])
    for runner_up in (False, True):
        method = FixedSmoothing(Common(), 0.4, runner_up=runner_up)
        end = play(method.certify(Budget.fixed(100, 10_000), 0.001), tuple(map(tuple, counts)))
        assert isinstance(end, Claim)
        assert (end.radius > 0) == runner_up


def rival_named_by_the_guess() -> Procedure:
    """Unsound: only the class that came second among the n0 votes is bounded."""
    procedure = FixedSmoothing(Common(), 0.4, runner_up=True).certify(BUDGET, ALPHA)
    guess = yield next(procedure)
    draw = procedure.send(guess)
    counts = yield draw
    second = int(np.argsort(guess[:-1])[-2])
    kept = np.zeros_like(counts)
    kept[[0, second]] = counts[[0, second]]
    kept[0] += counts.sum() - kept.sum()
    try:
        procedure.send(kept)
    except StopIteration as stop:
        result: Claim = stop.value
        return result
    raise AssertionError("the estimate is the last draw")


def test_a_rival_named_by_the_guess_is_caught() -> None:
    votes = shares(0.0, 0.4)
    assert wrong(rival_named_by_the_guess, lambda draw: votes, true_line_radius(0.4)) > LIMIT


# Cascade: level k says class 0 below t_k on a line.


@dataclass(frozen=True)
class Steps:
    """Half-spaces of a cascade, and the deployed classifier's answer anywhere on the line."""

    thresholds: tuple[float, ...]
    sigmas: tuple[float, ...]
    p0: float
    tau = None

    def classifier_at(self, sigma: float) -> str:
        return f"level {self.sigmas.index(sigma)}"

    def common_classifier(self) -> str:
        raise AssertionError

    def votes(self, draw: Draw) -> list[float]:
        p = float(ndtr(self.thresholds[draw.level] / draw.sigma))
        return [p, 1.0 - p]

    def answer(self, at: float) -> int | None:
        for t, sigma in reversed(list(zip(self.thresholds, self.sigmas, strict=True))):
            p = ndtr((t - at) / sigma)
            if max(p, 1 - p) >= self.p0:
                return int(p < 0.5)
        return None

    @property
    def radius(self) -> float:
        """Distance to the nearest point at which a stage changes and the answer with it."""
        edges = [t + side * s * float(ndtri(self.p0))
                 for t, s in zip(self.thresholds, self.sigmas, strict=True)
                 for side in (-1, 1)]  # fmt: skip
        changes = [e for e in edges
                   if self.answer(e - 1e-9) != self.answer(0.0)
                   or self.answer(e + 1e-9) != self.answer(0.0)]  # fmt: skip
        return min(abs(e) for e in changes)


STEPS = {
    "target stage binds": Steps((0.3, -0.05), (0.25, 0.5), 0.7),
    "earlier stage binds": Steps((2.0, -0.1), (0.25, 0.5), 0.7),
    "first stage": Steps((0.3, 0.6), (0.25, 0.5), 0.7),
}


def cascade(scene: Steps) -> Callable[[], Procedure]:
    return lambda: CascadeSmoothing(scene, scene.p0).certify(BUDGET, ALPHA)


def careless(scene: Steps) -> Callable[[], Procedure]:
    """Unsound: earlier stages are thought to stay silent."""

    def run() -> Procedure:
        certificate = yield from CascadeSmoothing(scene, scene.p0).certify(BUDGET, ALPHA)
        own = [bound for bound in certificate.bounds if bound.stage == "classifier"]
        return replace(certificate, radius=own[0].radius if certificate.radius else 0.0)

    return run


@pytest.mark.parametrize("name", STEPS)
def test_cascade_keeps_its_promise(name: str) -> None:
    scene = STEPS[name]
    assert wrong(cascade(scene), scene.votes, scene.radius) <= LIMIT


def test_forgetting_earlier_stages_is_caught() -> None:
    scene = STEPS["earlier stage binds"]
    assert wrong(careless(scene), scene.votes, scene.radius) > LIMIT


# Anchors: two cells of the plane, class 0 at level k below t_k in the second coordinate.

ANCHORS = Anchors(
    np.array([[0.375, 0.5], [0.875, 0.5]], np.float32).reshape(2, 1, 2, 1), [0.25, 0.5]
)
THRESHOLDS = {0.25: 0.6, 0.5: -0.3}


@pytest.mark.parametrize("frozen", [False, True])
def test_anchor_regions_keep_the_promise_and_frozen_radii_break_it(frozen: bool) -> None:
    method = AnchorSmoothing(Common(), ANCHORS).at(
        np.array([0.5, 0.5], np.float32).reshape(1, 2, 1)
    )
    assert method.sigma == 0.25
    assert method.region == pytest.approx(0.125, abs=1e-9)
    true_radius = min(THRESHOLDS[0.25], 0.125)  # the other cell answers class 1

    def votes(draw: Draw) -> list[float]:
        p = float(ndtr(THRESHOLDS[draw.sigma] / draw.sigma))
        return [p, 1.0 - p]

    assert (wrong(partial(certified, method, frozen), votes, true_radius) > LIMIT) == frozen


# The shell of the 2-percent counter-example: A iff ||v - x0||^2 >= 0.97 d s0^2.

DIM, S0 = 3072, 0.5


def shell(distance: float, sigma: float) -> float:
    """P(A) at a point ``distance`` from x0 under noise ``sigma``."""
    if distance == 0.0:
        return float(stats.chi2.sf(0.97 * DIM * (S0 / sigma) ** 2, DIM))
    moved = (distance / sigma) ** 2
    return float(stats.ncx2.sf(0.97 * DIM * (S0 / sigma) ** 2, DIM, moved))


def test_the_shell_flips_with_two_percent_of_sigma() -> None:
    assert shell(0.0, S0) == pytest.approx(0.88084, abs=1e-5)
    assert shell(0.0, 0.98 * S0) < 0.5


@pytest.mark.parametrize("frozen", [False, True])
def test_semielastic_keeps_its_promise_and_frozen_radii_break_it(frozen: bool) -> None:
    rate = 0.05
    true_radius = float(brentq(lambda r: shell(r, S0 * exp(-rate * r)) - 0.5, 1e-6, 5.0))
    method = SemielasticAt(Common(), S0, rate, DIM)

    p = shell(0.0, S0)
    false = wrong(partial(certified, method, frozen), lambda draw: [p, 1.0 - p], true_radius)
    assert (false > LIMIT) == frozen


@pytest.mark.parametrize("frozen", [False, True])
def test_continuous_variational_keeps_its_promise_and_frozen_radii_break_it(frozen: bool) -> None:
    """The selector says 0.5 up to 0.02 along one coordinate and 0.49 beyond: the class flips."""
    method = ContinuousVariational(Common((0.49, 0.5), 0.5), DIM)
    jump, p, stays = 0.02, shell(0.0, S0), float(ndtr(0.02 / 0.5))

    def votes(draw: Draw) -> list[float]:
        if draw.model == "selector":
            return [1.0 - stays, stays]
        at_level = shell(0.0, draw.sigma)
        return [at_level, 1.0 - at_level]

    assert p > 0.5 > shell(jump, 0.49)
    assert (wrong(partial(certified, method, frozen), votes, jump) > LIMIT) == frozen


def test_the_two_percent_counter_example_is_not_certified() -> None:
    """A selector torn between 0.49 and 0.5 certifies nothing, whatever the votes for A."""
    method = ContinuousVariational(Common((0.49, 0.5), 0.5), DIM)

    def answer(draw: Draw) -> Counts:
        n = draw.count
        first = n // 2 - 5 if draw.model == "selector" else round(0.88084 * n)
        return np.array([first, n - first, 0], np.int64)

    certificate = answered(method.certify(Budget.fixed(100, 100_000), 0.001), answer)
    assert (certificate.predicted, certificate.radius) == (None, 0.0)
    assert certificate.abstained_at == "selector"
    assert frozen_radius_unsound(certificate) > 0.5
