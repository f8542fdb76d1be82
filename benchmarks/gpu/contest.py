"""Certified sampling on a device against other loops: checked first, then timed in turns.

A round is N votes of a fresh image, with noise, argmax, counting and the way back to the host;
contestants take turns in random order within each round.
"""

import random
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from dualsmooth.benchmarks.gpu import votes
from dualsmooth.benchmarks.gpu.gate import CheckFailed
from dualsmooth.benchmarks.gpu.peers import Loop, careful, cohen
from dualsmooth.benchmarks.gpu.votes import Subject
from dualsmooth.engine.backends import recorded_backend
from dualsmooth.engine.errors import reason_of
from dualsmooth.engine.samplers.cuda import CudaSampler
from dualsmooth.engine.samplers.passes import reproducible
from dualsmooth.engine.samplers.sampler import Segment
from dualsmooth.engine.samplers.stream import CudaStream, DeviceStream

DRAWS = (100_000, 50_000, 20_000, 10_000)
"""Votes of a round: the first that the time allows."""

LEAST_ROUNDS = 3


class Uncaptured(CudaStream):
    """The same work without graphs."""

    def capture(self, work: Callable[[], object]) -> Callable[[], None]:
        """Run it directly, whenever it is asked for."""
        return partial(self._direct, work)

    def _direct(self, work: Callable[[], object]) -> None:
        with torch.cuda.stream(self._stream), reproducible():
            work()


