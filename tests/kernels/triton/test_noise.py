"""Noise kernels against the specification: layouts, rows, dtypes, the integer mode."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from dualsmooth.engine.noise.integer import thresholds
from dualsmooth.engine.noise.stream import counter_word3, standard_normal
from dualsmooth.kernels import ops
from dualsmooth.kernels.errors import KernelArgumentError
from dualsmooth.kernels.launch import NoiseLaunch
from dualsmooth.kernels.rows import Rows, seed_key
from dualsmooth.kernels.thresholds import Thresholds

SEED = (7 << 61) | 99
SHAPES = {
    "digits": (8, 8, 1),
    "odd gray": (5, 7, 1),
    "odd RGB": (9, 7, 3),
    "odd RGBA": (3, 5, 4),
    "two channels": (5, 5, 2),
    "one value": (1, 1, 1),
}
SIGMAS = [0.0, 0.25, 0.5, 1.0, 0.12]
STREAMS = [(2, 0), (3, 0), (3 + 16, 0), (1, 65535), (0, 1)]
SAMPLES = [0, 1, 4_000_000_000, (1 << 32) - 1, 7]
IMAGES = [0, (1 << 32) - 1, 5, 5, 1 << 31]


def packed(device: torch.device) -> Rows:
    """Five rows of different slot, sigma, stream, image and sample."""
    return Rows.pack(
        slot=[0, 1, 1, 0, 1],
        sigma=SIGMAS,
        stream=[counter_word3(phase, attempt) for phase, attempt in STREAMS],
        image=IMAGES,
        sample=SAMPLES,
        segment=[0] * 5,
        device=device,
    )


def specified(shape: tuple[int, int, int]) -> torch.Tensor:
    noise = [
        standard_normal(SEED, image, phase, [sample], shape, attempt=attempt)[0]
        for image, (phase, attempt), sample in zip(IMAGES, STREAMS, SAMPLES, strict=True)
    ]
    return torch.from_numpy(np.stack(noise))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("backend", ["triton", "reference"])
def test_noise_is_the_specification(
    shape: tuple[int, int, int], backend: str, device: torch.device
) -> None:
    images, rows = torch.rand(2, *shape, device=device), packed(device)
    y = ops.noise(images, rows, seed_key(SEED, device), backend=backend).cpu()
    sigma = torch.tensor(SIGMAS)[:, None, None, None]
    expected = images.cpu()[[0, 1, 1, 0, 1]] + sigma * specified(shape)
    torch.testing.assert_close(y, expected, rtol=0, atol=2.5e-6)
    assert torch.equal(y[0], images[0].cpu())


def test_launch_choice_does_not_change_a_bit(device: torch.device) -> None:
    images, rows = torch.rand(2, 9, 15, 3, device=device), packed(device)
    key = seed_key(SEED, device)
    small, *others = (
        ops.noise(images, rows, key, backend="triton", launch=launch)
        for launch in (NoiseLaunch(64, 1), NoiseLaunch(128, 4), NoiseLaunch(256, 4))
    )
    assert all(torch.equal(small, other) for other in others)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
def test_padded_half_precision(dtype: torch.dtype, device: torch.device) -> None:
    images, rows = torch.rand(2, 9, 7, 3, device=device), packed(device)
    key = seed_key(SEED, device)
    wide = ops.noise(images, rows, key, backend="triton")
    narrow = ops.noise(images, rows, key, dtype=dtype, padded=True, backend="triton")
    assert narrow.shape == (5, 9, 7, 4)
    assert torch.equal(narrow[..., 3], torch.zeros(5, 9, 7, dtype=dtype, device=device))
    if dtype == torch.bfloat16 and device.type == "cpu":  # the interpreter truncates to bf16
        torch.testing.assert_close(narrow[..., :3].float(), wide, rtol=2.0**-7, atol=0)
    else:
        assert torch.equal(narrow[..., :3], wide.to(dtype))


def test_rows_do_not_depend_on_their_batch(device: torch.device) -> None:
    images, rows, key = torch.rand(2, 5, 5, 3, device=device), packed(device), seed_key(3, device)
    together = ops.noise(images, rows, key, backend="triton")
    for i in range(len(rows)):
        one = Rows(*(getattr(rows, n)[i : i + 1].contiguous() for n in Rows.__slots__))
        assert torch.equal(ops.noise(images, one, key, backend="triton"), together[i : i + 1])


def grid_rows(samples: int, device: torch.device) -> Rows:
    return Rows.pack(
        slot=[0] * samples,
        sigma=[0.0] * samples,
        stream=[counter_word3(3)] * samples,
        image=[5] * samples,
        sample=range(samples),
        segment=[0] * samples,
        device=device,
    )


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_integer_noise_is_exact(shape: tuple[int, int, int], device: torch.device) -> None:
    images = torch.randint(0, 256, (2, *shape), dtype=torch.uint8, device=device)
    rows, key = packed(device), seed_key(SEED, device)
    tables = Thresholds.pack([thresholds(0.05), thresholds(0.12)], device)
    level = torch.tensor([0, 1, 1, 0, 0], dtype=torch.int32, device=device)
    kernel, truth = (
        ops.integer_noise(images, rows, key, level, tables, backend=backend).cpu()
        for backend in ("triton", "reference")
    )
    assert torch.equal(kernel, truth)
    steps = kernel * 255 - images.cpu()[[0, 1, 1, 0, 1]]
    assert (steps - steps.round()).abs().max() < 1e-3


def test_integer_noise_does_not_depend_on_the_image(device: torch.device) -> None:
    rows, key = grid_rows(3, device), seed_key(1, device)
    tables = Thresholds.pack([thresholds(0.1)], device)
    level = torch.zeros(3, dtype=torch.int32, device=device)
    black = torch.zeros(1, 6, 5, 3, dtype=torch.uint8, device=device)
    white = torch.full_like(black, 255)
    a, b = (
        (255 * ops.integer_noise(x, rows, key, level, tables, backend="triton")).round()
        for x in (black, white)
    )
    assert torch.equal(b - a, torch.full_like(a, 255.0))


def crafted(limits: list[int], device: torch.device) -> Thresholds:
    signed = [v - (1 << 64) if v >> 63 else v for v in limits]
    return Thresholds(
        limits=torch.tensor([signed], dtype=torch.int64, device=device),
        count=torch.tensor([len(limits)], dtype=torch.int32, device=device),
        lowest=torch.tensor([0], dtype=torch.int32, device=device),
    )


def test_low_word_decides_on_equality_of_the_high_word(device: torch.device) -> None:
    """A threshold equal to U counts, one above it does not; the low half has its own counter."""
    from dualsmooth.engine.noise.stream import philox4x32

    key = seed_key(1, device)
    high = int(philox4x32([0, 0, 5, counter_word3(3)], [1, 0])[0])
    low = int(philox4x32([0, 0, 5, counter_word3(3) | 1 << 15], [1, 0])[0])
    word = high << 32 | low
    black = torch.zeros(1, 1, 1, 1, dtype=torch.uint8, device=device)
    level = torch.zeros(1, dtype=torch.int32, device=device)
    for limits, expected in (
        ([word], 1),
        ([word + 1], 0),
        ([word - 1, word, word + 1], 2),
        ([high << 32, (high + 1) << 32], 1),
    ):
        for backend in ("triton", "reference"):
            tables = crafted(limits, device)
            y = ops.integer_noise(black, grid_rows(1, device), key, level, tables, backend=backend)
            assert round(255 * float(y)) == expected


def test_thresholds_give_the_right_variance() -> None:
    """Sheppard: the variance of the rounded noise is (255 sigma)^2 + 1/12 for sigma of a grid."""
    table = thresholds(0.1).tolist()
    reach, top = len(table) // 2, 1 << 64
    edges = [0, *table, top]
    variance = sum(
        Fraction(edges[k + 1] - edges[k], top) * (k - reach) ** 2 for k in range(len(edges) - 1)
    )
    assert math.isclose(float(variance), 25.5**2 + 1 / 12, rel_tol=1e-9)


@pytest.mark.parametrize(
    ("argument", "change"),
    [
        ("images", dict(images=torch.rand(2, 4, 4))),
        ("images", dict(images=torch.rand(2, 4, 4, 1).double())),
        ("images", dict(images=torch.rand(2, 3, 4, 4).permute(0, 2, 3, 1))),
        ("key", dict(key=torch.zeros(2))),
        ("rows.slot", dict(images=torch.rand(1, 4, 4, 3))),
        ("dtype", dict(dtype=torch.float64)),
        ("padded", dict(images=torch.rand(2, 4, 4, 1), padded=True)),
        ("backend", dict(backend="cuda")),
    ],
)
def test_bad_arguments_are_named(argument: str, change: dict[str, object]) -> None:
    call: dict[str, object] = dict(
        images=torch.rand(2, 4, 4, 3), rows=packed(torch.device("cpu")), key=seed_key(1)
    )
    with pytest.raises(KernelArgumentError, match=f"^{argument} "):
        ops.noise(**(call | change))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("argument", "change"),
    [
        ("stream", dict(stream=[1 << 32])),
        ("image", dict(image=[-1])),
        ("sigma", dict(sigma=[math.nan])),
        ("sigma", dict(sigma=[-0.5])),
        ("rows.sigma", dict(sigma=[1.0, 1.0])),
    ],
)
def test_bad_rows_are_named(argument: str, change: dict[str, object]) -> None:
    call: dict[str, object] = dict(
        slot=[0], sigma=[1.0], stream=[0], image=[0], sample=[0], segment=[0]
    )
    with pytest.raises(KernelArgumentError, match=f"^{argument} "):
        Rows.pack(**(call | change))  # type: ignore[arg-type]
