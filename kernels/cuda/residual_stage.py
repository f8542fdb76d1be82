"""Host side of the on-chip residual stage: weight packing and the call."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import torch

from dualsmooth.kernels.checks import expect
from dualsmooth.kernels.cuda.stages import RESIDUAL, Stage, choose_stage, launch
from dualsmooth.kernels.errors import KernelArgumentError
from dualsmooth.kernels.launch import ConvLaunch
from dualsmooth.kernels.resnet import FoldedBlock, FoldedResNet


def pack_weights(weight: torch.Tensor) -> torch.Tensor:
    """Fragments of mma.m16n8k16: [convs, K, K, Cin, Cout] to bf16 [convs, K K, Cin/16, Cout/8,
    32, 2, 2].

    Lane l of a fragment holds output channel l // 4 of its tile of 8 and, in register j, input
    channels 8 j + 2 (l % 4) and the next one of its step of 16.
    """
    convs, _, _, channels, outputs = weight.shape
    lane = torch.arange(32, device=weight.device)
    pair = torch.arange(2, device=weight.device)
    k = (lane % 4 * 2)[:, None, None] + 8 * pair[None, :, None] + pair[None, None, :]
    n = (lane // 4)[:, None, None].expand_as(k)
    tiles = weight.bfloat16().reshape(convs, -1, channels // 16, 16, outputs // 8, 8)
    return tiles.permute(0, 1, 2, 4, 3, 5)[..., k, n].contiguous()


@dataclass(frozen=True, slots=True)
class StageOnChip:
    """Blocks of one shape in sequence, as one kernel; ``packed`` and ``bias`` are their weights."""

    blocks: tuple[FoldedBlock, ...]
    packed: torch.Tensor
    bias: torch.Tensor  # float32 [2 B, C]
    stage: Stage

    @classmethod
    def pack(cls, blocks: Sequence[FoldedBlock], stage: Stage) -> "StageOnChip":
        """Lay out the weights of identity blocks with bfloat16 weights."""
        weights = [w for block in blocks for w in (block.weight1, block.weight2)]
        biases = [b for block in blocks for b in (block.bias1, block.bias2)]
        return cls(tuple(blocks), pack_weights(torch.stack(weights)), torch.stack(biases), stage)

    def __call__(
        self, x: torch.Tensor, *, backend: str = "auto", launch: ConvLaunch | None = None
    ) -> torch.Tensor:
        """Activations [R, S, S, C] after all blocks; other backends run them one by one."""
        if x.is_cuda and backend == "auto":
            return residual_stage(x, self.packed, self.bias, self.stage)
        for block in self.blocks:
            x = block(x, backend=backend, launch=launch)
        return x


def on_chip(network: FoldedResNet, size: int, shared: int) -> FoldedResNet | None:
    """The network with its identity blocks in stages, for square images of ``size`` pixels.

    None where a stage has no launch choice that fits ``shared`` bytes, or weights are not bfloat16.
    """
    layers: list[FoldedBlock | StageOnChip] = []
    folded = [block for block in network.blocks if isinstance(block, FoldedBlock)]
    for alike, group in groupby(folded, lambda block: block.projection is None):
        blocks = list(group)
        size //= 1 if alike else blocks[0].stride
        first = blocks[0].weight1
        stage = choose_stage(first.shape[3], size, shared)
        if not alike:
            layers += blocks
        elif stage is None or first.dtype != torch.bfloat16:
            return None
        else:
            layers.append(StageOnChip.pack(blocks, stage))
    return replace(network, blocks=tuple(layers))


def residual_stage(
    x: torch.Tensor, packed: torch.Tensor, bias: torch.Tensor, stage: Stage
) -> torch.Tensor:
    """Run all identity blocks of a stage on chip; CUDA only, on torch's current stream.

    ``x`` is bfloat16 [R, S, S, C] with the sizes of ``stage``; ``packed`` the `pack_weights` of its
    2 B convolutions in order, ``bias`` float32 [2 B, C]. The result is B blocks of
    relu(x + conv(relu(conv(x)))), rounded to bfloat16 after each convolution.
    """
    size, channels, convs = stage.size, stage.channels, bias.shape[0]
    expect("x", x, (None, size, size, channels), (torch.bfloat16,))
    fragments = (convs, 9, channels // 16, channels // 8, 32, 2, 2)
    expect("packed", packed, fragments, (torch.bfloat16,), device=x.device)
    expect("bias", bias, (convs, channels), (torch.float32,), device=x.device)
    if convs % 2 or not x.is_cuda:
        raise KernelArgumentError("bias", "must hold 2 per block, on a GPU", tuple(bias.shape))
    out = torch.empty_like(x)
    launch(RESIDUAL, stage, stage.blocks(len(x)), x, out, packed, bias, len(x), convs // 2)
    return out
