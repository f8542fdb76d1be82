"""Networks in bfloat16 by the compiled loops: from the image to the last map in one call.

Weights, inputs and maps are rounded to bfloat16, sums, biases and the layer that gives the logits
are float32.
"""

import copy
from functools import cache

import torch
from torch import nn

from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.models.architectures.ordered import OrderedScore
from dualsmooth.engine.models.capture import has_hooks, is_captured
from dualsmooth.engine.models.ensemble import Consensus, Members, SoftVoting
from dualsmooth.engine.samplers.fusion.fold import folded_network
from dualsmooth.engine.samplers.fusion.patterns import note_shapes
from dualsmooth.engine.samplers.fusion.structure import Part, Structure
from dualsmooth.kernels.cpu import bf16_conv
from dualsmooth.kernels.cpu.bf16_conv import Bf16Chain
from dualsmooth.kernels.cpu.maps import Step


@cache
def multiplies_bf16() -> bool:
    """Whether the processor has bfloat16 dot products (AVX512-BF16 or AMX)."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


class Bf16Network(nn.Module):
    """A chain of maps, then the mean over pixels where ``pooled``, and a linear layer in float32.

    Logits are float32 (rows, classes) of bfloat16 rows (rows, channels, height, width).
    """

    def __init__(self, structure: Structure, shape: tuple[int, int, int, int]) -> None:
        super().__init__()
        rows, height, width, channels = shape
        counts, steps = [channels], list[Step]()
        for part in structure.parts:
            steps.append(_step(part, counts[part.read]))
            counts.append(len(steps[-1].rim))
        self.chain = Bf16Chain(steps, (height, width, channels), structure.normalize)
        self.pooled, head = structure.pooled, structure.head
        weight = head.weight.detach()
        if not self.pooled:  # maps are channels-last
            last = self.chain.result
            weight = weight.view(-1, last[2], *last[:2]).permute(0, 2, 3, 1).flatten(1)
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), rows)
        self.register_buffer("packed", packed, persistent=False)
        self.register_buffer("bias", None if head.bias is None else head.bias.detach())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = self.chain(x)
        values = maps.mean((2, 3)) if self.pooled else maps.permute(0, 2, 3, 1).flatten(1)
        linear = torch.ops.mkldnn._linear_pointwise.default
        logits: torch.Tensor = linear(values, self.packed, self.bias, "none", [], "")
        return logits


def in_bf16_loops(network: nn.Module, role: str, shape: tuple[int, int, int, int]) -> nn.Module:
    """A copy of a float32 network in the loops, for batches (rows, height, width, channels).

    Of a selector with thresholds, or an ensemble, the networks it is made of are. `ArgumentError`
    says why the loops cannot be used, or names the first layer that has no place in them.
    """
    why = bf16_conv.trouble()
    if why or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        raise ArgumentError("bfloat16 loops", "must be there", why or "PyTorch without oneDNN")
    if type(network) not in (OrderedScore, SoftVoting, Consensus) or has_hooks(network):
        return _chained(network, role, shape)
    made = copy.deepcopy(network).eval()
    if isinstance(made, OrderedScore):
        made.network = in_bf16_loops(made.network, role, shape)
    elif isinstance(made, SoftVoting):
        made.members = _members(made, role, shape)
    elif isinstance(made, Consensus):
        made.first.members = _members(made.first, role, shape)
        made.rest.members = _members(made.rest, role, (made.rows, *shape[1:]))
    return made


def _members(
    voters: SoftVoting | Members, role: str, shape: tuple[int, int, int, int]
) -> nn.ModuleList:
    return nn.ModuleList([in_bf16_loops(member, role, shape) for member in voters.members])


def _chained(network: nn.Module, role: str, shape: tuple[int, int, int, int]) -> Bf16Network:
    rows, height, width, channels = shape
    folded = folded_network(network, torch.float32, shape)
    if not is_captured(folded):
        rule = "must be one that can be captured"
        raise ArgumentError(f"network {role}", rule, type(network).__name__)
    example = torch.zeros(rows, height, width, channels).permute(0, 3, 1, 2)
    note_shapes(folded, example)
    return Bf16Network(Structure(folded, role).read(), shape).eval()


def _step(part: Part, channels: int) -> Step:
    window = (part.kernel, part.stride, part.padding)
    if part.weight is None:
        return bf16_conv.maximum(part.read, window, channels)
    constants = (part.weight, part.bias)
    return bf16_conv.convolution(part.read, part.added, window, *constants, relu=part.relu)
