"""A CIFAR ResNet from noise to votes in three kernels, one for each stage.

Between them a draw leaves 16 KB and 8 KB in device memory, and its logits behind them. Sums are
those of the Triton path in the same order, except for pooling and the linear layer: pixels, and
then the products of the channels, are added to a float32 sum one after the other.
"""

from dataclasses import dataclass

import torch

from dualsmooth.kernels import reference
from dualsmooth.kernels.checks import expect
from dualsmooth.kernels.cuda.residual_stage import StageOnChip, pack_weights
from dualsmooth.kernels.cuda.stages import INNER, NOISY, VOTING, launch
from dualsmooth.kernels.resnet import FoldedBlock, FoldedResNet, resnet_features
from dualsmooth.kernels.rows import Rows, expect_batch

STEM_ENTRIES = 48
"""Entries (ky, kx, lane) of a 3x3 stem, in steps of 16."""


@dataclass(frozen=True, slots=True)
class StageAndExit:
    """Identity blocks, and the block that changes the shape behind them."""

    stage: StageOnChip
    packed: torch.Tensor  # bf16, fragments of its two convolutions and its shortcut
    bias: torch.Tensor  # float32 [2, 2 C]

    @classmethod
    def pack(cls, stage: StageOnChip, exit_: FoldedBlock) -> "StageAndExit":
        """Lay out the weights."""
        assert exit_.projection is not None
        weights = exit_.weight1, exit_.weight2, exit_.projection[None, None]
        packed = torch.cat([pack_weights(w[None]).flatten() for w in weights])
        return cls(stage, packed, torch.stack((exit_.bias1, exit_.bias2)))

    @property
    def weights(self) -> tuple[torch.Tensor, ...]:
        """As the kernels take them."""
        return self.stage.packed, self.stage.bias, self.packed, self.bias


@dataclass(frozen=True, slots=True)
class FusedResNet:
    """The three kernels of ``network``: its layers by turns a stage and the block behind it."""

    network: FoldedResNet
    stem: torch.Tensor  # bf16 fragments
    first: StageAndExit
    second: StageAndExit
    last: StageOnChip
    head: torch.Tensor  # float32 [C, K], bf16 values

    @classmethod
    def fuse(cls, network: FoldedResNet) -> "FusedResNet | None":
        """Of a network that `on_chip` made; None for a shape that the kernels do not have."""
        kinds = [StageOnChip, FoldedBlock, StageOnChip, FoldedBlock, StageOnChip]
        if [type(layer) for layer in network.blocks] != kinds or network.stem.lanes != 4:
            return None
        one, two, three = (s for s in network.blocks if isinstance(s, StageOnChip))
        exits = [block for block in network.blocks if isinstance(block, FoldedBlock)]
        shapes = [(b.stride, *b.weight1.shape) for b in exits]
        if shapes != [(2, 3, 3, 16, 32), (2, 3, 3, 32, 64)] or network.stem.weight.shape[0] != 3:
            return None
        stem = network.stem.packed[:STEM_ENTRIES].view(1, 3, 1, 16, 16)
        parts = StageAndExit.pack(one, exits[0]), StageAndExit.pack(two, exits[1])
        head = network.fc_weight.bfloat16().float().contiguous()
        return cls(network, pack_weights(stem), *parts, three, head)


def fused_logits(
    images: torch.Tensor,
    rows: Rows,
    key: torch.Tensor,
    fused: FusedResNet,
    counts: torch.Tensor | None = None,
) -> torch.Tensor:
    """Logits float32 [R, K] of a packed batch of noisy images; votes are added to ``counts``.

    Images are float32 [slots, 32, 32, 3 or 4] in [0, 1]; counts, if given, are int64 [segments,
    K + 1], the last entry for invalid votes. CPU tensors take the layers one by one.
    """
    expect_batch(images, rows, key, torch.float32)
    stem, classes = fused.network.stem, fused.head.shape[1]
    size, colors = fused.first.stage.stage.size, stem.weight.shape[2]
    expect("images", images, (None, size, size, colors), (torch.float32,))
    segments = 0 if counts is None else len(counts)
    if counts is not None:
        expect("counts", counts, (None, classes + 1), (torch.int64,), device=images.device)
    if not images.is_cuda:
        x = resnet_features(images, rows, key, fused.network)
        logits = reference.logits(x, fused.head, fused.network.fc_bias)
        if counts is not None:
            reference.vote(logits, rows.segment, counts)
        return logits
    votes = images.new_zeros(1, classes + 1, dtype=torch.int64) if counts is None else counts
    return run_kernels(images, rows, key, fused, votes, segments)


def run_kernels(
    images: torch.Tensor,
    rows: Rows,
    key: torch.Tensor,
    fused: FusedResNet,
    counts: torch.Tensor,
    segments: int,
) -> torch.Tensor:
    """What `fused_logits` does on a device; rows of segments from ``segments`` on do not vote."""
    one, two, three = fused.first.stage, fused.second.stage, fused.last
    total, side, classes = len(rows), one.stage.size, fused.head.shape[1]
    bf16 = images.new_empty(0, dtype=torch.bfloat16)
    half = bf16.new_empty(total, side // 2, side // 2, 32)
    quarter = bf16.new_empty(total, side // 4, side // 4, 64)
    logits = images.new_empty(total, classes)
    columns = key, rows.slot, rows.sigma, rows.stream, rows.image, rows.sample
    stem = fused.stem, fused.network.stem.table
    parts = images, *columns, *stem, *fused.first.weights, half
    sizes = total, len(one.blocks), images.shape[3]
    launch(NOISY, one.stage, one.stage.blocks(total), *parts, *sizes)
    parts = half, *fused.second.weights, quarter
    launch(INNER, two.stage, two.stage.blocks(total), *parts, total, len(two.blocks))
    head = fused.head, fused.network.fc_bias, logits, rows.segment, counts
    parts = quarter, three.packed, three.bias, *head
    numbers = total, len(three.blocks), segments, classes
    launch(VOTING, three.stage, three.stage.blocks(total), *parts, *numbers)
    return logits
