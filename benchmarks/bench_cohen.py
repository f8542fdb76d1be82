"""Our CPU sampler against Cohen et al.'s sampling loop in plain eager PyTorch.

    python -m pytest benchmarks/bench_cohen.py -q                # pytest-benchmark's table
    python benchmarks/bench_cohen.py [--rounds 15]               # ratios and their intervals

Both draw the same number of votes of the same network on one image, noise, argmax and counting
included. The second form interleaves the two in every round and prints the median ratio with a
bootstrap interval; Cohen's loop is timed at each of its batch sizes and the best one counts.
"""

import argparse
import json
import platform
import sys
from collections.abc import Callable
from time import perf_counter

import numpy as np
import pytest
import torch

from dualsmooth.engine.models.registry import create
from dualsmooth.engine.runtime.segments import Segment
from dualsmooth.engine.runtime.torch_sampler import TorchSampler
from dualsmooth.engine.settings import Settings

SHAPE, SIGMA, CLASSES = (32, 32, 3), 0.25, 10
COHEN_BATCHES = (64, 400, 1000)
NETWORKS = {
    "small_convnet": ("small_convnet", {"in_channels": 3, "image_size": [32, 32]}, 4000),
    "cifar_resnet20": ("cifar_resnet20", {}, 2000),
}
IMAGE = np.random.default_rng(0).random(SHAPE).astype(np.float32)


def network(name: str) -> torch.nn.Module:
    """A network with random weights; speed does not depend on them."""
    torch.manual_seed(0)
    architecture, kwargs, _ = NETWORKS[name]
    return create(architecture, kwargs).eval()


def cohen_loop(base: torch.nn.Module, n: int, batch_size: int) -> np.ndarray:
    """The sampling loop of the published code: repeat, add noise, argmax, count on the host."""
    x = torch.from_numpy(IMAGE).permute(2, 0, 1)
    counts = np.zeros(CLASSES, int)
    with torch.no_grad():
        for start in range(0, n, batch_size):
            batch = x.repeat((min(batch_size, n - start), 1, 1, 1))
            noise = torch.randn_like(batch) * SIGMA
            for vote in base(batch + noise).argmax(1).numpy():
                counts[vote] += 1
    return counts


def ours(name: str) -> tuple[Callable[[int], np.ndarray], TorchSampler]:
    """Our sampler as ``dualsmooth certify`` makes it."""
    settings = Settings()
    sampler = TorchSampler(
        {"m": network(name)}, {"m": CLASSES}, SHAPE, seed=0,
        batch_size=settings.padded_batch(SHAPE),
    )  # fmt: skip
    sampler.load(0, IMAGE)

    def count(n: int) -> np.ndarray:
        votes = np.zeros(CLASSES + 1, np.int64)
        for first in range(0, n, sampler.capacity):
            part = Segment(0, 0, SIGMA, 3, first, min(sampler.capacity, n - first))
            votes += sampler.count("m", [part])[0]
        return votes

    return count, sampler


def check(name: str) -> None:
    """Correctness gate: totals, and vote shares within 6 standard deviations of the loop's."""
    _, _, n = NETWORKS[name]
    count, sampler = ours(name)
    mine, theirs = count(n)[:-1], cohen_loop(network(name), n, 400)
    sampler.close()
    assert mine.sum() == theirs.sum() == n
    spread = np.sqrt(np.maximum(mine + theirs, 1))
    assert np.all(np.abs(mine - theirs) <= 6 * spread), (mine, theirs)


@pytest.mark.parametrize("name", NETWORKS)
def test_ours(benchmark: Callable[..., object], name: str) -> None:
    check(name)
    count, sampler = ours(name)
    benchmark(count, NETWORKS[name][2])
    sampler.close()


@pytest.mark.parametrize("batch_size", COHEN_BATCHES)
@pytest.mark.parametrize("name", NETWORKS)
def test_cohen(benchmark: Callable[..., object], name: str, batch_size: int) -> None:
    benchmark(cohen_loop, network(name), NETWORKS[name][2], batch_size)


def compare(name: str, rounds: int, rng: np.random.Generator) -> dict[str, object]:
    """Interleaved rounds in random order; per-round ratio to the best of Cohen's batch sizes."""
    check(name)
    base, (count, sampler), n = network(name), ours(name), NETWORKS[name][2]
    contestants: dict[str, Callable[[], object]] = {"ours": lambda: count(n)}
    for size in COHEN_BATCHES:
        contestants[f"cohen {size}"] = lambda size=size: cohen_loop(base, n, size)
    seconds: dict[str, list[float]] = {key: [] for key in contestants}
    for round_ in range(rounds + 1):
        for key in rng.permutation(list(contestants)):
            start = perf_counter()
            contestants[key]()
            if round_:
                seconds[key].append(perf_counter() - start)
    sampler.close()
    medians = {key: float(np.median(times)) for key, times in seconds.items()}
    best = min((key for key in medians if key != "ours"), key=medians.__getitem__)
    ratios = np.array(seconds[best]) / np.array(seconds["ours"])
    boots = np.median(rng.choice(ratios, (2000, rounds)), axis=1)
    return {
        "network": name,
        "votes_per_second": {key: round(n / value) for key, value in medians.items()},
        "best_of_cohen": best,
        "median_ratio": round(float(np.median(ratios)), 3),
        "interval_95": [round(float(q), 3) for q in np.quantile(boots, (0.025, 0.975))],
        "rounds": rounds,
    }


def main() -> None:
    """Print one JSON line per network."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    json.dump({"machine": platform.platform(), "threads": torch.get_num_threads()} | versions,
              sys.stdout)  # fmt: skip
    print()
    rng = np.random.default_rng(0)
    for name in NETWORKS:
        print(json.dumps(compare(name, rounds, rng)), flush=True)


if __name__ == "__main__":
    main()
