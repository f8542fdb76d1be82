"""Every kernel at the sizes a device runs it at, and that each check notices a fault.

The tests marked gpu are what a device pass rests on (`benchmarks/gpu`): nothing is timed before
they pass. The small sizes are for the interpreter, and for tools that make a device slow.
"""

import math
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from dualsmooth.engine.models.rows import same
from dualsmooth.engine.noise.integer import thresholds
from dualsmooth.engine.noise.stream import block_words
from dualsmooth.engine.samplers.passes import reproducible
from dualsmooth.kernels import ops, reference, resnet
from dualsmooth.kernels.cuda.fused import FusedResNet, fused_logits
from dualsmooth.kernels.cuda.residual_stage import on_chip, pack_weights, residual_stage
from dualsmooth.kernels.cuda.stages import RESIDUAL, STAGES, Stage, shared_memory
from dualsmooth.kernels.cuda.tiled_conv import SHAPES as WIDE
from dualsmooth.kernels.cuda.tiled_conv import TiledConv, pack_taps, tiled_conv
from dualsmooth.kernels.cuda.tiled_stem import SHAPES, TiledStem, pack_stem, tiled_stem
from dualsmooth.kernels.folding import fold_stem
from dualsmooth.kernels.launch import PATCHES, PointwiseLaunch, StemShape, stem_candidates
from dualsmooth.kernels.resnet import FoldedBlock, FoldedResNet
from dualsmooth.kernels.rows import Rows, seed_key
from dualsmooth.kernels.thresholds import Thresholds

SEED = 2026 | 1 << 40
NOISE_LIMIT = 2e-6
ROUNDING = {torch.bfloat16: 2.0**-8, torch.float32: 2.0**-24}
SUM_LIMIT = 2e-5
"""Of the largest output: float32 sums of a few hundred terms in any order."""

POISON = 0x7FFF7FFF
"""NaN in float32, and twice in bfloat16."""


