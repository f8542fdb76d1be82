"""Kinds of convolutions, and the kernels of our own that have some of them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import torch
from torch import nn

from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.samplers.fusion.patterns import channels_last
from dualsmooth.kernels import ops
from dualsmooth.kernels.cuda.stages import shared_memory
from dualsmooth.kernels.cuda.tiled_conv import TiledConv, pack_taps, tiled_conv


@dataclass(frozen=True, slots=True)
class Convolution:
    """A kind of convolution, with zeros around it to keep the size: what its speed depends on."""

    inputs: int
    outputs: int
    kernel: int
    stride: int
    size: tuple[int, int]
    adds: bool
    relu: bool

    @property
    def outsize(self) -> tuple[int, int]:
        """Height and width of its outputs."""
        return (self.size[0] - 1) // self.stride + 1, (self.size[1] - 1) // self.stride + 1

    @property
    def moved(self) -> int:
        """Values of one row that it reads and writes."""
        (height, width), (high, wide) = self.size, self.outsize
        return height * width * self.inputs + high * wide * self.outputs * (1 + self.adds)


Run: TypeAlias = Callable[..., torch.Tensor]
"""Of activations [rows, height, width, channels], and a ``residual`` that is added to the sums."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """The convolutions that one of our kernels has, and it with weights [K, K, in, out] and bias.

    Weights are of the activations' dtype, a bias is float32.
    """

    fits: Callable[[Convolution], bool]
    make: Callable[[Convolution, torch.Tensor, torch.Tensor], Run]


def _is_product(kind: Convolution) -> bool:
    return kind.kernel == 1 and kind.inputs % 16 == kind.outputs % 16 == 0


def _product(kind: Convolution, weight: torch.Tensor, bias: torch.Tensor) -> Run:
    call = partial(ops.pointwise, weight=weight[0, 0], bias=bias)
    return partial(call, stride=kind.stride, relu=kind.relu)


def _is_narrow(kind: Convolution) -> bool:
    """Wider ones fill the registers."""
    even = kind.stride == 1 or (kind.stride == 2 and not any(n % 2 for n in kind.size))
    return kind.kernel == 3 and {kind.inputs, kind.outputs} <= {16, 32, 64} and even


def _narrow(kind: Convolution, weight: torch.Tensor, bias: torch.Tensor) -> Run:
    return partial(ops.conv, weight=weight, bias=bias, stride=kind.stride, relu=kind.relu)


def _is_tiled(kind: Convolution) -> bool:
    square = kind.inputs == kind.outputs and kind.inputs in (32, 64)
    return kind.kernel == 3 and kind.stride == 1 and square


def _tiled(kind: Convolution, weight: torch.Tensor, bias: torch.Tensor) -> Run:
    sizes, shared = (*kind.size, kind.inputs), shared_memory(weight.device)
    found = TiledConv.candidates(sizes, shared, adds=kind.adds, relu=kind.relu)
    if not found:
        rule, hint = "must not name s on this device", "the kernel needs sm_80 and CuPy: use c"
        raise ArgumentError("backend", rule, str(weight.device), hint)
    return partial(tiled_conv, packed=pack_taps(weight, found[0]), bias=bias, choice=found[0])


KERNELS = {
    "p": Kernel(_is_product, _product),
    "t": Kernel(_is_narrow, _narrow),
    "s": Kernel(_is_tiled, _tiled),
}
"""By their letters, which certificates name: a letter is never given to another kernel."""

FREE = "pt"
"""Those that take part wherever layers are chosen. Others, in CUDA C++ and not yet run on a device,
do so only if what the network begins with is named; `auto` names nothing."""


class Ours(nn.Module):
    """A convolution by a kernel of ours, between tensors [rows, channels, height, width].

    They are channels-last in memory, so that nothing is copied on either side.
    """

    def __init__(self, run: Run) -> None:
        super().__init__()
        self._run = run

    def forward(self, x: torch.Tensor, other: torch.Tensor | None = None) -> torch.Tensor:
        """What the kernel gives."""
        residual = None if other is None else channels_last(other)
        return self._run(channels_last(x), residual=residual).permute(0, 3, 1, 2)
