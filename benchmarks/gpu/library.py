"""Checks of what the kernels stand on or compete with: words, cuDNN, the on-chip stage."""

import math

import numpy as np
import torch

from dualsmooth.benchmarks.gpu.kernel_checks import (
    ROUNDING,
    SEED,
    SUM_LIMIT,
    Figures,
    require,
    rows_of,
)
from dualsmooth.engine.noise.stream import block_words
from dualsmooth.engine.samplers.passes import reproducible
from dualsmooth.kernels import reference
from dualsmooth.kernels.cuda.residual_stage import Stage, pack_weights, residual_stage
from dualsmooth.kernels.rows import seed_key

POISON = 0x7FFF7FFF
"""NaN in float32, and twice in bfloat16 and in float16."""


def poison(device: torch.device, words: int) -> None:
    """Fill memory with NaN and free it, so that a value that is not written shows."""
    if device.type == "cuda":
        torch.cuda.empty_cache()  # the memory of earlier results, which may be right
        torch.full((words,), POISON, dtype=torch.int32, device=device)


def check_words(device: torch.device, rows: int = 64, blocks: int = 1024) -> Figures:
    """Words on the device, which the kernels' checks take for the truth, against NumPy."""
    packed = rows_of(rows, 1, 1.0, device)
    words = reference.row_words(packed, seed_key(SEED, device), blocks).cpu().numpy()
    image, stream, sample = (
        column.cpu().numpy().view(np.uint32).astype(np.uint64)
        for column in (packed.image, packed.stream, packed.sample)
    )
    truth = np.stack(block_words(SEED, image, stream, sample, blocks), axis=-1)
    require("Philox words that differ", float((words != truth.astype(np.int64)).sum()), 0)
    return {"words": float(words.size)}


def check_cudnn(
    device: torch.device, cin: int, cout: int, size: int, batch: int, dtype: torch.dtype
) -> Figures:
    """Fused convolutions against torch in float32, with NaN in the memory they write.

    PyTorch hands cuDNN the unwritten output as a summand of weight 0 where there is no shortcut.
    """
    generator = torch.Generator(device).manual_seed(5)

    def normal(*sizes: int) -> torch.Tensor:
        return torch.randn(sizes, generator=generator, device=device)

    stride = 1 if cin == cout else 2
    x = normal(batch, size, size, cin).to(dtype)
    weight = (normal(3, 3, cin, cout) / math.sqrt(9 * cin)).to(dtype)
    bias = normal(cout).to(dtype)
    z = normal(batch, size // stride, size // stride, cout).to(dtype)
    kernel = weight.permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)
    geometry = [stride, stride], [1, 1], [1, 1], 1
    found: Figures = {}
    for name, other in (("relu", None), ("add_relu", z)):
        truth = reference.conv(x, weight, bias, stride=stride, residual=other)
        outs = []
        for _ in range(2):
            poison(device, z.numel())
            with reproducible():
                outs.append(fused(x, kernel, other, bias, geometry).permute(0, 2, 3, 1))
        require(f"{name}: values that a rerun changes", float((outs[0] != outs[1]).sum()), 0)
        gap = float((outs[0].float() - truth).abs().max() / truth.abs().max())
        found[name] = require(f"cudnn {name}", gap, SUM_LIMIT + 2 * ROUNDING[dtype])
    return found


def fused(
    x: torch.Tensor,
    kernel: torch.Tensor,
    other: torch.Tensor | None,
    bias: torch.Tensor,
    geometry: tuple[list[int], list[int], list[int], int],
) -> torch.Tensor:
    """cuDNN's convolution + bias (+ sum) + ReLU of channels-last x; geometry: stride, padding, ..

    ``kernel`` is [Cout, Cin, K, K] in channels-last memory; the result is [R, Cout, OH, OW].
    """
    image = x.permute(0, 3, 1, 2)
    if other is None:
        y: torch.Tensor = torch.ops.aten.cudnn_convolution_relu.default(
            image, kernel, bias, *geometry
        )
        return y
    z: torch.Tensor = torch.ops.aten.cudnn_convolution_add_relu.default(
        image, kernel, other.permute(0, 3, 1, 2), 1.0, bias, *geometry
    )
    return z


def check_stage(stage: Stage, device: torch.device, rows: int, blocks: int = 2) -> Figures:
    """The on-chip residual stage against its convolutions one by one, rounded after each."""
    generator = torch.Generator(device).manual_seed(stage.channels)
    c, shape = stage.channels, (rows, stage.size, stage.size, stage.channels)
    x = torch.randn(shape, generator=generator, device=device).bfloat16()
    sizes = (2 * blocks, 3, 3, c, c)
    weight = torch.randn(sizes, generator=generator, device=device) / (3 * math.sqrt(c))
    bias = torch.randn((2 * blocks, c), generator=generator, device=device)
    weight = weight.bfloat16()
    truth = x
    for i in range(0, 2 * blocks, 2):
        inner = reference.conv(truth, weight[i], bias[i]).bfloat16()
        truth = reference.conv(inner, weight[i + 1], bias[i + 1], residual=truth).bfloat16()
    packed = pack_weights(weight)
    outs = []
    for _ in range(2):
        poison(device, x.numel())
        outs.append(residual_stage(x, packed, bias))
    require("values that a rerun changes", float((outs[0] != outs[1]).sum()), 0)
    gap = (outs[0].float() - truth.float()).abs() / truth.float().abs().max()
    # a value next to a rounding boundary may move by one unit in each convolution
    limit = SUM_LIMIT + 2 * blocks * ROUNDING[torch.bfloat16]
    return {"gap": require(f"on-chip stage {c}", float(gap.max()), limit)}
