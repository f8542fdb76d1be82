"""Every check of the kernels, by name, at real sizes and at small ones."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from dualsmooth.benchmarks.gpu import kernel_checks as checks
from dualsmooth.benchmarks.gpu import library
from dualsmooth.benchmarks.gpu.peers import tf32
from dualsmooth.kernels.cuda.residual_stage import STAGES
from dualsmooth.kernels.launch import StemShape

CONVS = ((16, 16, 32), (16, 32, 32), (32, 32, 16), (32, 64, 16), (64, 64, 8))
"""Inputs, outputs and image side of the 3x3 convolutions of CIFAR ResNets."""


@dataclass(frozen=True)
class Sizes:
    """What the kernels are checked on: images of two kinds, their batches, and networks."""

    cifar: StemShape
    imagenet: StemShape
    cifar_batch: int
    imagenet_batch: int
    convs: tuple[tuple[int, int, int], ...]
    blocks: tuple[int, ...]
    side: int
    rows: int


REAL = Sizes(
    StemShape(32, 32, 3, 16, 3, 1), StemShape(224, 224, 3, 64, 7, 2), 4096, 256, CONVS, (3, 18),
    32, 4096,
)  # fmt: skip
SMALL = Sizes(
    StemShape(5, 3, 3, 16, 3, 1), StemShape(6, 5, 3, 16, 3, 2), 3, 2, ((16, 32, 4),), (1,), 4, 83
)
"""For the interpreter, and for tools that make a device slow."""


def kernel_checks(
    device: torch.device, sizes: Sizes, dtype: torch.dtype
) -> dict[str, Callable[[], checks.Figures]]:
    """Each raises `CheckFailed` at the first fault."""
    found: dict[str, Callable[[], checks.Figures]] = {
        "philox words": partial(library.check_words, device)
    }
    for name, shape, batch in (
        ("cifar", sizes.cifar, sizes.cifar_batch),
        ("imagenet", sizes.imagenet, sizes.imagenet_batch),
    ):
        side = (shape.height, shape.width, shape.channels)
        found[f"noise {name}"] = partial(checks.check_noise, device, side, batch)
        found[f"stem {name}"] = partial(checks.check_stem, device, shape, batch, dtype)
    found["vote cifar"] = partial(checks.check_vote, device, sizes.rows, 10)
    found["vote imagenet"] = partial(checks.check_vote, device, sizes.rows, 1000)
    for cin, cout, size in sizes.convs:
        found[f"conv {cin}-{cout}"] = partial(
            checks.check_conv, device, cin, cout, size, sizes.cifar_batch, dtype
        )
    for blocks in sizes.blocks:
        found[f"ResNet-{6 * blocks + 2}"] = partial(
            checks.check_resnet, device, blocks, sizes.side, sizes.cifar_batch, dtype
        )
    words = sizes.cifar_batch << 16
    return {name: partial(_exactly, device, words, check) for name, check in found.items()}


def library_checks(
    device: torch.device, sizes: Sizes, dtype: torch.dtype
) -> dict[str, Callable[[], checks.Figures]]:
    """cuDNN's fused convolutions and the on-chip stage, which need a CUDA device."""
    found: dict[str, Callable[[], checks.Figures]] = {}
    for cin, cout, size in sizes.convs:
        found[f"cudnn {cin}-{cout}"] = partial(
            library.check_cudnn, device, cin, cout, size, sizes.cifar_batch, dtype
        )
    for stage in STAGES:
        rows = sizes.cifar_batch + 1
        found[f"on-chip stage {stage.channels}"] = partial(library.check_stage, stage, device, rows)
    words = sizes.cifar_batch << 16
    return {name: partial(_exactly, device, words, check) for name, check in found.items()}


def _exactly(
    device: torch.device, words: int, check: Callable[[], checks.Figures]
) -> checks.Figures:
    """References in float32 compute in float32; memory without a value holds NaN."""
    with tf32(False):
        library.poison(device, words)
        return check()
