"""Convolutions of few input channels on a CPU, by the compiled loops of ``direct_conv.c``.

Libraries lay channels out for networks with many of them; a first layer with one or three leaves
most of their vectors empty. Here a vector holds output channels, and bias, ReLU and 2x2 max pooling
happen before a line of the image leaves the cache. The library is built as ``noise_votes`` is.
"""

import ctypes
from dataclasses import dataclass
from functools import cache

import torch

from dualsmooth.kernels.cpu.compiled import compiled, required
from dualsmooth.kernels.errors import KernelArgumentError

LANES = 16
"""Output channels in a vector."""

TILES = (16, 14, 12, 10, 8)
"""Pixels in registers at once; the loops are compiled for each."""

GREY = 8
"""Outputs up to which pixels of a grey image, not outputs, fill a vector; stride is 1 then."""

WIDE_TILES = (12, 10, 8)
"""The same where two vectors of output channels are in registers."""


def available() -> bool:
    """Whether the loops were built and this processor has AVX-512."""
    library = _library()
    return library is not None and bool(library.dualsmooth_direct_conv_available())


class DirectConv(torch.nn.Module):
    """A convolution with its weights laid out for the loops; it cannot be trained.

    ``weight`` is float32 (outputs, channels, height, width); ``padding`` zeros above and below,
    left and right; ``pool`` 2x2 max pooling of stride 2 after the ReLU, an odd last line or column
    dropped. With ``normalize``, mean and std of the channels, (x - mean) / std is convolved: they
    go into weights and bias, and the padding, zero after normalization, is the mean before it.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    border: torch.Tensor

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        *,
        stride: int,
        padding: tuple[int, int],
        relu: bool,
        pool: bool,
        normalize: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.outputs, *rest = weight.shape
        self.stride, self.padding, self.relu, self.pool = stride, padding, relu, pool
        border = torch.zeros(rest[0]) if normalize is None else normalize[0].detach().clone()
        self.register_buffer("border", border)
        if normalize is not None:
            weight, bias = _taken_up(weight.detach(), bias, *normalize)
        self.grey = rest[0] == stride == 1 and self.outputs <= GREY
        lanes = GREY if self.grey else LANES
        blocks = -(-self.outputs // lanes)
        padded, biases = torch.zeros(blocks * lanes, *rest), torch.zeros(blocks * lanes)
        padded[: self.outputs] = weight.detach()
        if bias is not None:
            biases[: self.outputs] = bias.detach()
        packed = padded.view(blocks, lanes, *rest).permute(0, 3, 4, 2, 1).contiguous()
        self.register_buffer("weight", packed)  # [blocks, height, width, channels, lanes]
        self.register_buffer("bias", biases)
        self._plans: dict[tuple[int, ...], _Plan] = {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Outputs (rows, outputs, height, width) in channels-last memory; so is ``x``, or copied.

        Each is one chain of fused multiply-adds in a fixed order, so a row's bits do not depend on
        the other rows or their number.
        """
        shape = tuple(x.shape)
        if shape not in self._plans or x.dtype != torch.float32:
            self._plans[shape] = self._plan(x)
        plan = self._plans[shape]
        source = x.permute(0, 2, 3, 1).contiguous()
        out, scratch = torch.empty(plan.shape), torch.empty(plan.scratch)
        buffers = (source, self.weight, self.bias, self.border, scratch, out)
        required("direct_conv", _library()).dualsmooth_direct_conv(
            ctypes.byref(plan.geometry), *(buffer.data_ptr() for buffer in buffers)
        )
        return out.permute(0, 3, 1, 2)

    def _plan(self, x: torch.Tensor) -> "_Plan":
        g, pool = self._geometry(x), 2 if self.pool else 1
        lines = 2 * max(LANES * (2 * g.out_width + max(TILES)), GREY * g.padded_out)
        shape = (g.rows, g.out_height // pool, g.out_width // pool, self.outputs)
        return _Plan(g, shape, g.padded_height * g.padded_width * g.channels + lines)

    def _geometry(self, x: torch.Tensor) -> "_Geometry":
        _, kernel_height, kernel_width, channels, _ = self.weight.shape
        if x.ndim != 4 or x.dtype != torch.float32 or x.shape[1] != channels:
            rule = f"must be float32 (rows, {channels}, height, width)"
            raise KernelArgumentError("x", rule, f"{x.dtype} {tuple(x.shape)}")
        rows, _, height, width = x.shape
        above, left = self.padding
        out_height = (height + 2 * above - kernel_height) // self.stride + 1
        out_width = (width + 2 * left - kernel_width) // self.stride + 1
        if min(out_height, out_width) < (2 if self.pool else 1):
            raise KernelArgumentError("x", "must be as large as the kernel", tuple(x.shape))
        tiles = (_tile(out_width, TILES), _tile(out_width, WIDE_TILES))
        used = (2 * LANES,) if self.grey else tiles
        computed = max(-(-out_width // tile) * tile for tile in used)
        read = (computed - 1) * self.stride + kernel_width
        kernel = (kernel_height, kernel_width, self.stride, above, left)
        result = (out_height, out_width, self.outputs, self.relu, self.pool)
        padded = (height + 2 * above, max(width + 2 * left, read))
        used_width = computed * self.grey
        return _Geometry(
            *(rows, height, width, channels), *kernel, *result, *padded, *tiles, used_width
        )


@dataclass(frozen=True)
class _Plan:
    """What a call needs for one input shape."""

    geometry: "_Geometry"
    shape: tuple[int, ...]
    scratch: int


class _Geometry(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_int64)
        for name in (
            "rows height width channels kernel_height kernel_width stride pad_height pad_width "
            "out_height out_width outputs relu pool padded_height padded_width tile wide_tile "
            "padded_out"
        ).split()
    ]


def _taken_up(
    weight: torch.Tensor, bias: torch.Tensor | None, mean: torch.Tensor, std: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias for inputs that are not normalized; computed in float64."""
    scaled = weight.double() / std.double().view(1, -1, 1, 1)
    moved = (scaled * mean.double().view(1, -1, 1, 1)).sum((1, 2, 3))
    offset = -moved if bias is None else bias.detach().double() - moved
    return scaled.float(), offset.float()


def _tile(width: int, tiles: tuple[int, ...]) -> int:
    """The tile that computes the fewest pixels past the end of a line; the widest of these."""
    return min(tiles, key=lambda tile: -(-width // tile) * tile)


@cache
def _library() -> ctypes.CDLL | None:
    library = compiled("direct_conv")
    if library is None:
        return None
    library.dualsmooth_direct_conv.argtypes = [ctypes.c_void_p] * 7
    library.dualsmooth_direct_conv.restype = None
    return library
