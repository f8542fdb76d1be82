"""What runs a network on a device: the backends, and the pass from images to vote counts.

A pass is noise -> network -> votes over static tensors, so it can be captured once and replayed.
On CPU tensors the kernels fall back to their plain references, and a pass gives the same votes as
`dualsmooth.engine.samplers.eager`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import nn

from dualsmooth.engine.backends import PICKED
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.models.forms import AsItIs
from dualsmooth.engine.models.rows import noisy
from dualsmooth.engine.samplers.fusion.cudnn import fuse_for_cudnn
from dualsmooth.engine.samplers.fusion.fold import folded_network
from dualsmooth.engine.samplers.fusion.picked import Race, picked
from dualsmooth.engine.samplers.fusion.stem import KERNELS, Stemmed, take_stem
from dualsmooth.engine.samplers.fusion.triton import folded_resnet
from dualsmooth.kernels import ops
from dualsmooth.kernels.cuda.fused import FusedResNet, fused_logits
from dualsmooth.kernels.cuda.residual_stage import on_chip
from dualsmooth.kernels.cuda.stages import shared_memory
from dualsmooth.kernels.cuda.tiled_stem import TiledStem, pack_stem, tiled_stem
from dualsmooth.kernels.launch import StemShape
from dualsmooth.kernels.resnet import FoldedResNet, resnet_features, resnet_votes
from dualsmooth.kernels.rows import Rows
from dualsmooth.kernels.thresholds import Thresholds


@dataclass(frozen=True, slots=True)
class Inputs:
    """Static tensors every pass reads: images [slots, H, W, C], and the run's key.

    Images are float32; with thresholds of integer noise they are uint8 grid steps.
    """

    images: torch.Tensor
    key: torch.Tensor
    tables: Thresholds | None = None


Begin: TypeAlias = Callable[[Inputs, Rows], torch.Tensor]
"""What a library's network begins with, channels-last: noisy images, or a stem's activations."""


@dataclass(frozen=True, slots=True)
class Network:
    """A network as one backend runs it: logits [rows, classes], or votes added to counts.

    Counts are int64 [segments, classes + 1]. With ``any_shape`` a row's vote is the same in a batch
    of any size, so partial batches may run in smaller ones; libraries choose their algorithm by the
    batch size. ``name`` is that of a choice that was made within the backend.
    """

    scores: Callable[[Inputs, Rows], torch.Tensor]
    votes: Callable[[Inputs, Rows, torch.Tensor], None]
    any_shape: bool = False
    name: str = ""


def build(
    backend: str, network: nn.Module, dtype: torch.dtype, inputs: Inputs, batch: int, race: Race
) -> Network:
    """Make a network ready to run on the device of the inputs; it is not changed.

    ``triton`` has CIFAR ResNets, ``onchip`` with the activations of a stage on chip, and ``fused``
    in three kernels, noise, strided blocks and votes among them; ``cudnn`` does convolution, bias,
    sum and ReLU in one call, ``stem`` and ``tiledstem`` so what is behind our own noise and first
    convolution, in Triton or, with the max pooling, in CUDA C++; ``picked`` is one of these with
    convolutions of ours where a ``race`` or its name says so; ``compile`` is torch.compile, and
    ``eager`` the network itself; in the others batch norm is folded. The network takes (rows,
    channels, height, width) in [0, 1] units; ``batch`` is the rows of a full batch.
    """
    if backend in ("fused", "onchip", "triton"):
        resnet = _resnet(backend, network, dtype, inputs)
        if isinstance(resnet, FusedResNet):
            return Network(partial(_fused, resnet), partial(_fused, resnet), any_shape=True)
        return Network(partial(_resnet_scores, resnet), partial(_resnet_votes, resnet), True)
    if backend.partition(".")[0] == PICKED:
        return _picked(backend, network, dtype, inputs, batch, race)
    return _library(*_parts(backend, network, dtype, inputs, batch))


def _parts(
    backend: str, network: nn.Module, dtype: torch.dtype, inputs: Inputs, batch: int
) -> tuple[Begin, nn.Module]:
    """What a network begins with, and what a library runs."""
    if backend in ("tiledstem", "stem"):
        return _stemmed(backend, network, dtype, inputs, batch)
    device, shape = inputs.images.device, (batch, *inputs.images.shape[1:])
    made: Any = AsItIs(network, dtype)
    if backend == "cudnn":
        made = folded_network(network, torch.float32, shape).to(device)
        made = fuse_for_cudnn(made, _example(shape, device)).to(dtype)
    elif backend != "eager":
        made = folded_network(network, dtype, shape)
    if backend == "compile":
        made = torch.compile(made.to(device), dynamic=False)
    return partial(_noisy_images, dtype), made.to(device)


def _picked(
    backend: str, network: nn.Module, dtype: torch.dtype, inputs: Inputs, batch: int, race: Race
) -> Network:
    """Convolutions by cuDNN or kernels of ours, behind what is named or else our stem."""
    _, named, picks = f"{backend}..".split(".")[:3]
    if dtype == torch.float32:
        raise ArgumentError("backend", f"must not be {backend} in float32", str(dtype), "use cudnn")
    beginning, arguments = named or "stem", (network, dtype, inputs, batch)
    try:
        begin, forward = _parts(beginning, *arguments)
    except ArgumentError:
        if named:
            raise
        begin, forward = _parts(beginning := "cudnn", *arguments)
    made, picks = picked(forward, picks, race, every=bool(named))
    return _library(begin, made, f"{PICKED}.{beginning}.{picks}")


def _resnet(
    backend: str, network: nn.Module, dtype: torch.dtype, inputs: Inputs
) -> FoldedResNet | FusedResNet:
    """A network as our kernels take it, or why they do not."""
    device, (height, width) = inputs.images.device, inputs.images.shape[1:3]
    if inputs.tables is not None:
        raise ArgumentError("backend", f"must not be {backend} with integer noise", backend)
    resnet = folded_resnet(network, dtype, device)
    if resnet is None or height % 4 or width % 4:
        rule, hint = "network", "CIFAR ResNets on images whose sides are multiples of 4"
    elif dtype == torch.float32:
        rule, hint = "precision", "bfloat16: float32 products compile for a minute; use cudnn"
    elif backend == "triton":
        return resnet
    elif not (shared := shared_memory(device)):
        rule, hint = "device", "compute capability 8.0 or newer, and CuPy (extra cuda)"
    elif chip := on_chip(resnet, height if height == width else 0, shared):
        if backend == "onchip":
            return chip
        if fused := FusedResNet.fuse(chip):
            return fused
        rule, hint = "network", "ResNet-20 and deeper on color images; use onchip"
    else:
        rule, hint = "network", "images of 32x32 pixels; use triton"
    received = f"{type(network).__name__} on {width}x{height} pixels in {dtype} on {device.type}"
    rule, hint = f"must not be {backend} for this {rule}", f"the kernels have {hint}"
    raise ArgumentError("backend", rule, received, hint)


def _stemmed(
    backend: str, network: nn.Module, dtype: torch.dtype, inputs: Inputs, batch: int
) -> tuple[Begin, nn.Module]:
    """Noise, preprocessing and first convolution by our kernels, the rest by cuDNN's calls."""
    device, (height, width, channels) = inputs.images.device, inputs.images.shape[1:]
    if inputs.tables is not None or dtype == torch.float32:
        received = "integer noise" if inputs.tables is not None else str(dtype)
        rule, hint = f"must not be {backend} but for bfloat16 and Gaussian noise", "use cudnn"
        raise ArgumentError("backend", rule, received, hint)
    made = folded_network(network, torch.float32, (batch, height, width, channels)).to(device)
    rule, received = f"must not be {backend} for this network", type(network).__name__
    taken = take_stem(made, dtype, pools=backend == "tiledstem")
    if isinstance(taken, str):
        raise ArgumentError("backend", rule, f"{received}: {taken}", f"the kernels have {KERNELS}")
    kernel, _, colors, outputs = taken.stem.weight.shape
    shape = StemShape(height, width, colors, outputs, kernel, taken.stride, taken.stem.pad)
    begin, size = partial(_activations, taken), (shape.out_height, shape.out_width)
    if backend == "tiledstem":
        choice = TiledStem.choose(shape, shared_memory(device), taken.pool)
        if choice is None:
            received, hint = f"{received} on {device.type}", "its first convolution fits stem only"
            raise ArgumentError("backend", rule, received, hint)
        begin, size = partial(_tiled, taken, pack_stem(taken.stem), choice), choice.size
    example = _example((batch, *size, outputs), device)
    return begin, fuse_for_cudnn(taken.rest, example).to(dtype)