def compute_dtype(device: torch.device) -> torch.dtype:
    """A device computes in bfloat16; in float32 wide convolutions compile for a minute each."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def poison(device: torch.device, words: int) -> None:
    """Fill memory with NaN and free it, so that a value a library does not write shows."""
    torch.cuda.empty_cache()  # the memory of earlier results, which may be right
    torch.full((words,), POISON, dtype=torch.int32, device=device)


def rows_of(count: int, slots: int, sigma: float, device: torch.device) -> Rows:
    """Rows that take the slots in turn; images and samples reach both ends of their words."""
    top = (1 << 32) - 1
    return Rows.pack(
        slot=[i % slots for i in range(count)],
        sigma=[sigma] * count,
        stream=[3 + 16 * (i % 2) for i in range(count)],
        image=[i * 977 if i % 3 else top - i for i in range(count)],
        sample=[i if i % 2 else top - i for i in range(count)],
        segment=[i * slots // count for i in range(count)],
        device=device,
    )


def part(rows: Rows, start: int, stop: int) -> Rows:
    return Rows(*(getattr(rows, f.name)[start:stop].contiguous() for f in fields(rows)))


def exact_noise(rows: Rows, key: torch.Tensor, shape: tuple[int, int, int]) -> torch.Tensor:
    """Specified normals in float64, [R, H, W, C]."""
    words = reference.row_words(rows, key, reference.blocks_of(shape))
    u = (words.float() * 2.0**-32 + 2.0**-33).double()
    radius, angle = torch.sqrt(-2 * torch.log(u[..., 0::2])), 2 * math.pi * u[..., 1::2]
    pairs = torch.stack((radius * torch.cos(angle), radius * torch.sin(angle)), -1)
    return reference.to_image(pairs.flatten(-2), shape)


def gap(got: torch.Tensor, truth: torch.Tensor) -> float:
    """Largest difference, of the largest value; NaN if any value is."""
    return float((got - truth).abs().max() / truth.abs().max())


def normals(device: torch.device, seed: int) -> Callable[..., torch.Tensor]:
    """Standard normals of any size, one after another."""
    generator = torch.Generator(device).manual_seed(seed)
    return lambda *sizes: torch.randn(sizes, generator=generator, device=device)


def check_words(device: torch.device, rows: int, blocks: int) -> None:
    """Words on the device, which the other checks take for the truth, against NumPy."""
    packed = rows_of(rows, 1, 1.0, device)
    words = reference.row_words(packed, seed_key(SEED, device), blocks).cpu().numpy()
    image, stream, sample = (
        column.cpu().numpy().view(np.uint32).astype(np.uint64)
        for column in (packed.image, packed.stream, packed.sample)
    )
    truth = np.stack(block_words(SEED, image, stream, sample, blocks), axis=-1)
    assert np.array_equal(words, truth.astype(np.int64))


def check_noise(device: torch.device, shape: tuple[int, int, int], batch: int) -> None:
    """Float noise within 2e-6 of the specification; integer noise, so every word, exact."""
    rows, key = rows_of(batch, 1, 1.0, device), seed_key(SEED, device)
    z = ops.noise(torch.zeros(1, *shape, device=device), rows, key, backend="triton")
    pixels = torch.full((1, *shape), 100, dtype=torch.uint8, device=device)
    level = torch.zeros(batch, dtype=torch.int32, device=device)
    tables = Thresholds.pack([thresholds(0.25)], device)
    grid = ops.integer_noise(pixels, rows, key, level, tables, backend="triton")
    for start in range(0, batch, 64):
        at, some = slice(start, start + 64), part(rows, start, start + 64)
        assert float((z[at].double() - exact_noise(some, key, shape)).abs().max()) <= NOISE_LIMIT
        assert torch.equal(grid[at], reference.integer_noise(pixels, some, key, level[at], tables))


def check_stem(device: torch.device, shape: StemShape, batch: int) -> None:
    """Every design against a float64 convolution of the specified noise.

    Limit, as a share of the largest output: 2e-5 for float32 sums and noise, and four roundings of
    the compute dtype (operands, result, and what they add up to).
    """
    generator = torch.Generator(device).manual_seed(1)
    size = (shape.kernel, shape.kernel, shape.channels, shape.outputs)
    weight = torch.randn(size, generator=generator, device=device)
    weight /= math.sqrt(shape.kernel**2 * shape.channels)
    bias, mean, std = (
        torch.full((n,), v, device=device)
        for n, v in ((shape.outputs, 0.1), (shape.channels, 0.45), (shape.channels, 0.25))
    )
    dtype = compute_dtype(device)
    folded = fold_stem(weight, bias, mean, std, dtype=dtype, padding=shape.pad)
    side = (shape.height, shape.width, shape.channels)
    images = torch.rand(2, *side, generator=generator, device=device)
    rows, key = rows_of(batch, 2, 0.5, device), seed_key(SEED, device)
    for launch in stem_candidates(shape):
        options: Any = dict(stride=shape.stride, relu=False, backend="triton", launch=launch)
        y = ops.stem(images, rows, key, folded, **options)
        for start in range(0, batch, 32):
            some = part(rows, start, start + 32)
            noisy = images[some.slot.long()].double() + 0.5 * exact_noise(some, key, side)
            x = ((noisy - mean) / std).permute(0, 3, 1, 2)
            w = weight.double().permute(3, 2, 0, 1)
            truth = functional.conv2d(x, w, bias.double(), shape.stride, shape.pad)
            found = gap(y[start : start + 32].double(), truth.permute(0, 2, 3, 1))
            assert found <= SUM_LIMIT + 4 * ROUNDING[dtype], launch.design


def check_conv(device: torch.device, cin: int, cout: int, size: int, batch: int) -> None:
    """Plain and residual (or strided projection) form against torch in float32 (no TF32)."""
    normal, dtype = normals(device, 2), compute_dtype(device)
    stride = 1 if cin == cout else 2
    x = normal(batch, size, size, cin).to(dtype)
    first = (normal(3, 3, cin, cout) / math.sqrt(9 * cin)).to(dtype)
    second = (normal(3, 3, cout, cout) / math.sqrt(9 * cout)).to(dtype)
    bias, projection = normal(cout), (normal(cin, cout) / math.sqrt(cin)).to(dtype)
    y = ops.conv(x, first, bias, stride=stride, backend="triton")
    extra: Any = {"residual": x} if stride == 1 else {"shortcut": (x, projection)}
    z = ops.conv(y, second, bias, backend="triton", **extra)
    for got, truth in (
        (y, reference.conv(x, first, bias, stride=stride)),
        (z, reference.conv(y, second, bias, **extra)),
    ):
        assert gap(got.float(), truth) <= SUM_LIMIT + ROUNDING[dtype]


def check_pointwise(device: torch.device, cin: int, cout: int, size: int, batch: int) -> None:
    """Every launch choice, with and without shortcut and stride, against float32; one in bits."""
    normal, dtype = normals(device, 6), compute_dtype(device)
    x, weight = normal(batch, size, size, cin).to(dtype), (normal(cin, cout) / cin**0.5).to(dtype)
    bias, half = normal(cout), (size + 1) // 2
    shortcut = normal(batch, size, size, cout).to(dtype)
    for extra in ({"residual": shortcut}, {"stride": 2, "relu": False}):
        options: Any = extra
        truth = reference.conv(x, weight[None, None], bias, **options)
        found = [
            ops.pointwise(x, weight, bias, backend="triton", launch=launch, **options)
            for launch in PointwiseLaunch.candidates(cin, cout)
        ]
        assert found[0].shape[1] == (half if "stride" in extra else size)
        assert gap(found[0].float(), truth) <= SUM_LIMIT + ROUNDING[dtype]
        limit = 0.0 if device.type == "cuda" else SUM_LIMIT  # NumPy's own sums depend on the tile
        assert all(gap(found[0].float(), other.float()) <= limit for other in found)


def check_affine(device: torch.device, channels: int, size: int, batch: int) -> None:
    """Bits of the reference, NaN and all, with and without a sum that is kept."""
    generator, dtype = torch.Generator(device).manual_seed(7), compute_dtype(device)
    shape = batch, size, size, channels
    x, other = (
        torch.randn(shape, generator=generator, device=device, dtype=torch.float32).to(dtype)
        for _ in range(2)
    )
    x.view(-1)[5::1009], other.view(-1)[3::2003] = math.nan, math.inf
    bias, scale, shift = torch.randn(3, channels, generator=generator, device=device)
    for options in ({"other": other, "bias": bias, "keep": True}, {"relu": False}):
        poison(device, x.numel())
        found, truth = (
            ops.affine(x, scale, shift, backend=backend, **options)
            for backend in ("triton", "reference")
        )
        for made, wanted in zip(found, truth, strict=True):
            assert (made is None) == (wanted is None)
            assert made is None or wanted is None or same(made, wanted)


def check_vote(device: torch.device, rows: int, classes: int) -> None:
    """Counts of logits with many ties and non-finite rows are exact."""
    generator = torch.Generator(device).manual_seed(3)
    logits = torch.randint(-2, 3, (rows, classes), generator=generator, device=device).float()
    logits[1::11, 0], logits[3::13, classes - 1] = math.nan, math.inf
    segment = (torch.arange(rows, device=device) * 7 // rows - 1).int()  # -1: padding
    got, truth = (torch.zeros(6, classes + 1, dtype=torch.int64, device=device) for _ in range(2))
    ops.vote_logits(logits, segment, got, backend="triton")
    reference.vote(logits, segment, truth)
    assert torch.equal(got, truth)


def random_resnet(blocks: int, dtype: torch.dtype, device: torch.device) -> FoldedResNet:
    """A folded CIFAR ResNet of depth 6 blocks + 2 whose activations neither grow nor vanish."""
    generator = torch.Generator().manual_seed(4)

    def normal(scale: float, *sizes: int) -> torch.Tensor:
        return scale * torch.randn(sizes, generator=generator)

    def kernel(cin: int, cout: int, scale: float) -> torch.Tensor:
        return normal(scale / math.sqrt(9 * cin), 3, 3, cin, cout).to(device, dtype)

    layers = []
    for cin, cout in ((16, 16), (16, 32), (32, 64)):
        for i in range(blocks):
            first, new = (cin if i == 0 else cout), i == 0 and cin != cout
            b1, b2 = (normal(0.1, cout).to(device) for _ in range(2))
            projection = normal(1 / math.sqrt(cin), cin, cout).to(device, dtype) if new else None
            w2 = kernel(cout, cout, 0.5 / math.sqrt(blocks))
            layers.append(
                FoldedBlock(kernel(first, cout, 1.4), b1, w2, b2, projection, 2 if new else 1)
            )
    mean, std = torch.tensor([0.49, 0.48, 0.45]), torch.tensor([0.25, 0.24, 0.26])
    parts = (normal(0.3, 3, 3, 3, 16), normal(0.1, 16), mean, std)
    stem = fold_stem(*(p.to(device) for p in parts), dtype=dtype)
    head = normal(1.0, 64, 10).to(device, dtype)
    return FoldedResNet(stem, tuple(layers), head, normal(0.1, 10).to(device))


def check_resnet(device: torch.device, blocks: int, size: int, batch: int) -> None:
    """Logits against float32 torch; votes sum to the rows and repeat exactly."""
    images = torch.rand(2, size, size, 3, generator=torch.Generator().manual_seed(5)).to(device)
    rows, key, dtype = (
        rows_of(batch, 2, 0.25, device),
        seed_key(SEED, device),
        compute_dtype(device),
    )
    scores = []
    for kind, backend in ((dtype, "triton"), (torch.float32, "reference")):
        net = random_resnet(blocks, kind, device)
        x = resnet.resnet_features(images, rows, key, net, backend=backend)
        scores.append(reference.logits(x, net.fc_weight, net.fc_bias))
    assert gap(*scores) <= SUM_LIMIT + 4 * math.sqrt(6 * blocks + 2) * ROUNDING[dtype]
    net = random_resnet(blocks, dtype, device)
    counts = torch.zeros(2, 2, 11, dtype=torch.int64, device=device)
    for run in counts:
        resnet.resnet_votes(images, rows, key, net, run, backend="triton")
    assert torch.equal(counts[0], counts[1])
    assert int(counts[0].sum()) == batch


def check_cudnn(device: torch.device, cin: int, cout: int, size: int, batch: int) -> None:
    """cuDNN's fused convolutions against torch in float32, with NaN in the memory they write.

    PyTorch hands cuDNN the unwritten output as a summand of weight 0 where there is no shortcut.
    """
    normal, dtype = normals(device, 5), compute_dtype(device)
    stride = 1 if cin == cout else 2
    x = normal(batch, size, size, cin).to(dtype)
    weight = (normal(3, 3, cin, cout) / math.sqrt(9 * cin)).to(dtype)
    bias = normal(cout).to(dtype)
    z = normal(batch, size // stride, size // stride, cout).to(dtype)
    kernel = weight.permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)
    image, geometry = x.permute(0, 3, 1, 2), ([stride, stride], [1, 1], [1, 1], 1)
    aten = torch.ops.aten
    calls: list[tuple[torch.Tensor | None, Callable[[], torch.Tensor]]] = [
        (None, lambda: aten.cudnn_convolution_relu(image, kernel, bias, *geometry)),
        (
            z,
            lambda: aten.cudnn_convolution_add_relu(
                image, kernel, z.permute(0, 3, 1, 2), 1.0, bias, *geometry
            ),
        ),
    ]
    for other, call in calls:
        outs = []
        for _ in range(2):
            poison(device, z.numel())
            with reproducible():
                outs.append(call().permute(0, 2, 3, 1))
        assert torch.equal(outs[0], outs[1])
        truth = reference.conv(x, weight, bias, stride=stride, residual=other)
        assert gap(outs[0].float(), truth) <= SUM_LIMIT + 2 * ROUNDING[dtype]


def check_stage(device: torch.device, stage: Stage, rows: int) -> None:
    """The on-chip residual stage against its convolutions one by one, rounded after each."""
    if stage.shared > shared_memory(device):
        pytest.skip("too little shared memory, or no CuPy")
    generator, c = torch.Generator(device).manual_seed(stage.channels), stage.channels
    x = torch.randn((rows, stage.size, stage.size, c), generator=generator, device=device)
    weight = torch.randn((4, 3, 3, c, c), generator=generator, device=device) / (3 * math.sqrt(c))
    bias = torch.randn((4, c), generator=generator, device=device)
    x, weight = x.bfloat16(), weight.bfloat16()
    truth = x
    for i in (0, 2):
        inner = reference.conv(truth, weight[i], bias[i]).bfloat16()
        truth = reference.conv(inner, weight[i + 1], bias[i + 1], residual=truth).bfloat16()
    outs = []
    for _ in range(2):
        poison(device, x.numel())
        outs.append(residual_stage(x, pack_weights(weight), bias, stage))
    assert torch.equal(outs[0], outs[1])
    # a value next to a rounding boundary may move by one unit in each convolution
    assert gap(outs[0].float(), truth.float()) <= SUM_LIMIT + 4 * ROUNDING[torch.bfloat16]


def check_chain(device: torch.device, blocks: int, batch: int) -> None:
    """A ResNet with its stages on chip: the activations of the Triton path, bit for bit."""
    images = torch.rand(2, 32, 32, 3, generator=torch.Generator().manual_seed(5)).to(device)
    rows, key = rows_of(batch, 2, 0.25, device), seed_key(SEED, device)
    plain = random_resnet(blocks, torch.bfloat16, device)
    chip = on_chip(plain, 32, shared_memory(device))
    assert chip is not None, "too little shared memory, or no CuPy"
    found, wanted = (resnet.resnet_features(images, rows, key, net) for net in (chip, plain))
    assert torch.equal(found, wanted)
    assert not found.isnan().any()


def check_fused(device: torch.device, blocks: int, batch: int) -> None:
    """A ResNet in three kernels: logits of the Triton path's activations, and their own votes.

    A mean next to a rounding boundary of bf16 may move by one unit.
    """
    images = torch.rand(2, 32, 32, 3, generator=torch.Generator().manual_seed(5)).to(device)
    rows, key = rows_of(batch, 2, 0.25, device), seed_key(SEED, device)
    plain = random_resnet(blocks, torch.bfloat16, device)
    chip = on_chip(plain, 32, shared_memory(device))
    assert chip is not None, "too little shared memory, or no CuPy"
    whole = FusedResNet.fuse(chip)
    assert whole is not None
    counts, votes = (torch.zeros(2, 11, dtype=torch.int64, device=device) for _ in range(2))
    poison(device, batch << 13)
    found = fused_logits(images, rows, key, whole, counts)
    assert torch.equal(found, fused_logits(images, rows, key, whole))
    reference.vote(found, rows.segment, votes)
    assert torch.equal(counts, votes)
    means = resnet.resnet_features(images, rows, key, plain).float().mean((1, 2)).bfloat16()
    truth = means.double() @ plain.fc_weight.double() + plain.fc_bias.double()
    assert gap(found.double(), truth) <= SUM_LIMIT + ROUNDING[torch.bfloat16]


def check_tiled(device: torch.device, shape: StemShape, pool: int, batch: int) -> None:
    """The stem in CUDA C++ against Triton's and PyTorch's pooling: the same noise, float32 sums in
    another order.
    """
    choice = TiledStem.choose(shape, shared_memory(device), pool)
    assert choice is not None, "too little shared memory, or no CuPy"
    generator = torch.Generator(device).manual_seed(1)
    size = (shape.kernel, shape.kernel, shape.channels, shape.outputs)
    weight = torch.randn(size, generator=generator, device=device)
    weight /= math.sqrt(shape.kernel**2 * shape.channels)
    parts = ((shape.outputs, 0.1), (shape.channels, 0.45), (shape.channels, 0.25))
    folded = fold_stem(weight, *(torch.full((n,), v, device=device) for n, v in parts))
    side = (shape.height, shape.width, shape.channels)
    images = torch.rand(2, *side, generator=generator, device=device)
    rows, key, packed = rows_of(batch, 2, 0.5, device), seed_key(SEED, device), pack_stem(folded)
    poison(device, batch * shape.out_height * shape.out_width * shape.outputs // 2)
    found = tiled_stem(images, rows, key, folded, packed, choice)
    assert torch.equal(found, tiled_stem(images, rows, key, folded, packed, choice))
    truth = ops.stem(images, rows, key, folded, stride=shape.stride)
    if pool:
        pooled = functional.max_pool2d(truth.permute(0, 3, 1, 2), pool, 2, pool // 3)
        truth = pooled.permute(0, 2, 3, 1)
    assert gap(found.float(), truth.float()) <= SUM_LIMIT + 2 * ROUNDING[torch.bfloat16]


def check_tiled_conv(
    device: torch.device, size: tuple[int, int, int], adds: bool, batch: int
) -> None:
    """The 3x3 convolution in tiles against torch in float32, at both ends of the batch; its choices
    in bits.
    """
    shared = shared_memory(device)
    choices = TiledConv.candidates(size, shared, adds=adds)
    choices += TiledConv.candidates(size, shared, adds=adds, relu=False)
    assert choices, "too little shared memory, or no CuPy"
    generator, c = torch.Generator(device).manual_seed(7), size[2]
    options: Any = dict(generator=generator, device=device)
    x = torch.randn((batch, *size), dtype=torch.bfloat16, **options)
    weight = (torch.randn((3, 3, c, c), **options) / (3 * math.sqrt(c))).bfloat16()
    bias, residual = torch.randn(c, **options), x.flip(1) if adds else None
    kept: dict[int, torch.Tensor] = {}
    for choice in choices:
        poison(device, x.numel() // 2)
        made = tiled_conv(x, pack_taps(weight, choice), bias, choice, residual=residual)
        for at in (slice(0, 128), slice(-128, None)):
            part = None if residual is None else residual[at]
            truth = reference.conv(x[at], weight, bias, residual=part, relu=bool(choice.relu))
            assert gap(made[at].float(), truth) <= SUM_LIMIT + ROUNDING[torch.bfloat16]
        assert torch.equal(made, kept.setdefault(choice.relu, made))


Check = Callable[..., None]
GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
CONVS = ((16, 16, 32), (16, 32, 32), (32, 32, 16), (32, 64, 16), (64, 64, 8))
"""Inputs, outputs and image side of the 3x3 convolutions of CIFAR ResNets."""

POINTWISE = ((64, 256, 56), (256, 64, 56), (512, 128, 28), (256, 1024, 14), (2048, 512, 7))
"""The same of 1x1 convolutions of ResNet-50."""

AFFINE = ((160, 32, 2048), (640, 8, 2048), (24, 56, 256), (23, 33, 257))
"""Channels, image side and batch of sums and norms."""

SMALL: dict[str, tuple[Check, tuple[Any, ...]]] = {
    "words": (check_words, (4, 8)),
    "noise": (check_noise, ((5, 7, 3), 3)),
    "stem": (check_stem, (StemShape(5, 3, 3, 16, 3, 1), 2)),
    "strided stem": (check_stem, (StemShape(6, 5, 3, 16, 3, 2), 2)),
    "stem of patches": (check_stem, (StemShape(9, 6, 3, 24, 4, 4, 0), 2)),
    "conv": (check_conv, (16, 32, 4, 3)),
    "pointwise": (check_pointwise, (32, 64, 5, 3)),
    "affine": (check_affine, (36, 5, 3)),
    "vote": (check_vote, (83, 10)),
    "resnet": (check_resnet, (1, 4, 3)),
    "cudnn": (check_cudnn, (16, 32, 4, 3)),
    **{f"on-chip {RESIDUAL.name(stage)}": (check_stage, (stage, 4)) for stage in STAGES},
    "on-chip chain": (check_chain, (1, 5)),
    "on-chip fused": (check_fused, (2, 5)),
    "on-chip tiled": (check_tiled, (StemShape(20, 37, 3, 64, 7, 2), 3, 3)),
    "on-chip 3x3": (check_tiled_conv, ((11, 21, 64), True, 3)),
}
REAL: dict[str, tuple[Check, tuple[Any, ...]]] = {
    "words": (check_words, (64, 1024)),
    "noise cifar": (check_noise, ((32, 32, 3), 4096)),
    "noise imagenet": (check_noise, ((224, 224, 3), 256)),
    "stem cifar": (check_stem, (StemShape(32, 32, 3, 16, 3, 1), 4096)),
    "stem imagenet": (check_stem, (StemShape(224, 224, 3, 64, 7, 2), 256)),
    **{f"stem {name}": (check_stem, (shape, 64)) for name, shape in PATCHES.items()},
    "vote cifar": (check_vote, (4096, 10)),
    "vote imagenet": (check_vote, (4096, 1000)),
    **{f"conv {size[0]}-{size[1]}": (check_conv, (*size, 4096)) for size in CONVS},
    **{f"pointwise {s[0]}-{s[1]}": (check_pointwise, (*s, 128)) for s in POINTWISE},
    **{f"affine {s[0]} {s[1]}px": (check_affine, s) for s in AFFINE},
    "resnet 20": (check_resnet, (3, 32, 4096)),
    "resnet 110": (check_resnet, (18, 32, 4096)),
    **{f"cudnn {size[0]}-{size[1]}": (check_cudnn, (*size, 4096)) for size in CONVS},
    **{f"on-chip {RESIDUAL.name(stage)}": (check_stage, (stage, 4097)) for stage in STAGES},
    "on-chip chain 20": (check_chain, (3, 4097)),
    "on-chip chain 110": (check_chain, (18, 4097)),
    "on-chip fused 20": (check_fused, (3, 4097)),
    "on-chip fused 110": (check_fused, (18, 4097)),
    **{f"on-chip tiled {s} pool {pool}": (check_tiled, (s, pool, 257)) for s, pool in SHAPES},
    **{f"on-chip 3x3 {size} {adds}": (check_tiled_conv, (size, adds, 257)) for size, adds in WIDE},
    "on-chip 3x3 beyond 32 bits": (check_tiled_conv, ((56, 56, 64), False, 10_707)),
}
SLOW = ("stem", "strided stem", "resnet")
"""In the interpreter."""


def marks(name: str) -> list[Any]:
    slow = [pytest.mark.slow] if name in SLOW and not torch.cuda.is_available() else []
    return GPU if name.startswith(("cudnn", "on-chip")) else slow


CASES = [pytest.param(*case, id=f"small {n}", marks=marks(n)) for n, case in SMALL.items()]
CASES += [pytest.param(*case, id=f"real {n}", marks=GPU) for n, case in REAL.items()]


@pytest.mark.parametrize(("check", "sizes"), CASES)
def test_kernel(check: Check, sizes: tuple[Any, ...], device: torch.device) -> None:
    check(device, *sizes)


@pytest.mark.skipif(torch.cuda.is_available(), reason="in the interpreter")
@pytest.mark.parametrize(
    ("name", "kernel"),
    [
        ("noise", "noise"),
        ("noise", "integer_noise"),
        ("conv", "conv"),
        pytest.param("stem", "stem", marks=pytest.mark.slow),
        ("affine", "affine"),
        ("vote", "vote_logits"),
        pytest.param("resnet", "resnet_features", marks=pytest.mark.slow),
    ],
)
def test_a_faulty_kernel_is_noticed(
    name: str, kernel: str, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner: Any = resnet if name == "resnet" else ops
    true = getattr(owner, kernel)

    def faulty(*args: Any, **options: Any) -> Any:
        out = true(*args, **options)
        if options.get("backend") == "reference":
            return out
        if out is None:
            args[2][0, 0] += 1  # one vote too many
        else:  # one value of the last row
            (out[-1] if isinstance(out, tuple) else out).view(-1)[-1] += 0.1
        return out

    monkeypatch.setattr(owner, kernel, faulty)
    check, sizes = SMALL[name]
    with pytest.raises(AssertionError):
        check(device, *sizes)
