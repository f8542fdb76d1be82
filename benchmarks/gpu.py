"""Correctness, then times, of certified sampling on a CUDA device. Not yet run on one.

    python benchmarks/gpu.py [--minutes 8.5] [--rounds 15]

Every number waits for its checks. Contestants take turns in random order within each round; a round
is 100,000 votes of a fresh image, with noise, argmax, counting and the way back to the host. Writes
gpu.json and gpu.txt to $OUT or benchmarks/results/. ImageNet networks are left out: the repository
has no definition of ResNet-18 or ResNet-50 at 224 pixels. Without a device it says so and exits 0.
"""

import argparse
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dualsmooth.benchmarks import gpu_checks
from dualsmooth.benchmarks import gpu_votes as votes
from dualsmooth.benchmarks.gpu_peers import Loop, cohen, compiled
from dualsmooth.benchmarks.gpu_report import Report, as_text
from dualsmooth.engine.runtime.cuda_networks import reproducible
from dualsmooth.engine.runtime.cuda_sampler import CudaSampler
from dualsmooth.engine.runtime.device_stream import CudaStream
from dualsmooth.engine.runtime.segments import Segment

DRAWS, BATCH = 100_000, 4096
OURS = ("cudnn", "triton", "eager")
NETWORKS = {"cifar_resnet20": 0.0816e9, "cifar_resnet110": 0.5063e9}
"""Operations per draw, counted from layer shapes."""
MATRIX_FLOP = 790e12
"""Per second, bf16; measured on an H200."""


class Uncaptured(CudaStream):
    """The same work without graphs."""

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        return partial(self._direct, work)

    def _direct(self, work: Callable[[], None]) -> None:
        with torch.cuda.stream(self._stream), reproducible():
            work()


def sampler_of(network: torch.nn.Module, backend: str, **options: Any) -> CudaSampler:
    """A sampler of one network, as `gpu_votes` names it."""
    settings: dict[str, Any] = {
        "seed": votes.SEED,
        "batch_size": BATCH,
        "backend": backend,
    } | options
    return CudaSampler(
        {votes.MODEL: network}, {votes.MODEL: votes.CLASSES}, votes.SHAPE, **settings
    )