def _example(shape: tuple[int, int, int, int], device: torch.device) -> torch.Tensor:
    """A row as many times as a batch has rows, in the memory of one."""
    return noisy(1, shape[1:]).to(device).expand(shape[0], -1, -1, -1)


@contextmanager
def reproducible() -> Iterator[None]:
    """Libraries choose by fixed rules, not by timing, and compute float32 in float32."""
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    matmul.allow_tf32 = False
    try:
        with torch.backends.cudnn.flags(
            enabled=True, benchmark=False, deterministic=True, allow_tf32=False
        ):
            yield
    finally:
        matmul.allow_tf32 = before


def _noisy_images(dtype: torch.dtype, inputs: Inputs, rows: Rows) -> torch.Tensor:
    if inputs.tables is None:
        return ops.noise(inputs.images, rows, inputs.key, dtype=dtype)
    level = rows.sigma.view(torch.int32)
    return ops.integer_noise(inputs.images, rows, inputs.key, level, inputs.tables, dtype=dtype)


def _activations(taken: Stemmed, inputs: Inputs, rows: Rows) -> torch.Tensor:
    parts = inputs.images, rows, inputs.key, taken.stem
    return ops.stem(*parts, stride=taken.stride, relu=taken.relu)


def _tiled(
    taken: Stemmed, packed: torch.Tensor, choice: TiledStem, inputs: Inputs, rows: Rows
) -> torch.Tensor:
    parts = taken.stem, packed, choice
    return tiled_stem(inputs.images, rows, inputs.key, *parts, relu=taken.relu)


