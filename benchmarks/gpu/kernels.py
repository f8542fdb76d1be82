"""Times of the kernels beside computed floors and torch's; the pass checks them first.

Each round runs all contestants in random order, timed with CUDA events; the median, interquartile
range and minimum are per 100,000 draws. Not timed here: the loop of a certified run on the host.
"""

import math
import random
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from dualsmooth.benchmarks.gpu.items import Turn, Unavailable
from dualsmooth.benchmarks.gpu.votes import COPY_BYTES, MATRIX_FLOP, SEED, SIGMA
from dualsmooth.engine.models.registry import create
from dualsmooth.engine.samplers.fusion.fold import scale_and_shift
from dualsmooth.engine.samplers.fusion.triton import folded_resnet
from dualsmooth.kernels import ops
from dualsmooth.kernels.cuda.fused import FusedResNet, fused_logits
from dualsmooth.kernels.cuda.residual_stage import on_chip
from dualsmooth.kernels.cuda.stages import shared_memory
from dualsmooth.kernels.cuda.tiled_stem import SHAPES, TiledStem, pack_stem, tiled_stem
from dualsmooth.kernels.folding import fold_stem
from dualsmooth.kernels.launch import PATCHES, StemShape, stem_candidates
from dualsmooth.kernels.resnet import FoldedResNet, resnet_votes
from dualsmooth.kernels.rows import Rows, seed_key

CIFAR, IMAGENET = StemShape(32, 32, 3, 16, 3, 1), StemShape(224, 224, 3, 64, 7, 2)
CIFAR_BATCH, IMAGENET_BATCH = 4096, 256
CONVS = ((16, 16, 32), (16, 32, 32), (32, 32, 16), (32, 64, 16), (64, 64, 8))
"""Inputs, outputs and image side of the 3x3 convolutions of CIFAR ResNets."""

DRAWS = 100_000
AHEAD = 400_000
"""Cycles that a device waits before a timed call, so that the host has launched it meanwhile: small
kernels take less time than their launch.
"""


class Contestant:
    """Something to time: a call on ``batch`` draws, and its bytes and operations per draw."""

    def __init__(
        self, name: str, batch: int, call: Callable[[], object], bytes: float, flop: float = 0
    ) -> None:
        self.name, self.batch, self.call, self.bytes, self.flop = name, batch, call, bytes, flop
        self.seconds: list[float] = []

    def run(self) -> None:
        """One timed call; CUDA events around it."""
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        torch.cuda._sleep(AHEAD)  # type: ignore[no-untyped-call]
        start.record()
        self.call()
        stop.record()
        stop.synchronize()
        self.seconds.append(start.elapsed_time(stop) / 1e3)

    def report(self) -> dict[str, float]:
        """Milliseconds per 100,000 draws, floors beside them."""
        scale = DRAWS / self.batch * 1e3
        low, middle, high = statistics.quantiles(self.seconds, n=4)
        return {
            "median_ms": middle * scale,
            "iqr_ms": (high - low) * scale,
            "min_ms": min(self.seconds) * scale,
            "memory_floor_ms": self.bytes * DRAWS / COPY_BYTES * 1e3,
            "matrix_floor_ms": self.flop * DRAWS / MATRIX_FLOP * 1e3,
        }


