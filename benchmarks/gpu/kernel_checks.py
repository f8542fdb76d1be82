"""Correctness of every kernel on one device, as functions of its sizes; see `gpu_kernels.py`.

Each check returns figures and raises `CheckFailed` when a stated limit is broken. With small sizes
and a CPU device they run in the Triton interpreter.
"""

import math
from dataclasses import fields

import torch
from torch.nn import functional

from dualsmooth.kernels import ops, reference
from dualsmooth.kernels.folding import fold_stem
from dualsmooth.kernels.launch import StemShape, stem_candidates
from dualsmooth.kernels.resnet import FoldedBlock, FoldedResNet, resnet_features, resnet_votes
from dualsmooth.kernels.rows import Rows, seed_key
from dualsmooth.kernels.thresholds import threshold_tables

Figures = dict[str, float]
SEED = 2026 | 1 << 40
NOISE_LIMIT = 2e-6
ROUNDING = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11, torch.float32: 2.0**-24}
SUM_LIMIT = 2e-5
"""Of the largest output: float32 sums of a few hundred terms in any order."""


class CheckFailed(AssertionError):
    """A kernel is wrong."""


def require(what: str, value: float, limit: float) -> float:
    """The value, unless it is above its limit or NaN."""
    if not value <= limit:
        raise CheckFailed(f"{what}: {value:.3g} is not <= {limit:.3g}")
    return value


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
    """Some of the rows."""
    return Rows(*(getattr(rows, f.name)[start:stop].contiguous() for f in fields(rows)))


def exact_noise(rows: Rows, key: torch.Tensor, shape: tuple[int, int, int]) -> torch.Tensor:
    """Specified normals in float64, [R, H, W, C]."""
    words = reference.row_words(rows, key, reference.blocks_of(shape))
    u = (words.float() * 2.0**-32 + 2.0**-33).double()
    radius, angle = torch.sqrt(-2 * torch.log(u[..., 0::2])), 2 * math.pi * u[..., 1::2]
    pairs = torch.stack((radius * torch.cos(angle), radius * torch.sin(angle)), -1)
    return reference.to_image(pairs.flatten(-2), shape)


def check_noise(
    device: torch.device, shape: tuple[int, int, int], batch: int, step: int = 64
) -> Figures:
    """Float noise within 2e-6 of the specification; integer noise, so every word, exact."""
    rows, key = rows_of(batch, 1, 1.0, device), seed_key(SEED, device)
    black = torch.zeros(1, *shape, device=device)
    z = ops.noise(black, rows, key, backend="triton")
    pixels = torch.full((1, *shape), 100, dtype=torch.uint8, device=device)
    level = torch.zeros(batch, dtype=torch.int32, device=device)
    tables = threshold_tables([0.25], device=device)
    grid = ops.integer_noise(pixels, rows, key, level, tables, backend="triton")
    worst, wrong = 0.0, 0
    for start in range(0, batch, step):
        some = part(rows, start, start + step)
        gap = (z[start : start + step].double() - exact_noise(some, key, shape)).abs().max()
        worst = max(worst, require("noise", float(gap), NOISE_LIMIT))
        truth = reference.integer_noise(pixels, some, key, level[start : start + step], tables)
        wrong += int((grid[start : start + step] != truth).sum())
    require("integer noise values that differ", wrong, 0)
    return {"values": float(z.numel()), "worst": worst}


