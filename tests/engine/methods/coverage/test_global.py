"""Wrong certificates are as rare as promised, and the test notices methods that break a promise.

10,000 seeded runs per scene and method at alpha = 0.01. A run is wrong if its radius exceeds the
deployed classifier's true radius. The number of wrong runs must not exceed the 1 - 1e-6 quantile of
Bin(10,000, alpha), so the false-alarm rate is 1e-6 per scene.

Inputs are points of R^2 (images of shape 1 x 2 x 1). Every base map is a half-space of one
coordinate, so p = Phi(distance / sigma), and the deployed classifier's true radius is a distance to
a quadrant. Votes come from the engine's own noise stream.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import hypot

import numpy as np
import pytest

from dualsmooth.engine.budget import Budget
from dualsmooth.engine.certificate import Claim
from dualsmooth.engine.draws import Draw, Phase
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.methods.dual import DualSmoothing
from dualsmooth.engine.methods.fixed import FixedSmoothing
from dualsmooth.engine.methods.method import Procedure
from dualsmooth.engine.methods.votes import event_bound, top_class
from dualsmooth.engine.runtime import flight
from dualsmooth.engine.runtime.drive import answered
from dualsmooth.engine.runtime.flight import Flight
from dualsmooth.engine.runtime.scheduler import Scheduler
from dualsmooth.engine.samplers.sampler import Sampler, Segment, unroll
from dualsmooth.engine.samplers.torch_noise import normal_rows
from tests.engine.methods.coverage.conftest import ALPHA, LIMIT, RUNS, slow

SHAPE = (1, 2, 1)
LEVELS = (0.5, 1.0)


@dataclass(frozen=True)
class Scene:
    """Point (0, 0); level 0 while selector coordinate < ``selector``, class 0 at level k while
    the other coordinate < ``classes[k]``.
    """

    selector: float
    classes: tuple[float, float]

    sigmas = LEVELS
    tau = 1.0

    def classifier_at(self, sigma: float) -> str:
        return f"level {LEVELS.index(sigma)}"

    @property
    def dual_radius(self) -> float:
        """Distance from the origin to the points where the deployed classifier's class changes.

        At the origin kappa is 0 if ``selector`` > 0, else 1. The class at the origin is 0 if its
        level's threshold is > 0, else 1.
        """
        start = 0 if self.selector > 0 else 1
        class_zero = self.classes[start] > 0
        distances = []
        for level, threshold in enumerate(self.classes):
            inside = (self.selector > 0) == (level == 0)
            to_level = 0.0 if inside else abs(self.selector)
            to_other_class = 0.0 if (threshold > 0) != class_zero else abs(threshold)
            distances.append(hypot(to_level, to_other_class))
        return min(distances)


class HalfSpaceSampler(Sampler):
    """Counts votes of a scene's networks at the origin with the engine's own noise."""

    batch_size = 4096

    def __init__(self, scene: Scene, seed: int) -> None:
        self.scene, self.seed = scene, seed

    def load(self, slot: int, image: np.ndarray) -> None:
        assert image.shape == SHAPE

    def count(self, model: str, segments: Sequence[Segment]) -> np.ndarray:
        rows = unroll(segments)
        noise = normal_rows(
            self.seed, rows["image_id"], rows["stream"] | np.uint64(1 << 8), rows["sample"], SHAPE
        )
        first, second = (rows["sigma"] * noise[:, 0, i, 0] for i in (0, 1))
        if model == "selector":
            votes = (first >= self.scene.selector).astype(np.int64)
        else:
            votes = (second >= self.scene.classes[int(model[-1])]).astype(np.int64)
        flat = np.bincount(rows["segment"] * 3 + votes, minlength=len(segments) * 3)
        return flat.reshape(len(segments), 3)


SCENES = {
    "selector binds": Scene(selector=0.05, classes=(2.0, -3.0)),
    "classifier binds": Scene(selector=2.5, classes=(0.1, 0.1)),
    "both bind": Scene(selector=0.3, classes=(0.3, -3.0)),
    "levels agree": Scene(selector=0.02, classes=(0.6, 0.9)),
    "second level weaker": Scene(selector=0.1, classes=(1.2, 0.35)),
    "upper level": Scene(selector=-0.2, classes=(-1.0, 0.4)),
    "class undecided": Scene(selector=2.5, classes=(1e-9, 1e-9)),
}

BUDGET = Budget.fixed(n0=20, n=200)
Make = Callable[[Scene], Procedure]


def wrong(scene: Scene, make: Make, radius: float) -> tuple[int, int]:
    """Numbers of certificates and of certificates beyond the true radius."""
    scheduler: Scheduler[Claim] = Scheduler(HalfSpaceSampler(scene, seed=11), slots=64)
    image = np.zeros(SHAPE, np.float32)
    jobs = ((Flight(i, make(scene)), lambda: image) for i in range(RUNS))
    radii = np.array([f.result.radius for f in scheduler.run(jobs) if f.result is not None])
    assert len(radii) == RUNS
    return int((radii > 0).sum()), int((radii > radius).sum())


def fixed(scene: Scene) -> Procedure:
    return FixedSmoothing(scene, LEVELS[0]).certify(BUDGET, ALPHA)


def plurality(scene: Scene) -> Procedure:
    return DualSmoothing(scene, "plurality").certify(BUDGET, ALPHA)


def published(scene: Scene) -> Procedure:
    return DualSmoothing(scene, "plurality", published_split=True).certify(BUDGET, ALPHA)


def median_point(scene: Scene) -> Procedure:
    return DualSmoothing(scene, "median", "point").certify(BUDGET, ALPHA)


def interval(scene: Scene) -> Procedure:
    return DualSmoothing(scene, "median", "interval").certify(BUDGET, ALPHA)


def decided(scene: Scene) -> Procedure:
    grid = (0.1, 0.3 + 1e-9, 0.5)
    budget = Budget.decide(grid, n0=BUDGET.n0, n=400)
    return DualSmoothing(scene, "median", "interval").certify(budget, ALPHA)


def precise(scene: Scene) -> Procedure:
    budget = Budget.precise(0.1, n0=50, n=400)
    return DualSmoothing(scene, "median", "interval").certify(budget, ALPHA)


QUICK = ("both bind",)
ALL = [name if name in QUICK else slow(name) for name in SCENES]


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("make", [plurality, slow(published), slow(median_point), interval])
def test_dual_methods_keep_their_promise(name: str, make: Make) -> None:
    scene = SCENES[name]
    certified, false = wrong(scene, make, scene.dual_radius)
    assert false <= LIMIT
    if name in ("classifier binds", "both bind") and make is not published:
        assert certified > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["both bind", "levels agree"])
@pytest.mark.parametrize("make", [decided, precise])
def test_adaptive_budgets_keep_their_promise(name: str, make: Make) -> None:
    """`test_adaptive.py` has the sharper cases."""
    scene = SCENES[name]
    assert wrong(scene, make, scene.dual_radius)[1] <= LIMIT


@pytest.mark.parametrize("threshold", [0.5, slow(1e-9), slow(0.05), slow(1.0)])
def test_fixed_smoothing_keeps_its_promise(threshold: float) -> None:
    scene = Scene(selector=1.0, classes=(threshold, threshold))
    _, false = wrong(scene, fixed, threshold)
    assert false <= LIMIT


def frozen(scene: Scene) -> Procedure:
    """Unsound: routes by the selector and reports the radius of the frozen sigma."""
    guess = yield Draw("selector", scene.tau, Phase.SELECT_GUESS, 0, BUDGET.n0)
    level = top_class(guess) or 0
    fixed_at_level = FixedSmoothing(scene, LEVELS[level]).certify(BUDGET, ALPHA)
    return (yield from fixed_at_level)


def class_from_estimation_votes(scene: Scene) -> Procedure:
    """Unsound: the votes that name the class also bound its probability."""
    counts = yield Draw("level 0", LEVELS[0], Phase.CLASS_ESTIMATE, 0, BUDGET.n)
    bound = event_bound("classifier", counts, "=", top_class(counts) or 0, LEVELS[0], ALPHA)
    empty = FixedSmoothing(scene, LEVELS[0]).certify(BUDGET, ALPHA)
    return dataclasses.replace(abstained(empty), radius=bound.radius)


def reused_noise(scene: Scene) -> Procedure:
    """Unsound: the estimate reads the guess's counters."""
    procedure = FixedSmoothing(scene, LEVELS[0]).certify(
        Budget.fixed(n0=BUDGET.n, n=BUDGET.n), ALPHA
    )
    draw = next(procedure)
    try:
        while True:
            counts = yield dataclasses.replace(draw, phase=Phase.CLASS_GUESS)
            draw = procedure.send(counts)
    except StopIteration as stop:
        result: Claim = stop.value
        return result


def abstained(procedure: Procedure) -> Claim:
    """The certificate of a procedure all of whose votes are invalid."""
    return answered(procedure, lambda draw: np.array([0, 0, draw.count], np.int64))


@pytest.mark.parametrize(
    "name", ["second level weaker", slow("selector binds"), slow("upper level")]
)
def test_frozen_radius_is_caught(name: str) -> None:
    scene = SCENES[name]
    _, false = wrong(scene, frozen, scene.dual_radius)
    assert false > LIMIT


def test_reused_votes_are_caught() -> None:
    _, false = wrong(SCENES["class undecided"], class_from_estimation_votes, 1e-9)
    assert false > LIMIT


def test_reused_noise_is_refused_and_would_be_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = SCENES["class undecided"]
    with pytest.raises(ArgumentError, match="method must read noise once; received sample 0 of"):
        wrong(scene, reused_noise, 1e-9)
    monkeypatch.setattr(flight, "check_disjoint", lambda records: None)
    _, false = wrong(scene, reused_noise, 1e-9)
    assert false > LIMIT