def rows_of(count: int, device: torch.device) -> Rows:
    """Rows of 16 images in turn."""
    return Rows.pack(
        slot=[i % 16 for i in range(count)],
        sigma=[SIGMA] * count,
        stream=[3] * count,
        image=[i % 16 for i in range(count)],
        sample=range(count),
        segment=[i * 16 // count for i in range(count)],
        device=device,
    )


def noise_and_stems(device: torch.device) -> list[Contestant]:
    """A device copy and torch's generator for scale, our noise, and every stem design."""
    made, key = list[Contestant](), seed_key(SEED, device)
    half = torch.randn(1 << 28, device=device, dtype=torch.bfloat16)
    made.append(Contestant("copy of 512 MB", 1, lambda: half.clone(), 4 * half.numel()))
    kinds = [("cifar", CIFAR, CIFAR_BATCH), ("imagenet", IMAGENET, IMAGENET_BATCH)]
    kinds += [(name, shape, IMAGENET_BATCH) for name, shape in PATCHES.items()]
    for label, shape, batch in kinds:
        side = (shape.height, shape.width, 3)
        images, rows = torch.rand(16, *side, device=device), rows_of(batch, device)
        values, pixels = side[0] * side[1] * 3, shape.out_height * shape.out_width
        randn = partial(torch.randn, batch, *side, device=device)
        noise = partial(ops.noise, images, rows, key, dtype=torch.bfloat16, padded=True)
        if shape.plain:
            made.append(Contestant(f"torch.randn {label}", batch, randn, 4 * values))
            made.append(Contestant(f"noise {label}", batch, noise, 8 * values / 3))
        weight = torch.randn(shape.kernel, shape.kernel, 3, shape.outputs, device=device) / 10
        bias, mean, std = (
            torch.full((n,), v, device=device)
            for n, v in ((shape.outputs, 0.1), (3, 0.45), (3, 0.25))
        )
        stride = shape.stride
        folded = fold_stem(weight, bias, mean, std, padding=shape.pad)
        for choice in stem_candidates(shape):
            stem = partial(ops.stem, images, rows, key, folded, stride=stride, launch=choice)
            flop = 2 * pixels * shape.kernel**2 * 3 * shape.outputs
            stored = 16 * values / 3 if choice.design == "stored" else 0
            written = 2 * pixels * shape.outputs + stored
            made.append(Contestant(f"stem {label} {choice.design}", batch, stem, written, flop))
    return made


def _relu_convolution(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, stride: int
) -> torch.Tensor:
    return torch.relu_(torch.nn.functional.conv2d(x, weight, bias, stride, 1))


def layers(device: torch.device, network: FoldedResNet) -> list[Contestant]:
    """Convolutions, ours and torch's bf16 channels-last, the vote head and the whole network."""
    made, batch = list[Contestant](), CIFAR_BATCH
    for cin, cout, size in CONVS:
        stride = 1 if cin == cout else 2
        x = torch.randn(batch, size, size, cin, device=device, dtype=torch.bfloat16)
        weight = torch.randn(3, 3, cin, cout, device=device, dtype=torch.bfloat16) / 20
        bias, flat = torch.randn(cout, device=device), x.permute(0, 3, 1, 2)
        kernel = weight.permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)
        outputs, half = (size // stride) ** 2 * cout, bias.bfloat16()
        work = (2 * (size * size * cin + outputs), 18 * outputs * cin)
        conv = partial(ops.conv, x, weight, bias, stride=stride)
        torch_conv = partial(_relu_convolution, flat, kernel, half, stride)
        made.append(Contestant(f"conv {cin}-{cout} {size}px", batch, conv, *work))
        made.append(Contestant(f"torch conv {cin}-{cout} {size}px", batch, torch_conv, *work))
    features = torch.randn(batch, 8, 8, 64, device=device, dtype=torch.bfloat16)
    head, bias = torch.randn(64, 10, device=device).bfloat16(), torch.zeros(10, device=device)
    rows = rows_of(batch, device)
    counts = torch.zeros(16, 11, dtype=torch.int64, device=device)
    vote = partial(ops.vote, features, head, bias, rows.segment, counts)
    made.append(Contestant("vote", batch, vote, 8192, 5376))
    images, key = torch.rand(16, 32, 32, 3, device=device), seed_key(SEED, device)
    votes = partial(resnet_votes, images, rows, key, network, counts)
    made.append(Contestant("ResNet-110 with noise and votes", batch, votes, 5.2e6, 0.5063e9))
    return made


NORMS = ((160, 32), (320, 16), (640, 8))
"""Channels and image side of the sums of WRN-28-10."""


def sums_and_norms(device: torch.device) -> list[Contestant]:
    """A sum that is kept, batch norm and ReLU: one pass of ours, three of PyTorch's."""
    made, batch = list[Contestant](), CIFAR_BATCH // 2
    for channels, size in NORMS:
        x, other = torch.randn(2, batch, size, size, channels, device=device).bfloat16()
        flat = [t.permute(0, 3, 1, 2) for t in (x, other)]
        norm = torch.nn.BatchNorm2d(channels).eval().to(device, torch.bfloat16)
        scale, shift = (constant.float() for constant in scale_and_shift(norm))
        ours = partial(ops.affine, x, scale, shift, other=other, keep=True)
        theirs = partial(_sum_norm_relu, norm, *flat)
        for name, call in (("affine", ours), ("torch sum, norm, relu", theirs)):
            moved = 8.0 * size * size * channels
            made.append(Contestant(f"{name} {channels} {size}px", batch, call, moved))
    return made


def _sum_norm_relu(
    norm: torch.nn.Module, x: torch.Tensor, other: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    total = x + other
    with torch.no_grad():
        return total, torch.relu_(norm(total))


def noise_and_layers(device: torch.device, network: FoldedResNet) -> list[Contestant]:
    """Everything of Triton's."""
    return noise_and_stems(device) + layers(device, network) + sums_and_norms(device)


def on_chip_kernels(device: torch.device, network: FoldedResNet) -> list[Contestant]:
    """The network with its stages on chip, and in three kernels; tiled stems beside their noise."""
    shared, key = shared_memory(device), seed_key(SEED, device)
    chip = on_chip(network, 32, shared)
    whole = None if chip is None else FusedResNet.fuse(chip)
    if chip is None or whole is None:
        raise Unavailable("too little shared memory, or no CuPy")
    images, rows = torch.rand(16, 32, 32, 3, device=device), rows_of(CIFAR_BATCH, device)
    counts = torch.zeros(16, 11, dtype=torch.int64, device=device)
    batch = images, rows, key
    calls: list[tuple[str, Callable[[], object], float]] = [
        ("with stages on chip", partial(resnet_votes, *batch, chip, counts), 3.44e5),
        ("in three kernels", partial(fused_logits, *batch, whole, counts), 4.9e4),
    ]
    made = [Contestant(f"ResNet-110 {n}", CIFAR_BATCH, c, size, 0.5063e9) for n, c, size in calls]
    for shape, pool in SHAPES:
        size = CIFAR_BATCH if shape.height == 32 else IMAGENET_BATCH
        choice = TiledStem.choose(shape, shared, pool)
        assert choice is not None
        weight = torch.randn(shape.kernel, shape.kernel, 3, shape.outputs, device=device) / 10
        parts = (shape.outputs, 0.1), (3, 0.45), (3, 0.25)
        folded = fold_stem(weight, *(torch.full((n,), v, device=device) for n, v in parts))
        images = torch.rand(16, shape.height, shape.width, 3, device=device)
        arguments = images, rows_of(size, device), key, folded, pack_stem(folded), choice
        pixels = shape.out_height * shape.out_width
        written = 2 * math.prod(choice.size) * shape.outputs
        work = written, 2 * pixels * shape.kernel**2 * 3 * shape.outputs
        call = partial(tiled_stem, *arguments)
        made.append(Contestant(f"tiled stem {choice.label}", size, call, *work))
    return made


def on_random_weights(
    kinds: Callable[[torch.device, FoldedResNet], list[Contestant]], turn: Turn
) -> dict[str, Any]:
    """Times of kernels, those that take a network with ResNet-110's."""
    device = turn.place.device
    network = folded_resnet(create("cifar_resnet110", {}).eval(), torch.bfloat16, device)
    assert network is not None
    return dict(timed(kinds(device, network), 15))


def timed(
    contestants: list[Contestant], rounds: int, warm: float = 3.0
) -> dict[str, dict[str, float]]:
    """Warm up for so many seconds, then interleave in random order."""
    end = time.monotonic() + warm
    while time.monotonic() < end:
        for contestant in contestants:
            contestant.call()
        torch.cuda.synchronize()
    order = random.Random(0)
    for _ in range(rounds):
        order.shuffle(contestants)
        for contestant in contestants:
            contestant.run()
    return {c.name: c.report() for c in sorted(contestants, key=lambda c: c.name)}