def check(
    subject: Subject,
    network: torch.nn.Module,
    backend: str,
    stream: Callable[[], DeviceStream] = CudaStream,
    plain: Callable[[], DeviceStream] = Uncaptured,
) -> dict[str, object]:
    """One backend of one network; raises at the first fault."""
    make, draws = partial(subject.sampler, network), subject.checked
    sampler = make(backend, stream=stream())
    chosen = recorded_backend(sampler.name)
    found: dict[str, object] = {"backend": chosen}
    found["repeats"] = votes.check_repeats(sampler, draws)
    found["graph"] = votes.check_same("the graph", sampler, make(chosen, stream=plain()), draws)
    if backend in ("fused", "onchip", "triton"):
        small = make(backend, batch_size=max(1, subject.batch // 8), stream=stream())
        found["batch shape"] = votes.check_same("the batch shape", sampler, small, draws)
    full = {"precision": "fp32", "batch_size": max(1, min(512, subject.batch // 4))}
    others = {"eager float32": partial(make, "eager", **full), "eager": partial(make, "eager")}
    if backend in ("cudnn", "compile", "eager"):  # the others are bfloat16's
        others["float32"] = partial(make, backend, **full)
    made = dict[str, CudaSampler]()
    for name, maker in others.items():
        try:
            made[name] = maker(stream=stream())
        except Exception as error:  # a library may lack float32 without TF32
            found[name] = f"not run: {reason_of(error)}"
    for name in ("float32", "eager float32"):
        if name in made:
            found[name] = votes.check_reference(made[name], network, subject, subject.exact)
    if "eager" in made and "eager float32" in made:
        eager, truth = made["eager"], made["eager float32"]
        found["precision"] = votes.check_no_worse(sampler, eager, truth, draws)
    elif "float32" not in made:
        raise CheckFailed("nothing could be run to compare its votes with")
    return found


def ours(sampler: CudaSampler, pool: int) -> Loop:
    """Votes of one image from the sampler; every call has noise of its own."""
    calls = 0

    def run(number: int, draws: int) -> np.ndarray:
        nonlocal calls
        calls += 1
        part = Segment(number % pool, 5000 + calls, votes.SIGMA, 3, 0, draws)
        counts: np.ndarray = sampler.count(votes.MODEL, [part])[0]
        return counts

    return run


def peers(
    subject: Subject, network: torch.nn.Module, device: torch.device, compiled: tuple[str, ...]
) -> dict[str, Callable[[], Loop]]:
    """Other loops with the same weights, yet to be made."""
    small = 1000 if subject.batch >= 256 else max(1, subject.batch // 4)
    found: dict[str, Callable[[], Loop]] = {
        f"cohen {batch}{' tf32' if fast else ''}": partial(
            cohen, network, subject, device, batch, fast=fast
        )
        for batch, fast in ((small, False), (small, True), (subject.batch, True))
    }
    for mode in compiled:
        name = "torch bf16" if mode == "none" else f"torch.compile {mode}"
        found[name] = partial(careful, network, subject, device, mode=mode)
    return found


def ready(
    makers: dict[str, Callable[[], Loop]], draws: int
) -> tuple[dict[str, Loop], dict[str, str]]:
    """Contestants that can draw, after two calls each, and why the others cannot."""
    loops, failed = dict[str, Loop](), dict[str, str]()
    for name, make in makers.items():
        try:
            loop = make()
            for _ in range(2):
                if int(loop(0, draws).sum()) != draws:
                    raise CheckFailed("votes do not add up")
            loops[name] = loop
        except Exception as error:  # a peer may fail in any way
            failed[name] = reason_of(error)
    return loops, failed


def fitting_draws(
    loops: dict[str, Loop], rounds: int, seconds: float, sizes: Sequence[int] = DRAWS
) -> int:
    """The most votes per round that let this many rounds fit into the time."""
    least = min(sizes)
    start = time.perf_counter()
    for loop in loops.values():
        loop(0, least)
    per_vote = (time.perf_counter() - start) / least
    return next((n for n in sizes if rounds * n * per_vote <= seconds), least)


def timed(
    loops: dict[str, Loop],
    draws: int,
    rounds: int,
    until: float,
    keep: Callable[[dict[str, list[float]]], None] = lambda seconds: None,
) -> dict[str, list[float]]:
    """Seconds per round; stops early, after three rounds, when the time is over."""
    order = list(loops)
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    shuffle = random.Random(0).shuffle
    for round_ in range(rounds):
        if round_ >= LEAST_ROUNDS:
            keep(seconds)
            if time.monotonic() > until:
                break
        shuffle(order)
        for name in order:
            start = time.perf_counter()
            counts = loops[name](round_, draws)
            seconds[name].append(time.perf_counter() - start)
            if int(counts.sum()) != draws:
                raise CheckFailed(f"{name}: votes do not add up")
    return seconds


def summary(
    seconds: dict[str, list[float]], draws: int, floor: float
) -> dict[str, dict[str, float]]:
    """Median, spread, rate, share of the floor reached, and speed beside the best peer's.

    ``floor`` is the floor's time for the draws of a round.
    """
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    known = [name for name in medians if not name.startswith("ours")] or list(medians)
    peer = min(known, key=medians.__getitem__)
    rng, table = np.random.default_rng(0), {}
    for name, times in seconds.items():
        ratios = np.array(seconds[peer]) / np.array(times)
        boots = np.median(rng.choice(ratios, (2000, len(ratios))), axis=1)
        low, high = np.quantile(boots, (0.025, 0.975))
        table[name] = {
            "median_s": medians[name],
            "iqr_s": float(np.subtract(*np.quantile(times, (0.75, 0.25)))),
            "min_s": min(times),
            "s_per_100k": medians[name] * 1e5 / draws,
            "draws_per_s": draws / medians[name],
            "of_floor": floor / medians[name],
            "speedup": float(np.median(ratios)),
            "speedup_low": float(low),
            "speedup_high": float(high),
            "rounds": len(times),
        }
    return table


def ratios(seconds: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Of ours and each peer, the median over the rounds of peer's time / our time."""
    mine = [name for name in seconds if name.startswith("ours")]
    return {
        name: {
            peer: float(np.median(np.array(seconds[peer]) / np.array(seconds[name])))
            for peer in seconds
            if peer not in mine
        }
        for name in mine
    }


def contest(
    makers: dict[str, Callable[[], Loop]],
    subject: Subject,
    rounds: int,
    fitting: int,
    until: float,
    keep: Callable[[Any], None],
    *,
    copy: float,
    matrix: float,
    sizes: Sequence[int] = DRAWS,
) -> dict[str, Any]:
    """Make contestants ready, time them in turns, and keep the table as it grows.

    N is the most votes of which ``fitting`` rounds fit into the time; there are ``rounds`` at most.
    """
    loops, failed = ready(makers, min(subject.batch, *sizes))
    draws = fitting_draws(loops, fitting, until - time.monotonic(), sizes)
    floor = subject.work.floor(draws, copy, matrix)

    def table(seconds: dict[str, list[float]]) -> dict[str, Any]:
        return {
            "draws": draws,
            "floor_s": floor,
            "flop_per_draw": subject.work.flop,
            "bytes_per_draw": subject.work.bytes,
            "could not run": failed,
            "times": summary(seconds, draws, floor),
            "times as fast as": ratios(seconds),
        }

    return table(timed(loops, draws, rounds, until, lambda seconds: keep(table(seconds))))
