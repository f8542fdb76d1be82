"""Where maps and constants of a chain lie, for the compiled loops of ``chains.h``.

Maps hold a few images at a time, so that they stay in the cache.
"""

import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from dualsmooth.kernels.cpu.winograd_conv import slots_of
from dualsmooth.kernels.errors import KernelArgumentError

LANES, STEP = 16, 4
"""Outputs in a vector, and bytes of each that one instruction multiplies."""

TILES = ((8, 2), (16, 1), (4, 4), (2, 4), (7, 2), (14, 1))
"""Pixels and vectors of outputs in registers at once; the loops are compiled for each."""

TILE, SHORTEST = 16, 32
"""Pixels in a tile of AMX at most, and bytes of a kernel's line that are worth a tile."""

CACHE = 384 * 1024
"""Bytes that the maps of a group of images may take."""

Shape = tuple[int, int, int]
"""Height, width and channels of a map."""


@dataclass(frozen=True, slots=True)
class Step:
    """A map made of earlier ones: a convolution, or without a weight the maximum of each window.

    ``read`` and ``added`` are numbers of maps, the first map being 0. ``rim`` (outputs,) is what
    stands around the map that is made, and has its dtype; ``weight`` (outputs, channels, height,
    width) and, float32 (outputs,), ``bias`` and ``scale``.
    """

    read: int
    added: int | None
    kernel: tuple[int, int]
    stride: int
    padding: tuple[int, int]
    rim: torch.Tensor
    weight: torch.Tensor | None = None
    bias: torch.Tensor | None = None
    scale: torch.Tensor | None = None
    factor: float = 0.0
    relu: bool = False


def _structure(*parts: tuple[str, type]) -> list[tuple[str, type]]:
    return [(name, kind) for names, kind in parts for name in names.split()]


class Place(ctypes.Structure):
    """Where a map lies in the scratch memory, in bytes."""

    _fields_ = _structure(("start row line pixel", ctypes.c_int64))


class Map(ctypes.Structure):
    """A map and its border."""

    _fields_ = _structure(("at", Place), ("height width channels above left rim", ctypes.c_int64))


class Layer(ctypes.Structure):
    """A step for the loops."""

    _fields_ = _structure(
        ("source shortcut", Place),
        ("out", Map),
        ("weights scale bias maximum relu kernel_height kernel_width", ctypes.c_int64),
        ("tap_line steps pixels vectors across half tiled", ctypes.c_int64),
        ("factor", ctypes.c_float),
    )


class Ends(ctypes.Structure):
    """The first and the last map, and how values get into them and out of them."""

    _fields_ = _structure(
        ("first last", Map),
        ("mean deviation", ctypes.c_int64),
        ("inverse zero last_zero last_scale", ctypes.c_float),
    )


