"""Convolutions of 8-bit maps on a CPU, by the compiled loops of ``int8_conv.c``.

Every result is exact integer arithmetic with one rounding rule, so the loops give the bits of the
plain PyTorch in `dualsmooth.engine.models.int8`. A chain is computed for a few images at a time, so
that their maps stay in the cache.
"""

import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch.nn import functional

from dualsmooth.kernels.cpu.compiled import compiled, required
from dualsmooth.kernels.cpu.winograd_conv import slots_of
from dualsmooth.kernels.errors import KernelArgumentError

LANES, STEP = 16, 4
"""Outputs in a vector, and bytes of each that one instruction multiplies."""

TILES = ((8, 2), (16, 1), (4, 4), (2, 4), (7, 2), (14, 1))
"""Pixels and vectors of outputs in registers at once; the loops are compiled for each."""

SUMS, CACHE = 1 << 31, 384 * 1024
"""What sums stay below, and bytes that the maps of a group of images may take."""


@dataclass(frozen=True, slots=True)
class Step:
    """A map made of earlier ones: a convolution, or without a weight the maximum of each window.

    ``read`` and ``added`` are numbers of maps, the quantized image being 0. ``weight`` is int8
    (outputs, channels, height, width), ``scale`` and ``bias`` float32 (outputs,), and ``rim`` uint8
    (outputs,) what stands around the map that is made.
    """

    read: int
    added: int | None
    kernel: tuple[int, int]
    stride: int
    padding: tuple[int, int]
    rim: torch.Tensor
    weight: torch.Tensor | None = None
    scale: torch.Tensor | None = None
    bias: torch.Tensor | None = None
    factor: float = 0.0


@dataclass(frozen=True, slots=True)
class Ends:
    """Images become x * inverse + zero, the last map (map - last_zero) * last_scale."""

    rim: torch.Tensor
    inverse: float
    zero: float
    last_zero: float
    last_scale: float


def available() -> bool:
    """Whether the loops were built and this processor has AVX512-VNNI."""
    library = _library()
    return library is not None and bool(library.dualsmooth_int8_conv_available())


