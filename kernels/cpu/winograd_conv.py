"""3x3 convolutions of stride 1 on a CPU, by the compiled loops of ``winograd_conv.c``.

Winograd's minimal filtering F(4x4, 3x3) (Lavin and Gray 2016) needs a quarter of the products of a
direct convolution. At the points 0, +-1/sqrt(2), +-sqrt(2) and infinity its outputs are about twice
as far from exact ones as a direct convolution's in float32. Convolutions that feed each other form
a chain, which is computed for a few images at a time, so that what lies between stays in the cache.
"""

import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import cast

import torch

from dualsmooth.kernels.cpu.compiled import required, vectored
from dualsmooth.kernels.errors import KernelArgumentError

CHANNELS = 16
"""Inputs and outputs are multiples of it: one or two vectors."""

SIDE, POINTS = 4, 36
"""Outputs on a tile's side, and products per tile and pair of channels."""

BLOCKS = {16: 32, 8: 36}
"""Tiles transformed together, by the values of a vector: weights are read once for all of them."""

GAP = 16

CACHE = 96 * 1024
"""Float32 values that a group of images may take beside the weights."""


def available() -> bool:
    """Whether the loops were built and this processor has AVX-512 or AVX2."""
    return lanes() > 0


def lanes() -> int:
    """Values of a vector of the loops that run here, 16 or 8; else 0."""
    return vectored("winograd_conv")[1]


def saves_products(out_height: int, out_width: int) -> bool:
    """Whether tiles cover an output so well that half of a convolution's products are saved."""
    return 2 * _tiles(out_height, out_width) * POINTS <= out_height * out_width * 9


class WinogradConv(torch.nn.Module):
    """A 3x3 convolution with its weights at the 36 points; it cannot be trained.

    ``weight`` is float32 (outputs, channels, 3, 3), both counts multiples of 16; ``padding`` zeros
    above and below, left and right.
    """

    weight: torch.Tensor
    bias: torch.Tensor

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        *,
        padding: tuple[int, int],
        relu: bool,
    ) -> None:
        super().__init__()
        self.outputs, self.channels = weight.shape[:2]
        if self.outputs % CHANNELS or self.channels % CHANNELS or weight.shape[2:] != (3, 3):
            rule = f"must be (outputs, channels, 3, 3), counts being multiples of {CHANNELS}"
            raise KernelArgumentError("weight", rule, tuple(weight.shape))
        self.padding, self.relu = padding, relu
        self.register_buffer("weight", _at_points(weight.detach()))
        zeros = torch.zeros(self.outputs)
        self.register_buffer("bias", zeros if bias is None else bias.detach().clone())

    def forward(self, x: torch.Tensor, shortcut: torch.Tensor | None = None) -> torch.Tensor:
        """As a `WinogradChain` of this convolution alone; ``shortcut`` is added before the ReLU."""
        if shortcut is None:
            return _run((self,), ((0, None),), (), (x,))
        return _run((self,), ((0, 1),), (), (x, shortcut))


class WinogradChain(torch.nn.Module):
    """Convolutions that feed each other.

    ``wiring`` says of each layer what it reads and what it adds before its ReLU: the number of an
    input of the chain, or the number of inputs plus that of an earlier layer.
    """

    def __init__(
        self,
        layers: Sequence[WinogradConv],
        wiring: Sequence[tuple[int, int | None]],
        *,
        inputs: int,
    ) -> None:
        super().__init__()
        self.layers = cast(Sequence[WinogradConv], torch.nn.ModuleList(layers))
        self.wiring = tuple(wiring)
        self.slots = tuple(slots_of(self.wiring, inputs)[:-1])

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Outputs of the last layer, (rows, outputs, height, width) in channels-last memory.

        Inputs are float32, alike, and read without a copy from channels-last memory. The arithmetic
        of every output has a fixed order, so a row's bits do not depend on the other rows.
        """
        return _run(self.layers, self.wiring, self.slots, inputs)


@dataclass(frozen=True)
class _Place:
    address: int | None
    step: int
    """Values from one row to the next, 0 where only a group's rows are kept."""


class _Geometry(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_int64)
        for name in "height width channels above left out_height out_width outputs relu".split()
    ]


class _Link(ctypes.Structure):
    _fields_ = [
        ("shape", _Geometry),
        *((name, ctypes.c_void_p) for name in ("weights", "bias", "in", "shortcut", "out")),
        *((name, ctypes.c_int64) for name in ("in_step", "shortcut_step", "out_step")),
    ]