class Layout:
    """Where maps lie in the scratch memory, and constants in the packed ones."""

    def __init__(
        self, steps: Sequence[Step], rim: torch.Tensor, shape: Shape, *, tiled: bool
    ) -> None:
        self._rims = [rim, *(step.rim for step in steps)]
        self._size, self._tiled = rim.element_size(), tiled
        self.shapes = [shape]
        for step in steps:
            self.shapes.append(_shape(step, self.shapes, rim.dtype))
        self._borders = [(0, 0)] * len(self.shapes)
        for step in steps:
            (above, left), padding = self._borders[step.read], step.padding
            self._borders[step.read] = max(above, padding[0]), max(left, padding[1])
        around = zip(self.shapes, self._borders, strict=True)
        rows = [
            (h + 2 * above) * (w + 2 * left) * c * self._size for (h, w, c), (above, left) in around
        ]
        self.group = max(1, CACHE // (3 * max(rows)))
        slots = slots_of([(-1, None), *((step.read, step.added) for step in steps)], 0)
        beyond = max((16 * s.stride + s.kernel[1]) * self.shapes[s.read][2] for s in steps)
        slot = (self.group + TILE) * max(rows) + beyond * self._size + 64  # tiles read beyond rows
        self.bytes = slot * (max(slots) + 1)
        self._blocks, self._end = list[torch.Tensor](), 0
        self.maps = [self._map(n, slots[n] * slot, row) for n, row in enumerate(rows)]
        self.layers = [self._layer(*pair) for pair in enumerate(steps, start=1)]

    def add(self, values: torch.Tensor) -> int:
        """Offset of values among the constants."""
        start, data = self._end, values.detach().contiguous().view(-1).view(torch.uint8)
        self._blocks.append(functional.pad(data, (0, -len(data) % 64)))
        self._end += len(self._blocks[-1])
        return start

    def constants(self) -> torch.Tensor:
        """All that were added, uint8."""
        return torch.cat(self._blocks)

    def _map(self, number: int, start: int, row: int) -> Map:
        (height, width, channels), (above, left) = self.shapes[number], self._borders[number]
        pixel, rim = channels * self._size, self.add(self._rims[number].repeat(width + 2 * left))
        line = (width + 2 * left) * pixel
        place = Place(start + above * line + left * pixel, row, line, pixel)
        return Map(place, height, width, channels, above, left, rim)

    def _layer(self, number: int, step: Step) -> Layer:
        source, out = self.maps[step.read], self.maps[number]
        at, (above, left), (_, width, outputs) = source.at, step.padding, self.shapes[number]
        start = at.start - above * at.line - left * at.pixel
        read = Place(start, at.row, step.stride * at.line, step.stride * at.pixel)
        other = Place(-1, 0, 0, 0) if step.added is None else self.maps[step.added].at
        height, line = out.height, step.kernel[1] * at.pixel
        made = Layer(read, other, out, relu=step.relu, tap_line=at.line, factor=step.factor)
        made.kernel_height, made.kernel_width = step.kernel
        made.steps, made.half = -(-line // STEP), self._size > 1 and line % STEP > 0
        made.maximum = step.weight is None
        if step.weight is None:
            return made
        made.across = height == width == 1 and out.above == out.left == 0
        made.tiled = self._tiled and line >= SHORTEST and line % STEP == 0
        choose = _tile_of_amx if made.tiled else _tile
        made.pixels, made.vectors = choose(self.group if made.across else width, outputs)
        made.weights = self.add(_packed(step.weight, made.vectors))
        for name, values in (("bias", step.bias), ("scale", step.scale)):
            if values is not None:
                padded = functional.pad(values.float(), (0, -outputs % (made.vectors * LANES)))
                setattr(made, name, self.add(padded))
        return made


def _shape(step: Step, shapes: Sequence[Shape], kind: torch.dtype) -> Shape:
    """Shape of a step's map; raises where it does not fit what it reads."""
    if max(step.read, step.added or 0) >= len(shapes):
        raise KernelArgumentError("steps", "must read maps that were made before", step.read)
    height, width, channels = shapes[step.read]
    outputs = channels if step.weight is None else len(step.weight)
    sizes = [
        (size + 2 * padding - kernel) // step.stride + 1
        for size, padding, kernel in zip((height, width), step.padding, step.kernel, strict=True)
    ]
    shape = (sizes[0], sizes[1], outputs)
    if step.weight is not None and tuple(step.weight.shape) != (outputs, channels, *step.kernel):
        rule = f"must be {(outputs, channels, *step.kernel)}"
        raise KernelArgumentError("weight", rule, tuple(step.weight.shape))
    if min(shape) < 1 or len(step.rim) != outputs or step.rim.dtype != kind:
        raise KernelArgumentError("steps", "must leave an output", (shape, len(step.rim)))
    if step.added is not None and shapes[step.added] != shape:
        raise KernelArgumentError("shortcut", f"must be {shape}", shapes[step.added])
    return shape


def _tile(width: int, outputs: int) -> tuple[int, int]:
    """The tile that computes the fewest outputs beyond the wanted ones."""

    def computed(tile: tuple[int, int]) -> int:
        return math.prod(
            -(-size // step) * step for size, step in ((width, tile[0]), (outputs, tile[1] * LANES))
        )

    return min(TILES, key=computed)


def _tile_of_amx(width: int, outputs: int) -> tuple[int, int]:
    """Pixels such that tiles of a line are alike, and one or two vectors."""
    return -(-width // -(-width // TILE)), 2 if outputs > LANES else 1


def _packed(weight: torch.Tensor, vectors: int) -> torch.Tensor:
    """Weights as [blocks, kernel lines, steps, vectors, lanes, a step's], zero beyond a line."""
    lines, step = weight.permute(0, 2, 3, 1).flatten(2), STEP // weight.element_size()
    outputs, height, line = lines.shape
    padded = functional.pad(lines, (0, -line % step, 0, 0, 0, -outputs % (vectors * LANES)))
    blocks = padded.view(-1, vectors, LANES, height, padded.shape[2] // step, step)
    return blocks.permute(0, 3, 4, 1, 2, 5).contiguous()
