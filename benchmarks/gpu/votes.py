"""Networks to certify with on a device, and the correctness of a sampler that runs them.

Checks are functions of samplers and sizes; with a stream that needs no device they run on a CPU.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dualsmooth.benchmarks.gpu.gate import Figures, require
from dualsmooth.benchmarks.speed.networks import WideBlock, flop_per_vote
from dualsmooth.engine.models.architectures.deep_resnet import Bottleneck
from dualsmooth.engine.models.architectures.resnet import BasicBlock
from dualsmooth.engine.samplers.calibrate import AGREEMENT_LOST, MORE_VOTES
from dualsmooth.engine.samplers.cuda import CudaSampler
from dualsmooth.engine.samplers.eager import TorchSampler
from dualsmooth.engine.samplers.sampler import Segment

COPY_BYTES, MATRIX_FLOP = 4.3e12, 790e12
"""Per second, read plus written, and bf16; measured on an H200."""


@dataclass(frozen=True)
class Work:
    """Per draw: operations (two per multiply-add), and bytes of device memory.

    Bytes are those of a network whose normalization, sums and ReLUs are part of the convolutions,
    in bfloat16: every convolution reads its input once and writes its output once, and a sum reads
    its shortcut once. Weights stay in caches.
    """

    flop: float
    bytes: float

    def floor(self, draws: int, copy: float = COPY_BYTES, matrix: float = MATRIX_FLOP) -> float:
        """Seconds below which no layer-by-layer program gets."""
        return draws * max(self.flop / matrix, self.bytes / copy)


def work_of(network: nn.Module, shape: tuple[int, int, int]) -> Work:
    """Count one image of shape (height, width, channels)."""
    values = 0.0

    def layer(module: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        nonlocal values
        if isinstance(module, nn.Conv2d):
            values += inputs[0].numel() + output.numel()
        elif isinstance(module, BasicBlock | Bottleneck | WideBlock):
            values += output.numel()

    hooks = [part.register_forward_hook(layer) for part in network.modules()]
    flop = flop_per_vote(network.eval(), shape)
    for hook in hooks:
        hook.remove()
    return Work(flop, 2 * values)


MODEL, CLASSES, SIGMA, SEED = "m", 10, 0.25, 2026

MOVED_LIMIT = 0.005
"""Share of votes float32 rounding may move; it moves near ties only."""


@dataclass(frozen=True)
class Subject:
    """A network and the images its votes are drawn for."""

    name: str
    make: Callable[[], torch.nn.Module]  # with a linear layer fc of ten classes
    side: int  # pixels
    batch: int = 4096
    checked: int = 40_000  # draws of the checks
    exact: int = 1500  # draws of the comparison with the CPU in float32
    backends: tuple[str, ...] = ("cudnn", "eager")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of an image."""
        return self.side, self.side, 3

    @cached_property
    def images(self) -> NDArray[np.float32]:
        """A pool of 16 images."""
        return np.random.default_rng(0).random((16, *self.shape)).astype(np.float32)

    @cached_property
    def work(self) -> Work:
        """Operations and bytes of one draw."""
        return work_of(self.make(), self.shape)

    def sampler(self, network: torch.nn.Module, backend: str, **options: Any) -> CudaSampler:
        """A sampler of the network, with the images loaded."""
        settings: dict[str, Any] = {
            "seed": SEED,
            "batch_size": self.batch,
            "backend": backend,
        } | options
        made = CudaSampler({MODEL: network}, {MODEL: CLASSES}, self.shape, **settings)
        load(made, self)
        return made

    def balanced(self, rows: int = 64) -> torch.nn.Module:
        """An untrained network on the CPU whose noisy images spread over its classes.

        So votes can differ.
        """
        torch.manual_seed(0)
        network = self.make().eval()
        noise = torch.randn(rows, 3, *self.shape[:2], generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            logits = network(torch.from_numpy(self.images[0]).permute(2, 0, 1) + SIGMA * noise)
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


def load(sampler: Any, subject: Subject) -> Any:
    """Put the 16 images into slots; returns the sampler."""
    for slot, image in enumerate(subject.images):
        sampler.load(slot, image)
    return sampler


def moved(first: NDArray[np.int64], second: NDArray[np.int64]) -> int:
    """Votes that differ at least, between two histograms of equal totals."""
    return int(np.abs(first - second).sum()) // 2


def check_repeats(sampler: CudaSampler, draws: int) -> Figures:
    """Counts add up, and are the same on a rerun, in reverse order, one by one and in halves."""
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
    votes = [sampler.count(MODEL, segments(draws)) for sampler in (first, second)]
    require(f"votes changed by {what}", moved(*votes), 0)
    return {"votes": float(votes[0].sum())}


def check_reference(
    sampler: CudaSampler,
    network: torch.nn.Module,
    subject: Subject,
    draws: int,
    limit: float = MOVED_LIMIT,
) -> Figures:
    """Counts of the reference sampler on the CPU in float32, but for near ties."""
    truth = TorchSampler(
        {MODEL: network}, {MODEL: CLASSES}, subject.shape, seed=SEED, batch_size=64
    )
    votes = [each.count(MODEL, segments(draws)) for each in (sampler, load(truth, subject))]
    truth.close()
    share = moved(*votes) / float(votes[1].sum())
    require(f"share of votes moved, {sampler.name}", share, limit)
    return {"moved": share, "votes": float(votes[1].sum())}


def check_no_worse(
    sampler: CudaSampler, eager: CudaSampler, truth: CudaSampler, draws: int
) -> Figures:
    """Votes as near to those in float32 as eager PyTorch's in the sampler's own precision."""
    ours, theirs, exact = (s.count(MODEL, segments(draws)) for s in (sampler, eager, truth))
    total = float(exact.sum())
    far, usual = moved(ours, exact) / total, moved(theirs, exact) / total
    beyond = far - MORE_VOTES * usual
    require(f"share of votes moved beyond eager's, {sampler.name}", beyond, AGREEMENT_LOST)
    return {"moved": far, "moved by eager": usual}
