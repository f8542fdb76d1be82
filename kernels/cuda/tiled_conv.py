"""3x3 convolutions of few channels, with the inputs of a tile in shared memory."""

from dataclasses import dataclass

import torch

from dualsmooth.kernels.checks import expect, expect_words
from dualsmooth.kernels.cuda.residual_stage import pack_weights
from dualsmooth.kernels.cuda.stages import Program, launch
from dualsmooth.kernels.errors import KernelArgumentError

CONV = Program("tiled_conv", "tiled conv", ("instructions", "taps", "tiled_conv"))
RESERVED = 1024
"""Bytes of shared memory that a device keeps for itself of each thread block."""


@dataclass(frozen=True, slots=True)
class TiledConv:
    """A launch choice: a thread block of ``warps`` goes down an image by tiles of ``tile`` rows and
    ``span`` columns; a warp takes units of ``rows`` output rows in both halves of a tile, ``tiles``
    of 8 output channels at once; ``resident`` thread blocks share a multiprocessor.

    ``adds`` (a shortcut is added) and ``relu`` are 0 or 1. Other choices differ in speed only: an
    output is the same sum in the same order in all of them.
    """

    height: int
    width: int
    channels: int
    adds: int
    relu: int
    tile: int
    span: int
    rows: int
    tiles: int
    warps: int
    resident: int

    @classmethod
    def candidates(
        cls, size: tuple[int, int, int], shared: int, *, adds: bool = False, relu: bool = True
    ) -> "list[TiledConv]":
        """Choices for a height, width and channels, the likely fastest first; none but for 32 and
        64 channels.

        With ``shared`` bytes per thread block at most, as many share a multiprocessor as have
        registers: one multiplies while another loads. Of 64 channels a warp makes 16, so that what
        it reads once feeds six products, or 8, with twice the warps. Tiles are those that make the
        fewest rows too many, of those the highest.
        """
        span = -(-size[1] // -(-size[1] // 56) // 8) * 8
        warps = {32: ((2, 4, 3),), 64: ((2, 4, 2), (1, 8, 2))}
        found = []
        for tiles, count, resident in warps.get(size[2], ()):
            fitting = []
            for tile in (16, 14, 8, 4):
                even = span // 8 % (count * tiles * 8 // size[2]) == 0
                rows = tile // 2 if even or tile % 4 else tile // 4
                parts = tile, span, rows, tiles, count, resident
                made = cls(*size, int(adds), int(relu), *parts)
                if resident * (made.shared + RESERVED) <= shared + RESERVED:
                    fitting.append(made)
            found += sorted(fitting, key=lambda made: -size[0] % made.tile)[:1]
        return found

    @property
    def label(self) -> str:
        """Its sizes, for the ahead-of-time checks."""
        kind = " adds" if self.adds else ""
        return (
            f"{self.height}x{self.width} {self.channels}{kind} {self.tile} rows {self.warps} warps"
        )

    @property
    def shared(self) -> int:
        """Bytes of shared memory: bf16 pixels of a tile with its halo."""
        return (self.tile + 2) * (self.span + 2) * self.channels * 2


SHAPES = (((56, 56, 64), False), ((56, 56, 64), True), ((32, 32, 64), True), ((32, 32, 32), True))
"""Height, width and channels, and whether a shortcut is added, of what is compiled ahead of time:
ResNet-18 and -50 on ImageNet; ResNet-18 and WRN on CIFAR."""


def pack_taps(weight: torch.Tensor, choice: TiledConv) -> torch.Tensor:
    """Fragments of a weight [3, 3, C, C], bf16 [9, C/16, C/8, 32, 2, 2].

    Outputs are reordered so that those of a lane in all tiles of its warp lie side by side.
    """
    split = weight.reshape(3, 3, choice.channels, -1, 4, choice.tiles, 2).transpose(-3, -2)
    return pack_weights(split.flatten(-4)[None])[0]


def tiled_conv(
    x: torch.Tensor,
    packed: torch.Tensor,
    bias: torch.Tensor,
    choice: TiledConv,
    *,
    residual: torch.Tensor | None = None,
) -> torch.Tensor:
    """relu(conv(x) + bias (+ residual)), 3x3, stride 1, "same" padding; CUDA only.

    ReLU and residual are there as in ``choice``. ``x`` and ``residual`` are bfloat16 [R, H, W, C],
    ``packed`` the `pack_taps` of the weight, ``bias`` float32 [C]. Sums are float32, in the order
    of rows, columns and input channels, then bias and residual; the result is rounded once. NaN
    stays NaN.
    """
    shape = None, choice.height, choice.width, choice.channels
    expect("x", x, shape, (torch.bfloat16,))
    expect_words("x", choice.height * choice.width * choice.channels, "values each")
    fragments = 9, choice.channels // 16, choice.channels // 8, 32, 2, 2
    expect("packed", packed, fragments, (torch.bfloat16,), device=x.device)
    expect("bias", bias, (choice.channels,), (torch.float32,), device=x.device)
    if (residual is not None) != bool(choice.adds):
        raise KernelArgumentError(
            "residual", "must be there as in the choice", residual is not None
        )
    if residual is not None:
        expect("residual", residual, tuple(x.shape), (torch.bfloat16,), device=x.device)
    out = torch.empty_like(x)
    other = x if residual is None else residual
    launch(CONV, choice, len(x), x, other, out, packed, bias)
    return out