class Int8Chain(torch.nn.Module):
    """Steps from images of one shape (height, width, channels) to the last step's map."""

    packed: torch.Tensor

    def __init__(self, steps: Sequence[Step], ends: Ends, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.shape = shape
        layout = _Layout(steps, ends, shape)
        self.register_buffer("packed", layout.constants)
        self._layers = (_Layer * len(steps))(*layout.layers)
        self._ends, self._rows = layout.ends, layout.group
        self._scratch, self._result = layout.bytes, layout.shapes[-1]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps, float32 (rows, outputs, height, width) in channels-last memory; so is ``x``, or
        copied. A row's bits do not depend on the other rows.
        """
        height, width, channels = self.shape
        if x.dtype != torch.float32 or x.shape[1:] != (channels, height, width):
            rule = f"must be float32 (rows, {channels}, {height}, {width})"
            raise KernelArgumentError("x", rule, f"{x.dtype} {tuple(x.shape)}")
        source = x.permute(0, 2, 3, 1).contiguous()
        scratch = torch.empty(self._scratch, dtype=torch.uint8)
        out = torch.empty(len(x), *self._result)
        required("int8_conv", _library()).dualsmooth_int8_chain(
            *(ctypes.byref(self._ends), self._layers, len(self._layers), len(x), self._rows),
            *(buffer.data_ptr() for buffer in (self.packed, source, scratch, out)),
        )
        return out.permute(0, 3, 1, 2)


def _structure(*parts: tuple[str, type]) -> list[tuple[str, type]]:
    return [(name, kind) for names, kind in parts for name in names.split()]


class _Place(ctypes.Structure):
    _fields_ = _structure(("start row line pixel", ctypes.c_int64))


class _Map(ctypes.Structure):
    _fields_ = _structure(("at", _Place), ("height width channels above left rim", ctypes.c_int64))


class _Layer(ctypes.Structure):
    _fields_ = _structure(
        ("source shortcut", _Place),
        ("out", _Map),
        ("weights scale bias maximum kernel_height kernel_width", ctypes.c_int64),
        ("tap_line steps pixels vectors across", ctypes.c_int64),
        ("factor", ctypes.c_float),
    )


class _Ends(ctypes.Structure):
    _fields_ = _structure(("first last", _Map), ("inverse zero end_zero end_scale", ctypes.c_float))


class _Layout:
    """Where maps lie in the scratch memory, and constants in the packed ones."""

    def __init__(self, steps: Sequence[Step], ends: Ends, shape: tuple[int, int, int]) -> None:
        self._steps, self._image_rim = steps, ends.rim
        self.shapes = [shape]
        for step in steps:
            self.shapes.append(_shape(step, self.shapes))
        self._borders = [(0, 0)] * len(self.shapes)
        for step in steps:
            (above, left), padding = self._borders[step.read], step.padding
            self._borders[step.read] = max(above, padding[0]), max(left, padding[1])
        around = zip(self.shapes, self._borders, strict=True)
        rows = [(h + 2 * above) * (w + 2 * left) * c for (h, w, c), (above, left) in around]
        self.group = max(1, CACHE // (3 * max(rows)))
        wiring = [(-1, None), *((step.read, step.added) for step in steps)]
        slots = slots_of(wiring, 0)
        beyond = [(16 * s.stride + s.kernel[1]) * self.shapes[s.read][2] for s in steps]
        slot = (self.group + 8) * max(rows) + max(beyond) + 64  # tiles read beyond lines and rows
        self.bytes = slot * (max(slots) + 1)
        self._maps, self._blocks, self._end = [], list[torch.Tensor](), 0
        for number, row in enumerate(rows):
            self._maps.append(self._map(number, slots[number] * slot, row))
        self.layers = [self._layer(*pair) for pair in enumerate(steps, start=1)]
        self.constants, made = torch.cat(self._blocks), (self._maps[0], self._maps[-1])
        self.ends = _Ends(*made, ends.inverse, ends.zero, ends.last_zero, ends.last_scale)

    def _map(self, number: int, start: int, row: int) -> _Map:
        (height, width, channels), (above, left) = self.shapes[number], self._borders[number]
        rim = self._image_rim if number == 0 else self._steps[number - 1].rim
        line = (width + 2 * left) * channels
        place = _Place(start + above * line + left * channels, row, line, channels)
        return _Map(
            place, height, width, channels, above, left, self._add(rim.repeat(width + 2 * left))
        )

    def _add(self, values: torch.Tensor) -> int:
        """Offset of values among the constants."""
        start, data = self._end, values.detach().contiguous().view(-1).view(torch.uint8)
        self._blocks.append(functional.pad(data, (0, -len(data) % 64)))
        self._end += len(self._blocks[-1])
        return start

    def _layer(self, number: int, step: Step) -> _Layer:
        source, (kernel_height, kernel_width) = self._maps[step.read], step.kernel
        at, (above, left), none = source.at, step.padding, _Place(-1, 0, 0, 0)
        start = at.start - above * at.line - left * at.pixel
        read = _Place(start, at.row, step.stride * at.line, step.stride * at.pixel)
        other = none if step.added is None else self._maps[step.added].at
        height, width, outputs = self.shapes[number]
        out, steps = self._maps[number], -(-kernel_width * source.channels // STEP)
        if step.weight is None or step.scale is None or step.bias is None:
            largest = (0, 0, 0, 1, *step.kernel, at.line, steps, 0, 0, 0)
            return _Layer(read, none, out, *largest, 0.0)
        across = height == width == 1 and out.above == out.left == 0
        tile = _tile(self.group if across else width, outputs)
        scale, bias = (
            functional.pad(values, (0, -outputs % (tile[1] * LANES)))
            for values in (step.scale, step.bias)
        )
        packed = _packed(step.weight, tile[1])
        constants = (self._add(packed), self._add(scale), self._add(bias))
        window = (0, kernel_height, kernel_width, at.line, steps, *tile, across)
        return _Layer(read, other, out, *constants, *window, step.factor)


def _shape(step: Step, shapes: Sequence[tuple[int, int, int]]) -> tuple[int, int, int]:
    """(height, width, channels) of a step's map; raises where it does not fit what it reads."""
    height, width, channels = shapes[step.read]
    outputs = channels if step.weight is None else len(step.weight)
    sizes = [
        (size + 2 * padding - kernel) // step.stride + 1
        for size, padding, kernel in zip((height, width), step.padding, step.kernel, strict=True)
    ]
    shape = (sizes[0], sizes[1], outputs)
    if step.weight is not None:
        wanted = (outputs, channels, *step.kernel)
        if tuple(step.weight.shape) != wanted or step.weight.dtype != torch.int8:
            received = f"{step.weight.dtype} {tuple(step.weight.shape)}"
            raise KernelArgumentError("weight", f"must be int8 {wanted}", received)
        largest = 255 * int(step.weight.long().abs().flatten(1).sum(1).max())
        if largest >= SUMS:
            raise KernelArgumentError("weight", f"must have sums below {SUMS}", largest)
    if min(shape) < 1 or len(step.rim) != outputs:
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


def _packed(weight: torch.Tensor, vectors: int) -> torch.Tensor:
    """Weights as [blocks, kernel lines, steps, vectors, lanes, 4], zero beyond the kernel."""
    outputs, _, height, _ = weight.shape
    lines = weight.permute(0, 2, 3, 1).flatten(2)
    padded = functional.pad(
        lines, (0, -lines.shape[2] % STEP, 0, 0, 0, -outputs % (vectors * LANES))
    )
    blocks = padded.view(-1, vectors, LANES, height, padded.shape[2] // STEP, STEP)
    return blocks.permute(0, 3, 4, 1, 2, 5).contiguous()


@cache
def _library() -> ctypes.CDLL | None:
    library = compiled("int8_conv")
    if library is None:
        return None
    chain = library.dualsmooth_int8_chain
    counts = [ctypes.c_int64] * 3
    chain.argtypes = [ctypes.c_void_p, ctypes.c_void_p, *counts, *([ctypes.c_void_p] * 4)]
    chain.restype = None
    return library