def _library(begin: Begin, forward: nn.Module, name: str = "") -> Network:
    parts = begin, forward
    return Network(partial(_library_scores, *parts), partial(_library_votes, *parts), name=name)


def _library_scores(begin: Begin, forward: nn.Module, inputs: Inputs, rows: Rows) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = forward(begin(inputs, rows).permute(0, 3, 1, 2))
    return logits.contiguous()


def _library_votes(
    begin: Begin, forward: nn.Module, inputs: Inputs, rows: Rows, counts: torch.Tensor
) -> None:
    ops.vote_logits(_library_scores(begin, forward, inputs, rows), rows.segment, counts)


def _resnet_scores(resnet: FoldedResNet, inputs: Inputs, rows: Rows) -> torch.Tensor:
    """Logits by element-wise products: a matrix product might depend on a row's position."""
    pooled = resnet_features(inputs.images, rows, inputs.key, resnet).float().mean((1, 2))
    return (pooled[:, :, None] * resnet.fc_weight.float()).sum(1) + resnet.fc_bias


def _resnet_votes(resnet: FoldedResNet, inputs: Inputs, rows: Rows, counts: torch.Tensor) -> None:
    resnet_votes(inputs.images, rows, inputs.key, resnet, counts)


def _fused(fused: FusedResNet, inputs: Inputs, rows: Rows, *counts: torch.Tensor) -> Any:
    return fused_logits(inputs.images, rows, inputs.key, fused, *counts)
