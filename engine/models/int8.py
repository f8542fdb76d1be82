"""Networks of 8-bit integers: base classifiers of their own, with one definition on every device.

A map holds whole numbers q in 0 .. 255 that stand for (q - z) s. The image is cut off and rounded
once; from there to the last map all sums are exact integers. A value of a convolution is, each
operation rounded to float32,

    sum * scale[output] + bias[output] + shortcut * factor,

cut off at 0 and 255 and rounded to a whole number, ties to even; a ReLU is the cut at z = 0. Around
a map stands its rim, the q of zero (of the mean, where the image is normalized). The last map is
made float32, (q - z) s, and a linear layer in float32 gives the logits. Here sums are taken in
float64, where integers below 2^53 are exact in any order; `dualsmooth.kernels.cpu.int8_conv` takes
them in 32 bits. Both give the same bits.
"""

import re
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.models.registry import register_architecture
from dualsmooth.kernels.cpu.int8_conv import Ends
from dualsmooth.kernels.cpu.maps import Step

ARCHITECTURE = "int8"

_STEP = re.compile(
    r"(max|[1-9]\d{0,5}) (\d{1,3})x(\d{1,3}) stride ([1-9]\d{0,2}) pad (\d{1,3})x(\d{1,3}) "
    r"of (\d{1,4})(?: plus (\d{1,4}))?"
)
_RULE = "must be '32 3x3 stride 1 pad 1x1 of MAP', or that with 'plus MAP', or 'max 2x2 stride ..'"


class Int8Step(nn.Module):
    """A convolution of maps, or the maximum of their windows."""

    rim: torch.Tensor

    def __init__(self, text: str, channels: Sequence[int]) -> None:
        super().__init__()
        found = _STEP.fullmatch(text) if isinstance(text, str) else None
        if found is None:
            raise ArgumentError("steps", _RULE, text)
        kind, *numbers, added = found.groups()
        height, width, self.stride, above, left, self.read = map(int, numbers)
        self.added = None if added is None else int(added)
        self.kernel, self.padding = (height, width), (above, left)
        if max(self.read, self.added or 0) >= len(channels) or not height * width:
            raise ArgumentError("steps", "must read maps that were made before", text)
        self.outputs = channels[self.read] if kind == "max" else int(kind)
        self.convolves = kind != "max"
        self.register_buffer("rim", torch.zeros(self.outputs, dtype=torch.uint8))
        if self.convolves:
            shape = (self.outputs, channels[self.read], height, width)
            self.register_buffer("weight", torch.zeros(shape, dtype=torch.int8))
            for name in ("scale", "bias"):
                self.register_buffer(name, torch.zeros(self.outputs))
            self.register_buffer("factor", torch.zeros(1))

    def forward(self, x: torch.Tensor, shortcut: torch.Tensor | None) -> torch.Tensor:
        """The map of a padded one; both hold whole numbers in float32."""
        if not self.convolves:
            return functional.max_pool2d(x, self.kernel, self.stride)
        sums = functional.conv2d(x.double(), self.get_buffer("weight").double(), None, self.stride)
        scale, bias = (self.get_buffer(name).view(1, -1, 1, 1) for name in ("scale", "bias"))
        value = sums.float() * scale + bias
        if shortcut is not None:
            value = value + shortcut * self.get_buffer("factor")
        return cut(value)

    def as_step(self) -> Step:
        """What the compiled loops need to know."""
        geometry = (self.read, self.added, self.kernel, self.stride, self.padding, self.rim)
        if not self.convolves:
            return Step(*geometry)
        weight, scale, bias = (self.get_buffer(name) for name in ("weight", "scale", "bias"))
        return Step(*geometry, weight, bias, scale, float(self.get_buffer("factor")))


class Int8Layers(nn.Module):
    """Steps from float32 images to the float32 values of the last map."""

    rim: torch.Tensor

    def __init__(self, channels: int, steps: Sequence[str]) -> None:
        super().__init__()
        if not steps:
            raise ArgumentError("steps", "must hold at least one", steps)
        made, parts = [channels], list[Int8Step]()
        for text in steps:
            parts.append(Int8Step(text, made))
            made.append(parts[-1].outputs)
        self.steps = nn.ModuleList(parts)
        self.register_buffer("rim", torch.zeros(channels, dtype=torch.uint8))
        for name in ("inverse", "zero", "last_zero", "last_scale"):
            self.register_buffer(name, torch.zeros(1))

    def parts(self) -> list[Int8Step]:
        """The steps in order."""
        return [part for part in self.steps if isinstance(part, Int8Step)]

    def ends(self) -> Ends:
        """How images become the first map, and the last one float32."""
        numbers = ("inverse", "zero", "last_zero", "last_scale")
        return Ends(self.rim, *(float(self.get_buffer(name)) for name in numbers))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps (rows, outputs, height, width) of images (rows, channels, height, width)."""
        if x.dtype != torch.float32:
            kind = str(x.dtype).removeprefix("torch.")
            rule = "must be fp32 for int8 networks, which have a precision of their own"
            raise ArgumentError("precision", rule, kind)
        steps = self.parts()
        last = {number: at for at, step in enumerate(steps) for number in (step.read, step.added)}
        rims = [self.rim, *(step.rim for step in steps)]
        maps = {0: cut(x * self.get_buffer("inverse") + self.get_buffer("zero"))}
        for at, step in enumerate(steps):
            padded = _padded(maps[step.read], rims[step.read], step.padding)
            maps[at + 1] = step(padded, None if step.added is None else maps[step.added])
            maps = {number: kept for number, kept in maps.items() if last.get(number, at + 1) > at}
        return (maps[len(steps)] - self.get_buffer("last_zero")) * self.get_buffer("last_scale")


class Int8Network(nn.Module):
    """Integer layers, then the mean over pixels where ``pooled``, and a linear layer in float32."""

    def __init__(
        self, channels: int, steps: Sequence[str], features: int, outputs: int, pooled: bool
    ) -> None:
        super().__init__()
        self.layers, self.pooled = Int8Layers(channels, steps), pooled
        self.fc = nn.Linear(features, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = self.layers(x)
        logits: torch.Tensor = self.fc(maps.mean((2, 3)) if self.pooled else torch.flatten(maps, 1))
        return logits


def cut(value: torch.Tensor) -> torch.Tensor:
    """Cut off at 0 and 255, no number being 0, and rounded to whole numbers, ties to even."""
    return torch.nan_to_num(value).clamp(0, 255).round()


def _padded(maps: torch.Tensor, rim: torch.Tensor, padding: tuple[int, int]) -> torch.Tensor:
    above, left = padding
    if not above + left:
        return maps
    zero = rim.to(maps.dtype).view(1, -1, 1, 1)
    return functional.pad(maps - zero, (left, left, above, above)) + zero


@register_architecture(ARCHITECTURE)
def int8_network(
    *, channels: int, steps: Sequence[str], features: int, outputs: int, pooled: bool = False
) -> Int8Network:
    """Network of 8-bit integers, as `dualsmooth quantize` makes them of others.

    A step is "OUTPUTS HEIGHTxWIDTH stride S pad ABOVExLEFT of MAP", a convolution, with " plus MAP"
    where a shortcut is added, or has "max" for outputs. Maps are numbered, the image being 0.
    """
    return Int8Network(channels, steps, features, outputs, bool(pooled))
