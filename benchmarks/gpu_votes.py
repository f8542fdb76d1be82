"""Correctness of the CUDA sampler, as functions of samplers and sizes; see `gpu.py`.

With a stream that needs no device they run on a CPU.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from dualsmooth.benchmarks.gpu_checks import Figures, require
from dualsmooth.engine.models.registry import create
from dualsmooth.engine.runtime.cuda_sampler import CudaSampler
from dualsmooth.engine.runtime.segments import Segment
from dualsmooth.engine.runtime.torch_sampler import TorchSampler

MODEL, CLASSES, SHAPE, SIGMA, SEED = "m", 10, (32, 32, 3), 0.25, 2026
IMAGES = np.random.default_rng(0).random((16, *SHAPE)).astype(np.float32)
MOVED_LIMIT = 0.005
"""Share of votes float32 rounding may move; it moves near ties only."""


def balanced(architecture: str, rows: int = 64) -> torch.nn.Module:
    """An untrained network whose noisy images spread over its classes, so that votes can differ."""
    torch.manual_seed(0)
    network = create(architecture, {}).eval()
    generator = torch.Generator().manual_seed(1)
    noise = SIGMA * torch.randn(rows, 3, *SHAPE[:2], generator=generator)
    with torch.no_grad():
        logits = network(torch.from_numpy(IMAGES[0]).permute(2, 0, 1) + noise)
        scale = 1.0 / float(logits.std(0).mean())
        head = network.get_submodule("fc")
        assert isinstance(head, torch.nn.Linear)
        head.weight.mul_(scale)
        head.bias.sub_(logits.mean(0)).mul_(scale)
    return network


def segments(draws: int) -> list[Segment]:
    """Draws of 16 images, of unequal lengths."""
    lengths = [draws * (i + 1) // 136 + 1 for i in range(16)]
    return [Segment(i, 1000 + i, SIGMA * (1 + i % 3), 3, 7 * i, n) for i, n in enumerate(lengths)]


def load(sampler: CudaSampler | TorchSampler) -> None:
    """Put the 16 images into slots."""
    for slot, image in enumerate(IMAGES):
        sampler.load(slot, image)


def moved(first: NDArray[np.int64], second: NDArray[np.int64]) -> int:
    """Votes that differ at least, between two histograms of equal totals."""
    return int(np.abs(first - second).sum()) // 2


def check_repeats(sampler: CudaSampler, draws: int) -> Figures:
    """Counts add up, and are the same on a rerun, in reverse order, one by one and in halves."""
    load(sampler)
    parts = segments(draws)
    base = sampler.count(MODEL, parts)
    totals = [part.count for part in parts]
    require("votes missing", float(np.abs(base.sum(1) - totals).sum()), 0)
    require("votes changed by a rerun", moved(sampler.count(MODEL, parts), base), 0)
    backward = sampler.count(MODEL, parts[::-1])[::-1]
    require("votes changed by the order", moved(backward, base), 0)
    alone = np.stack([sampler.count(MODEL, [part])[0] for part in parts])
    require("votes changed by batch mates", moved(alone, base), 0)
    pending = [sampler.submit(MODEL, half) for part in parts for half in halves(part)]
    votes = np.stack([wait()[0] for wait in pending])
    require("votes changed by the packing", moved(votes[0::2] + votes[1::2], base), 0)
    return {"votes": float(base.sum()), "largest share": float(base.sum(0).max() / base.sum())}


def halves(part: Segment) -> Sequence[list[Segment]]:
    """A segment of two samples or more, as two."""
    first = max(1, part.count // 2)
    head = (part.slot, part.image_id, part.sigma, part.stream)
    return [
        [Segment(*head, part.first, first)],
        [Segment(*head, part.first + first, part.count - first)],
    ]


def check_same(what: str, first: CudaSampler, second: CudaSampler, draws: int) -> Figures:
    """Two samplers give the same counts."""
    votes = []
    for sampler in (first, second):
        load(sampler)
        votes.append(sampler.count(MODEL, segments(draws)))
    require(f"votes changed by {what}", moved(*votes), 0)
    return {"votes": float(votes[0].sum())}


def check_reference(
    sampler: CudaSampler, network: torch.nn.Module, draws: int, limit: float = MOVED_LIMIT
) -> Figures:
    """Counts of the reference sampler on the CPU in float32, but for near ties."""
    truth = TorchSampler({MODEL: network}, {MODEL: CLASSES}, SHAPE, seed=SEED, batch_size=64)
    votes = []
    for each in (sampler, truth):
        load(each)
        votes.append(each.count(MODEL, segments(draws)))
    truth.close()
    share = moved(*votes) / float(votes[1].sum())
    require(f"share of votes moved, {sampler.name}", share, limit)
    return {"moved": share, "votes": float(votes[1].sum())}
