"""Convolutions of bfloat16 maps on a CPU, by the compiled loops of ``bf16_conv.c``.

Sums are float32, their order depends on neither row, place nor batch mates, and every map is
rounded once. Before the first use in a process the loops must give the bits of the definition on
whole numbers, where every order of sums is exact, and come near it on others.
"""

import math
from collections.abc import Sequence
from functools import cache

import torch
from torch.nn import functional

from dualsmooth.kernels.cpu import maps
from dualsmooth.kernels.cpu.chains import Chain, library_of
from dualsmooth.kernels.cpu.maps import Layout, Shape, Step
from dualsmooth.kernels.errors import KernelArgumentError

VDPBF16PS, AMX = 1, 3
"""What `dualsmooth_bf16_conv_available` says."""

NEAR = 2.0**-6
"""How far a proof's results may be off, relative to the largest: four roundings to bfloat16."""

Normalize = tuple[torch.Tensor, torch.Tensor]
"""Mean and standard deviation of each channel."""


class Bf16Chain(Chain):
    """Steps from bfloat16 images of one shape (height, width, channels) to the last step's map.

    Weights and rims are bfloat16, rims zero. Images become (x - mean) / deviation. ``tiled`` lets
    AMX multiply where kernels have long lines, by default where it is there and proved.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        shape: Shape,
        normalize: Normalize | None = None,
        *,
        tiled: bool | None = None,
    ) -> None:
        for step in steps:
            if step.weight is not None and step.weight.dtype != torch.bfloat16:
                raise KernelArgumentError("weight", "must be bfloat16", step.weight.dtype)
        channels, tiles = shape[2], not trouble(tiled=True) if tiled is None else tiled
        rim = torch.zeros(channels, dtype=torch.bfloat16)
        layout = Layout(steps, rim, shape, tiled=tiles)
        constants = [
            layout.add(values.float().repeat(shape[1]))
            for values in _normalize(normalize, channels)
        ]
        made = maps.Ends(layout.maps[0], layout.maps[-1], *constants)
        super().__init__("bf16", layout, made, torch.bfloat16)


def convolution(
    read: int,
    added: int | None,
    window: tuple[tuple[int, int], int, tuple[int, int]],
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    *,
    relu: bool,
) -> Step:
    """A step of a chain; ``window`` is kernel, stride and padding, the weight is rounded."""
    outputs = len(weight)
    constants = torch.zeros(outputs) if bias is None else bias.detach().float()
    rim = torch.zeros(outputs, dtype=torch.bfloat16)
    rounded = weight.detach().bfloat16()
    return Step(read, added, *window, rim, rounded, constants, relu=relu)


def maximum(read: int, window: tuple[tuple[int, int], int, tuple[int, int]], channels: int) -> Step:
    """The step that takes the largest value of each window."""
    return Step(read, None, *window, torch.zeros(channels, dtype=torch.bfloat16))


def available() -> bool:
    """Whether the loops were built, this processor has AVX512-BF16, and they are proved."""
    return not trouble()


@cache
def trouble(*, tiled: bool = False) -> str:
    """Why the loops, or those by AMX, cannot be used; nothing if they can."""
    library, wanted = library_of("bf16"), AMX if tiled else VDPBF16PS
    if library is None:
        return "the loops were not built"
    if library.dualsmooth_bf16_conv_available() & wanted != wanted:
        name = "AMX" if tiled else "AVX512-BF16"
        return f"processor, system or the compiler at installation has no {name}"
    return _disproof(tiled)


def _disproof(tiled: bool) -> str:
    """What the loops get wrong on known chains, in words; nothing if they are right."""
    draw, shape = torch.Generator().manual_seed(0), (6, 9, 3)
    for kind in ("whole", "real"):
        steps, normalize = _known_chain(draw, kind == "whole")
        x = torch.randint(-4, 5, (41, 3, 6, 9), generator=draw).bfloat16()
        if kind == "real":
            x = torch.randn(x.shape, generator=draw).bfloat16()
            x[1, 1, 2, 3] = float("nan")
        for count in range(1, len(steps) + 1):
            found = Bf16Chain(steps[:count], shape, normalize, tiled=tiled)(x)
            wanted = by_definition(steps[:count], x, normalize)
            missing = wanted.isnan()
            error = (found - wanted)[~missing].abs().max()
            bound = 0.0 if kind == "whole" else NEAR * wanted[~missing].abs().max()
            if not torch.equal(found.isnan(), missing) or not error <= bound:
                way = "AMX" if tiled else "vdpbf16ps"
                return f"{way} gives other results than the definition on {kind} numbers"
    return ""


def _known_chain(draw: torch.Generator, whole: bool) -> tuple[list[Step], Normalize]:
    """Steps of every kind; of whole numbers such that no sum in any order reaches 2^24."""

    def weight(*shape: int) -> torch.Tensor:
        if whole:
            return torch.randint(-1, 2, shape, generator=draw).float()
        return torch.randn(shape, generator=draw) / math.sqrt(math.prod(shape[1:]))

    same, half = ((3, 3), 1, (1, 1)), ((3, 3), 2, (1, 1))
    biases = [torch.randint(-9, 10, (outputs,), generator=draw).float() for outputs in (20, 40)]
    steps = [
        convolution(0, None, same, weight(20, 3, 3, 3), biases[0], relu=True),
        convolution(1, None, half, weight(40, 20, 3, 3), biases[1], relu=False),
        convolution(2, 2, same, weight(40, 40, 3, 3), None, relu=True),
        maximum(3, ((2, 2), 1, (1, 1)), 40),
        convolution(2, None, ((3, 5), 1, (0, 0)), weight(24, 40, 3, 5), None, relu=False),
    ]
    scale = 1.0 if whole else 0.25
    return steps, (torch.tensor([1.0, 0.0, -2.0]) * scale, torch.tensor([1.0, 0.5, 1.0]))


def by_definition(steps: Sequence[Step], x: torch.Tensor, normalize: Normalize) -> torch.Tensor:
    """What a chain gives, by PyTorch's operators; sums are exact to float64 and rounded once."""
    mean, deviation = (values.view(1, -1, 1, 1) for values in normalize)
    made = [((x.float() - mean) / deviation).bfloat16()]
    for step in steps:
        above, left = step.padding
        read = functional.pad(made[step.read].double(), (left, left, above, above))
        if step.weight is None:
            made.append(functional.max_pool2d(read, step.kernel, step.stride).bfloat16())
            continue
        assert step.bias is not None
        sums = functional.conv2d(read, step.weight.double(), None, step.stride).float()
        value = sums + step.bias.view(1, -1, 1, 1)
        if step.added is not None:
            value = value + made[step.added].float()
        made.append((torch.relu(value) if step.relu else value).bfloat16())
    return made[-1].float()


def _normalize(normalize: Normalize | None, channels: int) -> Normalize:
    return (torch.zeros(channels), torch.ones(channels)) if normalize is None else normalize
