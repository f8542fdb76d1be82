"""Votes per second on a CPU: ours against every peer, in one process.

    dualsmooth bench cpu [--rounds 15] [--threads 1]   # ratios, JSON and table
    python -m pytest benchmarks/speed/test_cpu.py            # pytest-benchmark's table

Every contestant draws about the same number of votes of the same network on one image, noise,
argmax and counting included, interleaved in each round. The number is rounded up to whole batches,
for ours of every thread, and times are of the same number. Ours is timed with each of its backends,
and ratios are of each. Peers are timed at several batch sizes and the best
counts; all share one allocator setting (freed memory is kept), which speeds most of them up. A
float32 matrix product runs in each round too: every speed is also given as a share of its FLOP/s
(above 100 % where convolutions multiply less than their definition does, as Winograd's).
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dualsmooth.benchmarks.speed import networks as deep_networks
from dualsmooth.benchmarks.speed import peers
from dualsmooth.benchmarks.speed.networks import Products, flop_per_vote
from dualsmooth.benchmarks.speed.rounds import about_machine, interleave, quartiles, share
from dualsmooth.benchmarks.speed.tables import cpu_table, ratios
from dualsmooth.engine.backends import AUTO, OPENVINO
from dualsmooth.engine.checks import positive_integer
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.files import write_json
from dualsmooth.engine.machine import available_cores, installed_version, keep_freed_memory
from dualsmooth.engine.models.registry import create
from dualsmooth.engine.samplers.choose import make_sampler
from dualsmooth.engine.samplers.fusion.bf16 import multiplies_bf16
from dualsmooth.engine.samplers.sampler import Segment
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

    def whole(self, contestant: str, threads: int) -> int:
        """Votes of a contestant per round: at least n, and no batch or thread waits for others."""
        batch = own_batch(self) * threads
        if not contestant.startswith("ours"):
            batch = int(contestant.rsplit(" ", 1)[1])
        return -(-self.n // batch) * batch

    def network(self) -> torch.nn.Module:
        """Random weights, centered so that votes differ; speed does not depend on them."""
        torch.manual_seed(0)
        make = DEEP.get(self.architecture, partial(create, self.architecture, self.kwargs))
        network = make().eval()
        x = torch.from_numpy(self.image).permute(2, 0, 1)
        with torch.no_grad():
            logits = network(x + SIGMA * torch.randn(min(64, self.n), *x.shape))
            list(network.parameters())[-1].sub_(logits.mean(0))
        return network

    @property
    def image(self) -> NDArray[np.float32]:
        """One image."""
        return np.random.default_rng(0).random(self.shape).astype(np.float32)


def own_batch(case: Case) -> int:
    """Rows that ours gives each thread."""
    return Settings(device="cpu").padded_batch(case.shape)


DEEP: dict[str, Callable[[], torch.nn.Module]] = {
    "resnet18_cifar": deep_networks.resnet18_cifar,
    "resnet50": deep_networks.resnet50,
}
CASES = {
    "small": Case("small_convnet", (32, 32, 3), 3200, {"in_channels": 3, "image_size": [32, 32]}),
    "lenet": Case("lenet", (28, 28, 1), 3200),
    "resnet20": Case("cifar_resnet20", (32, 32, 3), 800),
    "resnet110": Case("cifar_resnet110", (32, 32, 3), 128, {}, (64,)),
    "resnet18": Case("resnet18_cifar", (32, 32, 3), 64, {}, (16, 64)),
    "resnet50": Case("resnet50", (224, 224, 3), 8, {}, (4, 16)),
}
DEFAULT = ("small", "lenet", "resnet20", "resnet110")
"""Networks timed when none are named; the others take minutes."""
PEERS: dict[str, Callable[[peers.Task], peers.Draw]] = {
    "cohen": peers.cohen,
    "art": peers.art,
    "compile": peers.compiled,
    "onnxruntime": peers.onnxruntime,
    "openvino fp32": partial(peers.openvino, precision="f32"),
    "openvino bf16": partial(peers.openvino, precision="bf16"),
}
OURS = {"ours": AUTO, "ours openvino": OPENVINO}
"""Names of our contestants, less the precision, and their backends."""


def ours(case: Case, precision: str, backend: str = AUTO) -> peers.Draw:
    """The sampler that ``dualsmooth certify`` makes."""
    sampler = make_sampler(
        {"m": case.network()},
        {"m": CLASSES},
        case.shape,
        seed=0,
        precision=precision,
        batch_size=own_batch(case),
        threads=torch.get_num_threads(),
        backend=backend,
    )
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
    for name, backend in OURS.items():
        if backend == OPENVINO and installed_version(OPENVINO) is None:
            continue
        for precision in ("fp32", "bf16") if multiplies_bf16() else ("fp32",):
            yield f"{name} {precision}", ours(case, precision, backend)
    for name in wanted:
        if name.endswith("bf16") and not multiplies_bf16():
            continue  # it would be emulated
        for batch in case.peer_batches:
            try:
                draw = PEERS[name](peers.Task(case.network(), case.image, SIGMA, CLASSES, batch))
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
    case, threads = CASES[name], torch.get_num_threads()
    products = Products(threads)
    print(f"{name}: making the contestants, checking their votes", flush=True)
    draws = dict(contestants(case, wanted))
    print(f"{name}: {rounds} rounds of {', '.join(draws)}", flush=True)
    check(draws, case.n)
    votes = {name: case.whole(name, threads) for name in draws}
    runs: dict[str, Callable[[], object]] = {k: partial(d, votes[k]) for k, d in draws.items()}
    seconds = interleave({**runs, "matrix product": products}, rounds)
    peak = seconds.pop("matrix product")
    for key, times in seconds.items():
        seconds[key] = [time * case.n / votes[key] for time in times]
    flop = flop_per_vote(case.network(), case.shape)
    return {
        "votes_per_second": {
            key: quartiles(times, case.n)
            | {"share_of_peak": share(times, flop * case.n, peak, products.flop)}
            for key, times in seconds.items()
        },
        "flop_per_vote": flop,
        "peak_flop_per_second": quartiles(peak, products.flop),
        "ratio_to_peer": ratios(seconds, tuple(OURS), wanted),
    }


def run(rounds: int, networks: tuple[str, ...], out: Path, threads: int | None = None) -> None:
    """Measure, print a table, and write it as ``cpu.md`` beside ``cpu.json``."""
    positive_integer("rounds", rounds)
    cores = available_cores() if threads is None else positive_integer("threads", threads)
    for name in networks:
        if name not in CASES:
            raise ArgumentError("networks", f"must be among {', '.join(CASES)}", name)
    keep_freed_memory()
    torch.set_num_threads(cores)
    found: dict[str, dict[str, Any]] = {}
    for name in networks:
        found[name] = measure(name, rounds, list(PEERS))
        print(cpu_table({name: found[name]}, tuple(OURS)), flush=True)
        out.mkdir(parents=True, exist_ok=True)
        about = {"machine": about_machine(), "threads": cores, "load_average": os.getloadavg()}
        write_json(out / "cpu.json", about | found)
        (out / "cpu.md").write_text(cpu_table(found, tuple(OURS)))
    print(out / "cpu.json")
