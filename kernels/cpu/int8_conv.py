"""Convolutions of 8-bit maps on a CPU, by the compiled loops of ``int8_conv.c``.

Every result is exact integer arithmetic with one rounding rule, so the loops give the bits of the
plain PyTorch in `dualsmooth.engine.models.int8`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch

from dualsmooth.kernels.cpu import maps
from dualsmooth.kernels.cpu.chains import Chain, library_of
from dualsmooth.kernels.cpu.maps import Layout, Shape, Step
from dualsmooth.kernels.errors import KernelArgumentError

AMX = 3
"""What `dualsmooth_int8_conv_available` says where AMX is there, too."""

SUMS = 1 << 31
"""What sums stay below."""


@dataclass(frozen=True, slots=True)
class Ends:
    """Images become x * inverse + zero, the last map (map - last_zero) * last_scale.

    ``rim``, uint8 (channels,), stands around the image.
    """

    rim: torch.Tensor
    inverse: float
    zero: float
    last_zero: float
    last_scale: float


def available() -> bool:
    """Whether the loops were built and this processor has AVX512-VNNI."""
    library = library_of("int8")
    return library is not None and bool(library.dualsmooth_int8_conv_available())


@cache
def has_tiles() -> bool:
    """Whether AMX is there and gives the bits of AVX512-VNNI on a known chain."""
    library = library_of("int8")
    if library is None or library.dualsmooth_int8_conv_available() & AMX != AMX:
        return False
    draw, shape = torch.Generator().manual_seed(0), (40, 48, 3, 3)
    weight = torch.randint(-127, 128, shape, generator=draw).to(torch.int8)
    bias, scale = torch.rand(2, 40, generator=draw) * torch.tensor([[100.0], [2.0**-10]])
    rims = [torch.arange(count).to(torch.uint8) for count in (48, 40)]
    step = Step(0, None, (3, 3), 1, (1, 1), rims[1], weight, bias, scale)
    ways = [
        Int8Chain([step], Ends(rims[0], 60.0, 90.0, 0.0, 1.0), (7, 19, 48), tiled=tiled)
        for tiled in (True, False)
    ]
    x = torch.randn(9, 48, 7, 19, generator=draw)
    return torch.equal(*(way(x) for way in ways))


class Int8Chain(Chain):
    """Steps from float32 images of one shape (height, width, channels) to the last step's map.

    Weights are int8 and have a scale, rims are uint8, and every value is cut off at 0. ``tiled``
    lets AMX multiply, by default where it gives the bits of the other loops.
    """

    def __init__(
        self, steps: Sequence[Step], ends: Ends, shape: Shape, *, tiled: bool | None = None
    ) -> None:
        for step in steps:
            if step.weight is not None:
                _check_weight(step.weight)
        layout = Layout(steps, ends.rim, shape, tiled=has_tiles() if tiled is None else tiled)
        numbers = (ends.inverse, ends.zero, ends.last_zero, ends.last_scale)
        made = maps.Ends(layout.maps[0], layout.maps[-1], 0, 0, *numbers)
        super().__init__("int8", layout, made, torch.float32)


def _check_weight(weight: torch.Tensor) -> None:
    if weight.dtype != torch.int8:
        raise KernelArgumentError("weight", "must be int8", weight.dtype)
    largest = 255 * int(weight.long().abs().flatten(1).sum(1).max())
    if largest >= SUMS:
        raise KernelArgumentError("weight", f"must have sums below {SUMS}", largest)
