"""Convolutions of ResNet-50 by cuDNN's calls and by ours: a device says which are faster."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from dualsmooth.benchmarks.gpu.gate import TILED_CONV
from dualsmooth.benchmarks.gpu.items import Turn
from dualsmooth.benchmarks.gpu.kernels import IMAGENET_BATCH, Contestant, timed
from dualsmooth.engine.samplers.passes import reproducible
from dualsmooth.kernels import ops
from dualsmooth.kernels.cuda.stages import shared_memory
from dualsmooth.kernels.cuda.tiled_conv import TiledConv, pack_taps, tiled_conv
from dualsmooth.kernels.launch import PointwiseLaunch

_ATEN = torch.ops.aten
RESNET_50 = {
    "1x1 64-256 56px": (64, 256, 56, 1, True),
    "1x1 256-64 56px": (256, 64, 56, 1, False),
    "1x1 512-128 28px": (512, 128, 28, 1, False),
    "1x1 128-512 28px": (128, 512, 28, 1, True),
    "1x1 1024-256 14px": (1024, 256, 14, 1, False),
    "1x1 256-1024 14px": (256, 1024, 14, 1, True),
    "1x1 2048-512 7px": (2048, 512, 7, 1, False),
    "1x1 512-2048 7px": (512, 2048, 7, 1, True),
    "1x1 256-512 56px, stride 2": (256, 512, 56, 2, False),
}
"""Inputs, outputs, side, stride, and whether a sum follows, of most of its 1x1 convolutions."""


def pointwise_rivals(name: str, device: torch.device) -> list[Contestant]:
    """A 1x1 convolution of ResNet-50 with its sum and ReLU: cuDNN's call, and ours by choice."""
    cin, cout, side, stride, adds = RESNET_50[name]
    batch, out = IMAGENET_BATCH, -(-side // stride)
    x = torch.randn(batch, side, side, cin, device=device, dtype=torch.bfloat16)
    weight = torch.randn(cin, cout, device=device, dtype=torch.bfloat16) / cin**0.5
    bias = torch.randn(cout, device=device)
    other = torch.randn(batch, out, out, cout, device=device, dtype=torch.bfloat16)
    images, kernel = x.permute(0, 3, 1, 2), weight.T[:, :, None, None]
    kernel = kernel.contiguous(memory_format=torch.channels_last)
    geometry = [stride] * 2, [0, 0], [1, 1], 1
    calls = {"cudnn": _cudnn(images, kernel, bias, other if adds else None, geometry)}
    for choice in PointwiseLaunch.candidates(cin, cout):
        options: Any = dict(stride=stride, residual=other if adds else None, launch=choice)
        calls[f"ours {choice}"] = partial(ops.pointwise, x, weight, bias, **options)
    moved = 2 * (out * out * (cin + cout * (1 + adds)))
    work = moved, 2 * out * out * cin * cout
    return [Contestant(f"{name} {which}", batch, call, *work) for which, call in calls.items()]


def _cudnn(
    images: torch.Tensor,
    kernel: torch.Tensor,
    bias: torch.Tensor,
    other: torch.Tensor | None,
    geometry: tuple[list[int], list[int], list[int], int],
) -> Callable[[], torch.Tensor]:
    """cuDNN's call for a convolution, a sum with other activations if there are any, and ReLU."""
    half = bias.bfloat16()
    if other is None:
        return partial(_ATEN.cudnn_convolution_relu, images, kernel, half, *geometry)
    parts = images, kernel, other.permute(0, 3, 1, 2), 1.0, half
    return partial(_ATEN.cudnn_convolution_add_relu, *parts, *geometry)


def wide_rivals(device: torch.device, adds: bool, tiled: bool) -> list[Contestant]:
    """The 3x3 convolution of 64 channels at 56 pixels, and a sum: cuDNN's call and ours, in tiles
    too."""
    x = torch.randn(IMAGENET_BATCH, 56, 56, 64, device=device, dtype=torch.bfloat16)
    weight, bias = torch.randn(3, 3, 64, 64, device=device).bfloat16() / 24, x.new_zeros(64).float()
    other = torch.randn_like(x) if adds else None
    kernel = weight.permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)
    images, geometry = x.permute(0, 3, 1, 2), ([1, 1], [1, 1], [1, 1], 1)
    calls = {"cudnn": _cudnn(images, kernel, bias, other, geometry)}
    calls["ours"] = partial(ops.conv, x, weight, bias, residual=other)
    for choice in TiledConv.candidates((56, 56, 64), shared_memory(device) * tiled, adds=adds):
        packed = pack_taps(weight, choice)
        calls[f"tiled {choice.label}"] = partial(
            tiled_conv, x, packed, bias, choice, residual=other
        )
    work = 2 * (2 + adds) * 56 * 56 * 64, 18 * 56 * 56 * 64 * 64
    label = f"3x3 64-64 56px{' and a sum' if adds else ''}"
    return [Contestant(f"{label} {n}", IMAGENET_BATCH, call, *work) for n, call in calls.items()]


def layer_by_layer(turn: Turn, rounds: int = 15) -> dict[str, Any]:
    """Convolutions of ResNet-50, cuDNN's and ours, and which is faster at each."""
    found, device = dict[str, Any](), turn.place.device
    makers = {
        f"3x3{' and a sum' if adds else ''}": partial(
            wide_rivals, device, adds, turn.passed(TILED_CONV)
        )
        for adds in (False, True)
    }
    makers |= {name: partial(pointwise_rivals, name, device) for name in RESNET_50}
    for name, make in makers.items():
        if turn.left() < 0:
            break
        with reproducible():
            times = timed(make(), rounds, 0.2)
        fastest = min(times, key=lambda who: times[who]["median_ms"])
        found[name] = times | {"fastest": fastest}
        turn.keep(found)
    return found


def fill(turn: Turn) -> dict[str, Any]:
    """Have our kernels of that compiled, so that they are on disk when they are timed."""
    for number, name in enumerate(RESNET_50):
        for contestant in pointwise_rivals(name, turn.place.device)[1:]:
            contestant.call()
        turn.keep({"convolutions": number + 1})
    return {"convolutions": len(RESNET_50)}