def _run(
    layers: Sequence[WinogradConv],
    wiring: Sequence[tuple[int, int | None]],
    slots: Sequence[int],
    inputs: Sequence[torch.Tensor],
) -> torch.Tensor:
    """Convolve; every result but the last is kept in its slot, for one group of rows."""
    shapes = _shapes(layers, wiring, inputs)
    maps = [x.permute(0, 2, 3, 1).contiguous() for x in inputs]
    rows, result = len(maps[0]), maps[0].new_empty(len(maps[0]), *shapes[-1])
    group = _group(shapes)
    kept = torch.empty(max(slots, default=-1) + 1, group * max(map(math.prod, shapes)))
    places = [_Place(x.data_ptr(), math.prod(x.shape[1:])) for x in maps]
    places += [_Place(kept[slot].data_ptr(), 0) for slot in slots]
    places.append(_Place(result.data_ptr(), math.prod(shapes[-1])))
    links = (_Link * len(wiring))()
    for number, (read, added) in enumerate(wiring):
        layer, written = layers[number], number + len(inputs)
        shortcut = _Place(None, 0) if added is None else places[added]
        used = (layer.weight.data_ptr(), layer.bias.data_ptr(), places[read].address)
        steps = (places[read].step, shortcut.step, places[written].step)
        geometry = _Geometry(*shapes[read], *layer.padding, *shapes[written], layer.relu)
        links[number] = _Link(geometry, *used, shortcut.address, places[written].address, *steps)
    block = BLOCKS[lanes()]
    scratch = torch.empty((POINTS + 1) * (block * max(shape[2] for shape in shapes) + GAP))
    required("winograd_conv", _library()).dualsmooth_winograd_chain(
        links, len(links), rows, group, block, scratch.data_ptr()
    )
    return result.permute(0, 3, 1, 2)


def _shapes(
    layers: Sequence[WinogradConv],
    wiring: Sequence[tuple[int, int | None]],
    inputs: Sequence[torch.Tensor],
) -> list[tuple[int, int, int]]:
    """(height, width, channels) of every input and result; raises where they do not fit."""
    shapes = []
    for x in inputs:
        if x.ndim != 4 or x.dtype != torch.float32 or len(x) != len(inputs[0]):
            rule = "must be float32 (rows, channels, height, width)"
            raise KernelArgumentError("x", rule, f"{x.dtype} {tuple(x.shape)}")
        shapes.append((x.shape[2], x.shape[3], x.shape[1]))
    for layer, (read, added) in zip(layers, wiring, strict=True):
        height, width, channels = shapes[read]
        above, left = layer.padding
        shape = (height + 2 * above - 2, width + 2 * left - 2, layer.outputs)
        if channels != layer.channels or min(shape) < 1:
            rule = f"must have {layer.channels} channels and be as large as the kernel"
            raise KernelArgumentError("x", rule, (channels, height, width))
        if added is not None and shapes[added] != shape:
            raise KernelArgumentError("shortcut", f"must be {shape}", shapes[added])
        shapes.append(shape)
    return shapes


def _tiles(out_height: int, out_width: int) -> int:
    return -(-out_height // SIDE) * -(-out_width // SIDE)


def _group(shapes: Sequence[tuple[int, int, int]]) -> int:
    """Rows computed together: three maps each within the cache, and a block of tiles at least."""
    fewest = min(_tiles(height, width) for height, width, _ in shapes)
    return max(CACHE // (3 * max(map(math.prod, shapes))), -(-BLOCKS[lanes()] // fewest))


def slots_of(wiring: Sequence[tuple[int, int | None]], inputs: int) -> list[int]:
    """A slot for each result such that none is written while it is still to be read."""
    last = {read: number for number, pair in enumerate(wiring) for read in pair}
    slots: list[int] = []
    for number in range(len(wiring)):
        busy = {slot for made, slot in enumerate(slots) if last.get(inputs + made, -1) >= number}
        slots.append(next(slot for slot in range(len(slots) + 1) if slot not in busy))
    return slots


def _at_points(weight: torch.Tensor) -> torch.Tensor:
    """Weights at the points, [points, blocks, channels, outputs of a block]; made in float64.

    Block by block, so that what lies between stays in the cache.
    """
    near, far = math.sqrt(0.5), math.sqrt(2.0)
    finite = (0.0, near, -near, far, -far)
    rows = []
    for point in finite:
        scale = math.prod(point - other for other in finite if other != point)
        rows.append([1 / scale, point / scale, point * point / scale])
    transform = torch.tensor([*rows, [0.0, 0.0, 1.0]], dtype=torch.float64)
    outputs, channels = weight.shape[:2]
    width = 2 * lanes() if outputs % (2 * lanes()) == 0 else lanes()
    blocks = torch.empty(POINTS, outputs // width, channels, width)
    for block, taps in enumerate(torch.split(weight.permute(2, 3, 1, 0), width, 3)):
        halves = transform @ taps.double().reshape(3, -1)
        points = transform @ halves.view(len(transform), 3, -1)
        blocks[:, block] = points.view(POINTS, channels, width)
    return blocks


@cache
def _library() -> ctypes.CDLL | None:
    library, _ = vectored("winograd_conv")
    if library is None:
        return None
    chain = library.dualsmooth_winograd_chain
    chain.argtypes = [ctypes.c_void_p, *([ctypes.c_int64] * 4), ctypes.c_void_p]
    chain.restype = None
    return library
