"""A CIFAR residual network as a sequence of kernels: stem, blocks, vote.

The published CIFAR ResNet-20 .. 110 with 1x1 projection shortcuts and batch norm folded in. Each
block is two launches: conv + ReLU, and conv + shortcut + ReLU with the shortcut in the same sum.
"""

from dataclasses import dataclass

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
    """A basic block with batch norm folded in.

    Parameters
    ----------
    weight1, weight2 : tensor [3, 3, Cin, Cout] and [3, 3, Cout, Cout]
        Convolutions, in the compute dtype.
    bias1, bias2 : float32 tensor [Cout]
        Biases; with a projection, ``bias2`` holds the sum of both.
    projection : tensor [Cin, Cout] or None
        1x1 shortcut with the block's stride; None is the identity.
    stride : int
        1 or 2, of the first convolution and the projection.
    """

    weight1: torch.Tensor
    bias1: torch.Tensor
    weight2: torch.Tensor
    bias2: torch.Tensor
    projection: torch.Tensor | None = None
    stride: int = 1

    def __post_init__(self) -> None:
        if self.projection is None and (
            self.stride != 1 or self.weight1.shape[2] != self.weight1.shape[3]
        ):
            raise KernelArgumentError(
                "projection", "must be given when the shape changes", "None with a new shape"
            )


@dataclass(frozen=True, slots=True)
class FoldedResNet:
    """Stem, blocks and linear layer: ``fc_weight`` [C, K] and ``fc_bias`` float32 [K]."""

    stem: FoldedStem
    blocks: tuple[FoldedBlock, ...]
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
        y = conv(
            x, block.weight1, block.bias1, stride=block.stride, backend=backend, launch=conv_launch
        )
        x = conv(
            y,
            block.weight2,
            block.bias2,
            residual=x if block.projection is None else None,
            shortcut=None if block.projection is None else (x, block.projection),
            backend=backend,
            launch=conv_launch,
        )
    return x


def resnet_votes(
    images: torch.Tensor,
    rows: Rows,
    key: torch.Tensor,
    network: FoldedResNet,
    counts: torch.Tensor,
    *,
    backend: str = "auto",
    stem_launch: StemLaunch | None = None,
    conv_launch: ConvLaunch | None = None,
) -> None:
    """Classify a packed batch of noisy images and add its votes to the counts of its segments.

    Parameters
    ----------
    images : float32 tensor [slots, H, W, 3]
        Images in [0, 1], channels-last; H and W divisible by the product of the strides.
    rows : Rows
        R rows; ``rows.segment`` says where each votes.
    key : int32 tensor (2,)
        `seed_key(seed)`.
    network : FoldedResNet
        Weights on the images' device, one compute dtype.
    counts : int64 tensor [segments, K + 1]
        Added to; the last entry counts invalid votes.
    backend, stem_launch, conv_launch
        As for `stem` and `conv`.

    Raises
    ------
    KernelArgumentError
        If a shape, dtype, device or range is wrong.
    """
    features = resnet_features(
        images,
        rows,
        key,
        network,
        backend=backend,
        stem_launch=stem_launch,
        conv_launch=conv_launch,
    )
    vote(features, network.fc_weight, network.fc_bias, rows.segment, counts, backend=backend)