def check(network: torch.nn.Module, backend: str, draws: int = 40_000) -> dict[str, object]:
    """One backend of one network; raises at the first fault."""
    sampler, found = sampler_of(network, backend), dict[str, object]()
    found["repeats"] = votes.check_repeats(sampler, draws)
    plain = sampler_of(network, backend, stream=Uncaptured())
    found["graph"] = votes.check_same("the graph", sampler, plain, draws)
    if backend == "triton":
        small = sampler_of(network, backend, batch_size=BATCH // 8)
        found["batch shape"] = votes.check_same("the batch shape", sampler, small, draws)
    exact = sampler_of(network, backend, precision="fp32", batch_size=512)
    found["reference"] = votes.check_reference(exact, network, 1500)
    return found


def ours(sampler: CudaSampler, draws: int) -> Loop:
    """Votes of one image from the sampler; every call has noise of its own."""
    votes.load(sampler)
    calls = 0

    def run(number: int) -> np.ndarray:
        nonlocal calls
        calls += 1
        slot = number % len(votes.IMAGES)
        part = Segment(slot, 5000 + calls, votes.SIGMA, 3, 0, draws)
        counts: np.ndarray = sampler.count(votes.MODEL, [part])[0]
        return counts

    return run


def contestants(name: str, device: torch.device, backends: Sequence[str]) -> dict[str, Loop]:
    """Peers and backends with the same weights."""
    made = {
        f"cohen {batch}{' tf32' if fast else ''}": cohen(
            votes.balanced(name), device, DRAWS, batch, fast=fast
        )
        for batch, fast in ((1000, False), (1000, True), (4000, True))
    }
    made["torch.compile bf16"] = compiled(votes.balanced(name), device, DRAWS, BATCH)
    for backend in backends:
        made[f"ours {backend}"] = ours(sampler_of(votes.balanced(name), backend), DRAWS)
    return made


def timed(
    loops: dict[str, Loop], draws: int, rounds: int, until: float, warm: float = 3.0
) -> dict[str, list[float]]:
    """Seconds per round; stops early, after three rounds, when the time is over."""
    order = list(loops)
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    for name in order:  # compiles
        if int(loops[name](0).sum()) != draws:
            raise gpu_checks.CheckFailed(f"{name}: votes do not add up")
    end = time.monotonic() + warm
    while time.monotonic() < end:
        for name in order:
            loops[name](0)
    shuffle = random.Random(0).shuffle
    for round_ in range(rounds):
        if round_ >= 3 and time.monotonic() > until:
            break
        shuffle(order)
        for name in order:
            start = time.perf_counter()
            loops[name](round_)
            seconds[name].append(time.perf_counter() - start)
    return seconds


def summary(
    seconds: dict[str, list[float]], draws: int, flop: float
) -> dict[str, dict[str, float]]:
    """Median, spread, rate, share of the matrix floor, and ratio to the best peer's time."""
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    peer = min((name for name in medians if not name.startswith("ours")), key=medians.__getitem__)
    rng, table = np.random.default_rng(0), {}
    for name, times in seconds.items():
        ratios = np.array(seconds[peer]) / np.array(times)
        boots = np.median(rng.choice(ratios, (2000, len(ratios))), axis=1)
        low, high = np.quantile(boots, (0.025, 0.975))
        table[name] = {
            "median_s": medians[name],
            "iqr_s": float(np.subtract(*np.quantile(times, (0.75, 0.25)))),
            "min_s": min(times),
            "draws_per_s": draws / medians[name],
            "of_matrix_floor": flop * draws / MATRIX_FLOP / medians[name],
            "speedup": float(np.median(ratios)),
            "speedup_low": float(low),
            "speedup_high": float(high),
            "rounds": len(times),
        }
    return table


def dual_and_fixed(n: int = 100_000, most: int = 128) -> dict[str, dict[str, float]]:
    """Digits with one noise level, and with the bundled dual model."""
    from dualsmooth.engine.budget import Budget
    from dualsmooth.engine.data import load_images
    from dualsmooth.engine.methods.dual import DualSmoothing
    from dualsmooth.engine.methods.fixed import FixedSmoothing
    from dualsmooth.engine.models.bundle import load_bundle
    from dualsmooth.engine.runtime.session import Session
    from dualsmooth.engine.settings import Settings

    images, bundle = load_images("digits").images[:most], load_bundle("digits-dual")
    settings, found = Settings(Budget.fixed(100, n), slots=64), {}
    for method in (FixedSmoothing(bundle, 0.25), DualSmoothing(bundle)):
        with Session(method, settings) as session:
            list(session.certify(images[:8]))
            start = time.perf_counter()
            certificates = list(session.certify(images))
            taken = time.perf_counter() - start
            found[f"{method.name} {session.sampler.name}"] = {
                "ms_per_image": 1e3 * taken / len(images),
                "draws_per_s": sum(c.draws for c in certificates) / taken,
                "occupancy": session.occupancy.share,
            }
    return found


def measure(report: Report, name: str, device: torch.device, rounds: int, until: float) -> None:
    """Check the backends of one network, then time those that passed."""
    network = votes.balanced(name)
    passed = [
        backend
        for backend in OURS
        if report.attempt(report.checks, f"{name} {backend}", partial(check, network, backend))
    ]

    def times() -> object:
        seconds = timed(contestants(name, device, passed), DRAWS, rounds, until)
        return summary(seconds, DRAWS, NETWORKS[name])

    report.attempt(report.times, name, times)


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code: 1 if anything failed."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--minutes", type=float, default=8.5)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("no CUDA device: nothing checked, nothing timed")
        return 0
    device, start = torch.device("cuda", torch.cuda.current_device()), time.monotonic()
    report = Report(device=torch.cuda.get_device_name(device), torch=torch.__version__,
                    python=platform.python_version())  # fmt: skip
    folder = Path(os.environ.get("OUT") or Path(__file__).parent / "results")
    noise = partial(gpu_checks.check_noise, device, votes.SHAPE, BATCH)
    if report.attempt(report.checks, "noise", noise):
        for share, name in zip((0.45, 0.85), NETWORKS, strict=True):
            until = start + share * 60 * options.minutes
            measure(report, name, device, options.rounds, until)
            report.write(folder)
        report.attempt(report.times, "dual and fixed", dual_and_fixed)
    report.write(folder)
    print(as_text(report), end="")
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
