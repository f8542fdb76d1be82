"""Convolutions of few input channels and strided ones on a CPU, by the loops of ``direct_conv.c``.

Libraries lay channels out for networks with many of them; a first layer with one or three leaves
most of their vectors empty. Here a vector holds output channels, and bias, ReLU and 2x2 max pooling
happen before a line of the image leaves the cache. Convolutions that feed each other form a chain,
computed row by row, so that what lies between them stays in the cache.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch.nn import functional

from dualsmooth.kernels.cpu.compiled import required, vectored
from dualsmooth.kernels.errors import KernelArgumentError

CACHE_LINE = 16
"""Values that lie in one."""

TILES, LONGEST = {16: (16, 14, 12, 10, 8), 8: (12, 10, 8)}, 16
"""Pixels in registers at once, by the values of a vector; the loops are compiled for each."""

GREY = 8
"""Outputs up to which pixels of a grey image, not outputs, fill a vector; stride is 1 then."""

WIDE_TILES = {16: (12, 10, 8), 8: (6, 5, 4)}
"""The same where two vectors of output channels are in registers."""

PART, STRIP = 4096, 2048
"""Weights in use at once, and sums kept meanwhile: both fit the first-level cache."""


def available() -> bool:
    """Whether the loops were built and this processor has AVX-512 or AVX2."""
    return lanes() > 0


def lanes() -> int:
    """Values of a vector of these loops, 16 or 8, or 0."""
    return vectored("direct_conv")[1]


def fills_tiles(out_width: int) -> bool:
    """Whether few of the pixels that tiles compute lie beyond the end of a line."""
    return 4 * (-out_width % _tile(out_width, WIDE_TILES[16])) <= out_width


class DirectConv(torch.nn.Module):
    """A convolution with its weights laid out for the loops; it cannot be trained.

    ``weight`` is float32 (outputs, channels, height, width); ``padding`` zeros above and below,
    left and right; ``pool`` 2x2 max pooling of stride 2 after the ReLU, an odd last line or column
    dropped. With ``normalize``, mean and std of the channels, (x - mean) / std is convolved: they
    go into weights and bias, and the padding, zero after normalization, is the mean before it.
    """

    packed: torch.Tensor

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
        if normalize is not None:
            weight, bias = _taken_up(weight.detach(), bias, *normalize)
        self.grey = rest[0] == stride == 1 and self.outputs <= GREY
        block = GREY if self.grey else lanes()
        count = self.outputs + -self.outputs % block
        kernel, biases = torch.zeros(count, *rest), torch.zeros(count)
        kernel[: self.outputs] = weight.detach()
        if bias is not None:
            biases[: self.outputs] = bias.detach()
        wide = block if self.grey else 2 * block
        blocks = [part.permute(2, 3, 1, 0).flatten() for part in torch.split(kernel, wide)]
        self.channels, self.kernel = rest[0], (rest[1], rest[2])
        packed = torch.cat([*blocks, biases, border])  # and the next begins a cache line
        packed = functional.pad(packed, (0, -len(packed) % CACHE_LINE))
        self.parts = (kernel.numel(), count, len(packed) - kernel.numel() - count)
        self.register_buffer("packed", packed)
        self._plans: dict[tuple[int, ...], _Plan] = {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As a `DirectChain` of this convolution alone."""
        return _run((self,), self.packed, self._plans, x)

    def geometry(self, height: int, width: int) -> "_Geometry":
        """Shapes for images of so many pixels."""
        (kernel_height, kernel_width), (above, left) = self.kernel, self.padding
        out_height = (height + 2 * above - kernel_height) // self.stride + 1
        out_width = (width + 2 * left - kernel_width) // self.stride + 1
        if min(out_height, out_width) < (2 if self.pool else 1):
            raise KernelArgumentError("x", "must be as large as the kernel", (height, width))
        wide = 2 * lanes()
        tiles = (_tile(out_width, TILES[lanes()]), _tile(out_width, WIDE_TILES[lanes()]))
        used = (wide,) if self.grey else tiles
        computed = max(-(-out_width // tile) * tile for tile in used)
        read = (computed - 1) * self.stride + kernel_width
        kernel = (kernel_height, kernel_width, self.stride, above, left)
        result = (out_height, out_width, self.outputs, self.relu, self.pool)
        padded = (height + 2 * above, max(width + 2 * left, read))
        part = max(1, PART // (kernel_width * self.channels * wide))
        lines = 1 if part >= kernel_height else max(1, STRIP // (wide * computed))
        cut = (computed * self.grey, part, -(-lines // 2) * 2 if self.pool else lines)
        return _Geometry(height, width, self.channels, *kernel, *result, *padded, *tiles, *cut)


class DirectChain(torch.nn.Module):
    """Convolutions each of which reads the one before."""

    packed: torch.Tensor

    def __init__(self, layers: Sequence[DirectConv]) -> None:
        super().__init__()
        self.layers = tuple(layers)
        self.register_buffer("packed", torch.cat([layer.packed for layer in layers]))
        self._plans: dict[tuple[int, ...], _Plan] = {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Outputs (rows, outputs, height, width) in channels-last memory; so is ``x``, or copied.

        Each is one chain of fused multiply-adds in a fixed order, so a row's bits do not depend on
        the other rows or their number.
        """
        return _run(self.layers, self.packed, self._plans, x)


class _Geometry(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_int64)
        for name in (
            "height width channels kernel_height kernel_width stride pad_height pad_width "
            "out_height out_width outputs relu pool padded_height padded_width tile wide_tile "
            "padded_out part lines"
        ).split()
    ]

    def made(self) -> tuple[int, int, int]:
        """Height, width and channels of the result."""
        shrink = 2 if self.pool else 1
        return self.out_height // shrink, self.out_width // shrink, self.outputs

    def padded(self) -> int:
        """Values of the padded image."""
        return int(self.padded_height * self.padded_width * self.channels)

    def sums(self) -> int:
        """Values of the lines that are computed together."""
        grey, line = 2 * GREY * self.padded_out, 2 * lanes() * (self.out_width + LONGEST)
        return int(max(grey, line * self.lines))


class _Link(ctypes.Structure):
    _fields_ = [
        ("shape", _Geometry),
        *(
            (name, ctypes.c_int64)
            for name in "weights bias border padded out out_line out_step".split()
        ),
    ]


@dataclass(frozen=True)
class _Plan:
    """What a call needs for one input shape."""

    links: ctypes.Array[_Link]
    made: tuple[int, ...]
    scratch: int


def _run(
    layers: Sequence[DirectConv],
    packed: torch.Tensor,
    plans: dict[tuple[int, ...], _Plan],
    x: torch.Tensor,
) -> torch.Tensor:
    shape, channels = tuple(x.shape), layers[0].channels
    if len(shape) != 4 or x.dtype != torch.float32 or shape[1] != channels:
        rule = f"must be float32 (rows, {channels}, height, width)"
        raise KernelArgumentError("x", rule, f"{x.dtype} {shape}")
    if shape not in plans:
        plans[shape] = _plan(layers, shape)
    plan, source = plans[shape], x.permute(0, 2, 3, 1).contiguous()
    out, scratch = torch.empty(plan.made), torch.empty(plan.scratch)
    required("direct_conv", _library()).dualsmooth_direct_chain(
        *(plan.links, len(plan.links), len(x)),
        *(buffer.data_ptr() for buffer in (packed, source, scratch, out)),
    )
    return out.permute(0, 3, 1, 2)


def _plan(layers: Sequence[DirectConv], shape: tuple[int, ...]) -> _Plan:
    """Links between padded images that lie one after another behind the sums."""
    height, width = shape[2:]
    shapes: list[_Geometry] = []
    for layer in layers:
        shapes.append(layer.geometry(height, width))
        height, width, channels = shapes[-1].made()
    links, constant, padded = [], 0, max(shape.sums() for shape in shapes)
    for layer, now, following in zip(layers, shapes, [*shapes[1:], None], strict=True):
        weights, outputs, _ = layer.parts
        constants = (constant, constant + weights, constant + weights + outputs)
        after = padded + -(-now.padded() // CACHE_LINE) * CACHE_LINE
        height, width, channels = now.made()
        place = (0, width * channels, height * width * channels)
        if following is not None:
            line = following.padded_width * channels
            place = (after + following.pad_height * line + following.pad_width * channels, line, 0)
        links.append(_Link(now, *constants, padded, *place))
        constant, padded = constant + sum(layer.parts), after
    return _Plan((_Link * len(links))(*links), (shape[0], *shapes[-1].made()), padded)


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
    library, _ = vectored("direct_conv")
    if library is None:
        return None
    chain, count = library.dualsmooth_direct_chain, ctypes.c_int64
    chain.argtypes = [ctypes.c_void_p, count, count, *([ctypes.c_void_p] * 4)]
    chain.restype = None
    return library
