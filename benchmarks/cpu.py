"""Votes per second on a CPU: ours against every peer, in one process.

    dualsmooth bench cpu [--rounds 15]                 # ratios, JSON into benchmarks/results/
    python -m pytest benchmarks/test_cpu.py            # pytest-benchmark's table

Every contestant draws the same number of votes of the same network on one image, noise, argmax and
counting included, interleaved in each round. Peers are timed at several batch sizes and the best
counts; all share one allocator setting (freed memory is kept), which speeds most of them up.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dualsmooth.benchmarks import peers
from dualsmooth.benchmarks.rounds import about_machine, best, interleave, quartiles, ratio
from dualsmooth.engine.checks import positive_integer
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.models.registry import create
from dualsmooth.engine.runlog import write_json
from dualsmooth.engine.runtime.memory import keep_freed_memory
from dualsmooth.engine.runtime.native import make_sampler, multiplies_bf16
from dualsmooth.engine.runtime.segments import Segment
from dualsmooth.engine.settings import Settings

SIGMA, CLASSES = 0.25, 10


@dataclass(frozen=True)
class Case:
    """A network, the image shape it takes, and votes per round."""

    architecture: str
    shape: tuple[int, int, int]
    n: int
    kwargs: dict[str, Any] = field(default_factory=dict)
    peer_batches: tuple[int, ...] = (64, 400)

    def network(self) -> torch.nn.Module:
        """Random weights, centered so that votes differ; speed does not depend on them."""
        torch.manual_seed(0)
        network = create(self.architecture, self.kwargs).eval()
        x = torch.from_numpy(self.image).permute(2, 0, 1)
        with torch.no_grad():
            logits = network(x + SIGMA * torch.randn(64, *x.shape))
            list(network.parameters())[-1].sub_(logits.mean(0))
        return network

    @property
    def image(self) -> NDArray[np.float32]:
        """One image."""
        return np.random.default_rng(0).random(self.shape).astype(np.float32)


CASES = {
    "small": Case("small_convnet", (32, 32, 3), 800, {"in_channels": 3, "image_size": [32, 32]}),
    "lenet": Case("lenet", (28, 28, 1), 800),
    "resnet20": Case("cifar_resnet20", (32, 32, 3), 400),
    "resnet110": Case("cifar_resnet110", (32, 32, 3), 64, {}, (64,)),
}
PEERS: dict[str, Callable[..., peers.Draw]] = {
    "cohen": peers.cohen,
    "art": peers.art,
    "compile": peers.compiled,
    "onnxruntime": peers.onnxruntime,
    "openvino bf16": peers.openvino,
}


def ours(case: Case, precision: str) -> peers.Draw:
    """The sampler that ``dualsmooth certify`` makes."""
    sampler = make_sampler(
        {"m": case.network()}, {"m": CLASSES}, case.shape, seed=0, precision=precision,
        batch_size=Settings().padded_batch(case.shape),
    )  # fmt: skip
    sampler.load(0, case.image)

    def draw(n: int) -> NDArray[np.int64]:
        votes = np.zeros(CLASSES + 1, np.int64)
        for first in range(0, n, sampler.capacity):
            part = Segment(0, 0, SIGMA, 3, first, min(sampler.capacity, n - first))
            votes += sampler.count("m", [part])[0]
        return votes[:-1]

    return draw


def contestants(case: Case, wanted: list[str]) -> Iterator[tuple[str, peers.Draw]]:
    """Ours and those peers that are installed, each at its batch sizes."""
    yield "ours fp32", ours(case, "fp32")
    if multiplies_bf16():
        yield "ours bf16", ours(case, "bf16")
    for name in wanted:
        for batch in case.peer_batches:
            try:
                draw = PEERS[name](case.network(), case.image, SIGMA, CLASSES, batch)
            except ImportError as missing:
                print(f"{name} left out: {missing}")
                break
            yield f"{name} {batch}", draw


def check(draws: dict[str, peers.Draw], n: int) -> None:
    """Correctness gate: vote shares within 6 standard deviations of Cohen's loop; ours sum to n."""
    reference = next(draw for name, draw in draws.items() if name.startswith("cohen"))(n)
    for name, draw in draws.items():
        votes = draw(n)
        share, spread = votes / votes.sum(), np.sqrt((votes + reference) / 2 + 1) / n
        assert np.all(np.abs(share - reference / n) <= 8.5 * spread), (name, votes, reference)
        assert votes.sum() == n or not name.startswith("ours"), (name, votes.sum())


def measure(name: str, rounds: int, wanted: list[str]) -> dict[str, Any]:
    """Times of one network's contestants, and ratios of each peer's best batch to ours."""
    case = CASES[name]
    draws = dict(contestants(case, wanted))
    check(draws, case.n)
    seconds = interleave({key: partial(draw, case.n) for key, draw in draws.items()}, rounds)
    fastest = best(seconds, [key for key in seconds if key.startswith("ours")])
    ratios = {}
    for peer in wanted:
        sizes = [key for key in seconds if key.rsplit(" ", 1)[0] == peer]
        if sizes:
            chosen = best(seconds, sizes)
            ratios[chosen] = ratio(seconds[chosen], seconds[fastest])
    return {
        "votes_per_second": {key: quartiles(times, case.n) for key, times in seconds.items()},
        "ours": fastest,
        "ratio_to_peer": ratios,
    }


def run(rounds: int, networks: tuple[str, ...], out: Path) -> None:
    """Measure, print ratios, and write ``cpu.json``.

    Raises
    ------
    ArgumentError
        If a network is unknown or rounds is not an integer >= 1.
    """
    positive_integer("rounds", rounds)
    for name in networks:
        if name not in CASES:
            raise ArgumentError("networks", f"must be among {', '.join(CASES)}", name)
    keep_freed_memory()
    report: dict[str, Any] = {"machine": about_machine(), "threads": torch.get_num_threads()}
    for name in networks:
        report[name] = figures = measure(name, rounds, list(PEERS))
        speed = figures["votes_per_second"][figures["ours"]]["per_second"]
        print(f"{name}: {figures['ours']} draws {speed:,} votes/s")
        for peer, found in figures["ratio_to_peer"].items():
            low, high = found["interval_95"]
            print(
                f"  {found['median']:6.2f}x ({low:.2f} .. {high:.2f}) of {peer}; smallest times "
                f"{found['of_minima']:.2f}x",
                flush=True,
            )
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "cpu.json", report)
    print(out / "cpu.json")
