"""How cost grows: ``dualsmooth bench scaling``.

Seconds, processor seconds and peak memory of a certification against the votes n, the number of
images, of noise levels and of classes, and the side of the image; one axis at a time, the rest as
in BASE. Networks are small_convnets with random weights: speed does not depend on them.

Every point runs in a process of its own, because peak memory belongs to a process; points take
turns within a round. Figures are medians over the rounds; beside those that vary stand the smallest
and the largest. The true median lies between them with probability 1 - 2^(1 - rounds): 75 % for
three rounds, 97 % for the six of the suite. Before it is timed, a point must give the certificates
of the reference driver, which knows no batches.
"""

import multiprocessing
import resource
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dualsmooth.benchmarks.speed.rounds import about_machine
from dualsmooth.benchmarks.speed.tables import draw_picture, scaling_table
from dualsmooth.engine import Budget, Bundle, Certificate, DualSmoothing, FixedSmoothing
from dualsmooth.engine.files import write_json
from dualsmooth.engine.methods.method import Method
from dualsmooth.engine.models.registry import create
from dualsmooth.engine.runtime.drive import drive
from dualsmooth.engine.runtime.flight import Flight
from dualsmooth.engine.runtime.session import Session
from dualsmooth.engine.settings import Settings
from dualsmooth.engine.terminal.progress import passing_bar

SIGMA, TAU = 0.25, 0.5


@dataclass(frozen=True)
class Point:
    """What is certified. One noise level means fixed smoothing, more mean dual smoothing."""

    votes: int = 1000
    images: int = 16
    levels: int = 1
    classes: int = 10
    side: int = 16

    def method(self) -> Method:
        """Fixed or dual smoothing of random networks."""
        levels = [float(s) for s in np.geomspace(0.12, 1.0, self.levels)]
        modules = {f"classifier@{s:g}": self._network(self.classes) for s in levels}
        shape = (self.side, self.side, 3)
        if self.levels == 1:
            bundle = Bundle.from_modules(
                {"classifier": self._network(self.classes)},
                num_classes=self.classes,
                input_shape=shape,
            )
            return FixedSmoothing(bundle, SIGMA)
        modules["selector"] = self._network(self.levels)
        bundle = Bundle.from_modules(
            modules,
            num_classes=self.classes,
            input_shape=shape,
            sigmas=tuple(float(f"{s:g}") for s in levels),
            tau=TAU,
        )
        return DualSmoothing(bundle)

    def _network(self, outputs: int) -> torch.nn.Module:
        torch.manual_seed(outputs)
        kwargs = {"in_channels": 3, "num_classes": outputs, "image_size": [self.side, self.side]}
        return create("small_convnet", kwargs).eval()

    def pixels(self) -> NDArray[np.uint8]:
        """Random images."""
        shape = (self.images, self.side, self.side, 3)
        return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


BASE = Point()
AXES: dict[str, tuple[int, ...]] = {
    "votes": (500, 1000, 2000, 4000, 8000),
    "images": (4, 8, 16, 32, 64),
    "levels": (1, 2, 4, 8, 16),
    "classes": (2, 10, 100, 1000),
    "side": (8, 16, 32, 64),
}


def points() -> list[Point]:
    """Every point once, although axes meet in BASE."""
    every = [replace(BASE, **{axis: value}) for axis, values in AXES.items() for value in values]
    return list(dict.fromkeys(every))


def check(session: Session, point: Point, found: list[Certificate]) -> None:
    """Correctness gate: votes add up, and the first image's are those of the reference driver."""
    first = min(found, key=lambda c: c.image_id)
    procedure = point.method().certify(Budget.fixed(100, point.votes), 1e-3)
    session.sampler.load(0, point.pixels()[0].astype(np.float32) / np.float32(255))
    alone = drive(Flight(first.image_id, procedure, slot=0), session.sampler)
    assert tuple(alone.records) == first.counts
    assert alone.result.radius == first.radius
    assert all(sum(r.votes) == r.count for c in found for r in c.counts)


def measure(point: Point) -> dict[str, float]:
    """One point, in this process: certify once to warm up and to check, then once to time."""
    idle = peak_memory()
    with Session.open(point.method(), Settings(Budget.fixed(100, point.votes))) as session:
        check(session, point, list(session.certify(point.pixels())))
        start, busy = perf_counter(), process_time()
        found = list(session.certify(point.pixels()))
        seconds, processor = perf_counter() - start, process_time() - busy
    return {
        "seconds": seconds,
        "processor_seconds": processor,
        "draws": float(sum(c.draws for c in found)),
        "occupancy": session.occupancy.share,
        "memory_mb": peak_memory(),
        "memory_over_imports_mb": peak_memory() - idle,
    }


def peak_memory() -> float:
    """Largest resident memory of this process so far, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def alone(work: Callable[[Point], dict[str, float]], point: Point) -> dict[str, float]:
    """What work returns in a fresh process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # imports are paid for once
    with ProcessPoolExecutor(1, context) as pool:
        return pool.submit(work, point).result()


def summary(point: Point, times: list[dict[str, float]]) -> dict[str, Any]:
    """A point, the medians of its figures, and the processor seconds of every round."""
    medians = {key: float(np.median([f[key] for f in times])) for key in times[0]}
    rounds = {"processor_seconds_of_rounds": [f["processor_seconds"] for f in times]}
    return asdict(point) | medians | rounds


def run(rounds: int, out: Path) -> None:
    """Measure every point ``rounds`` times, print the table, write scaling.json, .md and .png."""
    every = points()
    found: dict[Point, list[dict[str, float]]] = {point: [] for point in every}
    rng = np.random.default_rng(0)
    for _ in passing_bar(iterable=range(rounds), desc="scaling", unit="round"):
        for index in rng.permutation(len(every)):
            found[every[index]].append(alone(measure, every[index]))
    axes = {
        axis: [
            summary(point, found[point]) for point in (replace(BASE, **{axis: v}) for v in values)
        ]
        for axis, values in AXES.items()
    }
    text = scaling_table(axes)
    print(text)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "scaling.json", {"machine": about_machine(), "rounds": rounds} | axes)
    (out / "scaling.md").write_text(text, encoding="utf-8")
    draw_picture(axes, out / "scaling.png")
    print(out / "scaling.json")
