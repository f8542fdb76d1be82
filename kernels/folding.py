"""Fold preprocessing into the first convolution, exactly at the borders."""

import math
from dataclasses import dataclass

import torch

from dualsmooth.kernels.checks import FLOATS, expect, expect_words
from dualsmooth.kernels.errors import KernelArgumentError

REDUCTION_UNIT = 64
"""Packed weights are padded to a multiple of this many rows."""


@dataclass(frozen=True, slots=True)
class FoldedStem:
    """A first convolution with (x - mean) / std folded in.

    ``packed`` [K_PAD, Cout] are weights / std in the compute dtype, rows ordered (ky, kx, lane),
    zero rows at the end; RGB takes four lanes per tap, the last one zero. ``table``, float32
    [(P + 1)^2, (P + 1)^2, Cout], is the bias of each border class, P the padding: first axis rows
    missing (above, below) the image, second columns missing (left, right), each pair as
    first * (P + 1) + second. The rest is what was folded: [K, K, C, Cout], [Cout], [C], [C].
    """

    packed: torch.Tensor
    table: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor
    mean: torch.Tensor
    std: torch.Tensor

    @property
    def pad(self) -> int:
        """Zeros on every side of the image."""
        return math.isqrt(len(self.table)) - 1

    @property
    def lanes(self) -> int:
        """Reduction entries per tap."""
        return 4 if self.weight.shape[2] == 3 else int(self.weight.shape[2])


def fold_stem(
    weight: torch.Tensor,
    bias: torch.Tensor,
    mean: torch.Tensor,
    std: torch.Tensor,
    *,
    dtype: torch.dtype = torch.bfloat16,
    padding: int | None = None,
) -> FoldedStem:
    """Fold a preprocessing: conv((x - mean) / std) with zero padding after the normalisation.

    The bias of an output is bias - sum over the taps inside the image of w' mean, w' the rounded
    folded weights, so an image equal to the mean gives exactly the bias everywhere. ``weight`` is
    float32 [K, K, C, Cout], C in {1, 3, 4}, batch norm already folded in; ``mean`` and ``std`` > 0
    are float32 [C] in input units; ``padding`` is at most K // 2, which it is by default.
    """
    size, channels, outputs = weight.shape[0], *weight.shape[2:]
    pad = size // 2 if padding is None else padding
    if channels not in (1, 3, 4):
        raise KernelArgumentError(
            "weight", "must be [K, K, 1 or 3 or 4, Cout]", tuple(weight.shape)
        )
    if not 0 <= pad <= size // 2:
        raise KernelArgumentError("padding", f"must be in [0, {size // 2}]", pad)
    expect("weight", weight, (size, size, None, None), (torch.float32,))
    for name, tensor, length in (("bias", bias, outputs), ("mean", mean, channels)):
        expect(name, tensor, (length,), (torch.float32,), device=weight.device)
    expect("std", std, (channels,), (torch.float32,), device=weight.device)
    if not bool((std > 0).all()):
        raise KernelArgumentError("std", "must be > 0", std.tolist())
    if dtype not in FLOATS:
        raise KernelArgumentError("dtype", "must be float32, float16 or bfloat16", dtype)
    expect_words(
        "weight", max(4 * size * size, (pad + 1) ** 4) * outputs, "values, or border biases"
    )
    folded = (weight / std[:, None]).to(dtype)
    lanes = 4 if channels == 3 else channels
    entries = size * size * lanes
    packed = torch.zeros(
        (-(-entries // REDUCTION_UNIT) * REDUCTION_UNIT, outputs), dtype=dtype, device=weight.device
    )
    packed[:entries].view(size * size, lanes, outputs)[:, :channels] = folded.flatten(0, 1)
    return FoldedStem(packed, _border_table(folded, bias, mean, pad), weight, bias, mean, std)


def _border_table(
    folded: torch.Tensor, bias: torch.Tensor, mean: torch.Tensor, pad: int
) -> torch.Tensor:
    size, outputs = folded.shape[0], folded.shape[3]
    shift = (folded.double() * mean.double()[:, None]).sum(2)  # [K, K, Cout]
    missing = [(a, b) for a in range(pad + 1) for b in range(pad + 1)]
    table = bias.double().repeat(len(missing), len(missing), 1)
    for i, (above, below) in enumerate(missing):
        for j, (left, right) in enumerate(missing):
            inside = shift[above : size - below, left : size - right]
            table[i, j] -= inside.reshape(-1, outputs).sum(0)
    return table.float().contiguous()