def check_stem(
    device: torch.device, shape: StemShape, batch: int, dtype: torch.dtype, step: int = 32
) -> Figures:
    """Every design against a float64 convolution of the specified noise.

    Limit, as a share of the largest output: 2e-5 for float32 sums and noise, and four roundings of
    the compute dtype (operands, result, and what they add up to).
    """
    generator = torch.Generator(device).manual_seed(1)
    size = (shape.kernel, shape.kernel, shape.channels, shape.outputs)
    terms = shape.kernel**2 * shape.channels
    weight = torch.randn(size, generator=generator, device=device) / math.sqrt(terms)
    bias, mean, std = (
        torch.full((n,), v, device=device)
        for n, v in ((shape.outputs, 0.1), (shape.channels, 0.45), (shape.channels, 0.25))
    )
    folded = fold_stem(weight, bias, mean, std, dtype=dtype)
    side = (shape.height, shape.width, shape.channels)
    images = torch.rand(2, *side, generator=generator, device=device)
    rows, key = rows_of(batch, 2, 0.5, device), seed_key(SEED, device)
    found: Figures = {}
    for launch in stem_candidates(shape):
        y = ops.stem(
            images, rows, key, folded, stride=shape.stride, relu=False, backend="triton",
            launch=launch,
        )  # fmt: skip
        worst = 0.0
        for start in range(0, batch, step):
            some = part(rows, start, start + step)
            noisy = images[some.slot.long()].double() + 0.5 * exact_noise(some, key, side)
            x = ((noisy - mean) / std).permute(0, 3, 1, 2)
            w = weight.double().permute(3, 2, 0, 1)
            truth = functional.conv2d(x, w, bias.double(), shape.stride, shape.kernel // 2)
            truth = truth.permute(0, 2, 3, 1)
            gap = (y[start : start + step].double() - truth).abs().max() / truth.abs().max()
            worst = max(worst, float(gap))
        limit = SUM_LIMIT + 4 * ROUNDING[dtype]
        found[launch.design] = require(f"stem {launch.design}", worst, limit)
    return found


def check_conv(
    device: torch.device, cin: int, cout: int, size: int, batch: int, dtype: torch.dtype
) -> Figures:
    """Plain and residual (or strided projection) form against torch in float32 (no TF32)."""
    generator = torch.Generator(device).manual_seed(2)

    def normal(*sizes: int) -> torch.Tensor:
        return torch.randn(sizes, generator=generator, device=device)

    stride = 1 if cin == cout else 2
    x = normal(batch, size, size, cin).to(dtype)
    first = (normal(3, 3, cin, cout) / math.sqrt(9 * cin)).to(dtype)
    second = (normal(3, 3, cout, cout) / math.sqrt(9 * cout)).to(dtype)
    bias, projection = normal(cout), (normal(cin, cout) / math.sqrt(cin)).to(dtype)
    y = ops.conv(x, first, bias, stride=stride, backend="triton")
    extra = {"residual": x} if stride == 1 else {"shortcut": (x, projection)}
    z = ops.conv(y, second, bias, backend="triton", **extra)
    found: Figures = {}
    for name, got, truth in (
        ("first", y, reference.conv(x, first, bias, stride=stride)),
        ("second", z, reference.conv(y, second, bias, **extra)),
    ):
        gap = float((got.float() - truth).abs().max() / truth.abs().max())
        found[name] = require(f"conv {cin}-{cout} {name}", gap, SUM_LIMIT + ROUNDING[dtype])
    return found


def check_vote(device: torch.device, rows: int, classes: int) -> Figures:
    """Counts of logits with many ties and non-finite rows are exact."""
    generator = torch.Generator(device).manual_seed(3)
    logits = torch.randint(-2, 3, (rows, classes), generator=generator, device=device).float()
    logits[1::11, 0], logits[3::13, classes - 1] = math.nan, math.inf
    segment = (torch.arange(rows, device=device) * 7 // rows - 1).int()  # -1: padding
    got, truth = (torch.zeros(6, classes + 1, dtype=torch.int64, device=device) for _ in range(2))
    ops.vote_logits(logits, segment, got, backend="triton")
    reference.vote(logits, segment, truth)
    require("votes that differ", int((got - truth).abs().sum()), 0)
    return {"votes": float(truth.sum()), "invalid": float(truth[:, -1].sum())}


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


def check_resnet(
    device: torch.device, blocks: int, size: int, batch: int, dtype: torch.dtype
) -> Figures:
    """Logits against float32 torch; votes sum to the rows and repeat exactly."""
    images = torch.rand(2, size, size, 3, generator=torch.Generator().manual_seed(5)).to(device)
    rows, key = rows_of(batch, 2, 0.25, device), seed_key(SEED, device)
    scores = []
    for kind, backend in ((dtype, "triton"), (torch.float32, "reference")):
        net = random_resnet(blocks, kind, device)
        x = resnet_features(images, rows, key, net, backend=backend)
        scores.append(reference.logits(x, net.fc_weight, net.fc_bias))
    ours, truth = scores
    gap = float((ours - truth).abs().max() / truth.abs().max())
    limit = SUM_LIMIT + 4 * math.sqrt(6 * blocks + 2) * ROUNDING[dtype]
    require(f"ResNet-{6 * blocks + 2} logits", gap, limit)
    net = random_resnet(blocks, dtype, device)
    counts = torch.zeros(2, 2, 11, dtype=torch.int64, device=device)
    for run in counts:
        resnet_votes(images, rows, key, net, run, backend="triton")
    require("votes that a rerun changes", int((counts[0] - counts[1]).abs().sum()), 0)
    require("votes missing", abs(int(counts[0].sum()) - batch), 0)
    same = float((ours.argmax(1) == truth.argmax(1)).float().mean())
    return {"logits": gap, "agreement": same}
