"""A CIFAR residual network as a sequence of kernels: stem, blocks, vote.

The published CIFAR ResNet-20 .. 110 with 1x1 projection shortcuts and batch norm folded in. Each
block is two launches: conv + ReLU, and conv + shortcut + ReLU with the shortcut in the same sum.
`cuda.residual_stage` makes the blocks of a stage one launch.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import torch

from dualsmooth.kernels.conv import conv
from dualsmooth.kernels.errors import KernelArgumentError
from dualsmooth.kernels.folding import FoldedStem
from dualsmooth.kernels.launch import ConvLaunch, StemLaunch
from dualsmooth.kernels.rows import Rows
from dualsmooth.kernels.stem import stem
from dualsmooth.kernels.vote import vote


@dataclass(frozen=True, slots=True)
class FoldedBlock:
    """A basic block with batch norm folded in; weights are of one compute dtype."""

    weight1: torch.Tensor  # [3, 3, Cin, Cout]
    bias1: torch.Tensor  # float32 [Cout]
    weight2: torch.Tensor  # [3, 3, Cout, Cout]
    bias2: torch.Tensor  # float32 [Cout]; with a projection, the sum of both
    projection: torch.Tensor | None = None  # [Cin, Cout], strided 1x1 shortcut; None: identity
    stride: int = 1

    def __post_init__(self) -> None:
        same = self.stride == 1 and self.weight1.shape[2] == self.weight1.shape[3]
        if self.projection is None and not same:
            rule = "must be given when the shape changes"
            raise KernelArgumentError("projection", rule, "None with a new shape")

    def __call__(
        self, x: torch.Tensor, *, backend: str = "auto", launch: ConvLaunch | None = None
    ) -> torch.Tensor:
        """Activations [R, H / stride, W / stride, Cout] of [R, H, W, Cin]; options of `conv`."""
        shortcut = None if self.projection is None else (x, self.projection)
        residual = x if shortcut is None else None
        options: Any = dict(backend=backend, launch=launch)
        y = conv(x, self.weight1, self.bias1, stride=self.stride, **options)
        return conv(y, self.weight2, self.bias2, residual=residual, shortcut=shortcut, **options)


class Layer(Protocol):
    """A block, or several in one."""

    def __call__(
        self, x: torch.Tensor, *, backend: str = "auto", launch: ConvLaunch | None = None
    ) -> torch.Tensor:
        """Activations of activations; options of `conv`."""


@dataclass(frozen=True, slots=True)
class FoldedResNet:
    """Stem, blocks and linear layer: ``fc_weight`` [C, K] and ``fc_bias`` float32 [K]."""

    stem: FoldedStem
    blocks: tuple[Layer, ...]
    fc_weight: torch.Tensor
    fc_bias: torch.Tensor


def resnet_features(
    images: torch.Tensor,
    rows: Rows,
    key: torch.Tensor,
    network: FoldedResNet,
    *,
    backend: str = "auto",
    stem_launch: StemLaunch | None = None,
    conv_launch: ConvLaunch | None = None,
) -> torch.Tensor:
    """Last activations [R, H', W', C'] of a packed batch of noisy images; see `resnet_votes`."""
    x = stem(images, rows, key, network.stem, backend=backend, launch=stem_launch)
    for block in network.blocks:
        x = block(x, backend=backend, launch=conv_launch)
    return x


def resnet_votes(
    images: torch.Tensor,
    rows: Rows,
    key: torch.Tensor,
    network: FoldedResNet,
    counts: torch.Tensor,
    **options,
) -> None:
    """Classify a packed batch of noisy images and add its votes to the counts of its segments.

    Images are float32 [slots, H, W, 3] in [0, 1], H and W divisible by the product of the strides;
    counts are int64 [segments, K + 1], the last entry for invalid votes; options are those of
    `resnet_features`.
    """
    features = resnet_features(images, rows, key, network, **options)
    backend = options.get("backend", "auto")
    vote(features, network.fc_weight, network.fc_bias, rows.segment, counts, backend=backend)
