"""The compiled loops against the specification in NumPy."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from dualsmooth.engine.noise.integer import integer_noise, thresholds, unit_of_grid
from dualsmooth.engine.noise.stream import counter_word3, philox4x32, standard_normal
from dualsmooth.kernels.cpu.noise_votes import (
    SEGMENT,
    VERSIONS,
    NoisyRows,
    available,
    count_votes,
)
from dualsmooth.kernels.errors import KernelArgumentError
from dualsmooth.kernels.thresholds import Thresholds

pytestmark = pytest.mark.skipif(not available(), reason="the compiled loops were not built")

SEED = 9 << 32 | 12345
SHAPES = [(8, 8, 1), (9, 7, 3), (5, 3, 2), (4, 4, 4), (1, 1, 1), (32, 32, 3)]
PARTS = [(1, 40, 3, 0x12, 0.5), (0, 1, 2**32 - 1, 0, 1.5), (1, 23, 0, 0x12, 0.25)]
"""Image, count, first sample, phase byte and sigma of each segment."""


def table(parts: list[tuple[int, int, int, int, float]] = PARTS) -> NDArray[Any]:
    segments = np.zeros(len(parts), SEGMENT)
    segments["end"] = np.cumsum([count for _, count, *_ in parts])
    for field, index in (("image", 0), ("first", 2), ("sigma", 4)):
        segments[field] = [part[index] for part in parts]
    segments["image_id"] = [1000 + part[0] for part in parts]
    segments["word3"] = [counter_word3(part[3], 6) for part in parts]
    return segments


def images(shape: tuple[int, int, int]) -> NDArray[np.float32]:
    return np.random.default_rng(3).random((2, *shape)).astype(np.float32)


def expected(shape: tuple[int, int, int]) -> NDArray[np.float32]:
    rows = []
    for image, count, first, phase, sigma in PARTS:
        samples = np.arange(first, first + count)
        noise = standard_normal(SEED, 1000 + image, phase, samples, shape, attempt=6)
        rows.append(images(shape)[image] + noise * np.float32(sigma))
    return np.concatenate(rows)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("version", VERSIONS)
def test_rows_are_the_specification(
    shape: tuple[int, int, int], version: str, use: Callable[[str], None]
) -> None:
    """The library's logarithm and ours may round one value in 10^7 differently."""
    use(version)
    rows = np.full((64, *shape), np.nan, np.float32)
    NoisyRows(table(), images(shape), SEED, version=version).write(0, torch.from_numpy(rows))
    want = expected(shape)
    assert (rows != want).mean() <= 1e-5
    np.testing.assert_allclose(rows, want, rtol=0.0, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_all_instruction_sets_give_the_same_bits(
    shape: tuple[int, int, int], dtype: torch.dtype, use: Callable[[str], None]
) -> None:
    results = []
    for version in VERSIONS:
        use(version)
        out = torch.full((64, *shape), float("nan"), dtype=dtype)
        NoisyRows(table(), images(shape), SEED, version=version).write(0, out)
        results.append(out)
    assert all(torch.equal(result, results[0]) for result in results)


def test_bfloat16_is_the_float32_row_rounded_to_even() -> None:
    shape = (9, 7, 3)
    exact, rounded = torch.empty(64, *shape), torch.empty(64, *shape, dtype=torch.bfloat16)
    NoisyRows(table(), images(shape), SEED).write(0, exact)
    NoisyRows(table(), images(shape), SEED).write(0, rounded)
    assert torch.equal(rounded, exact.bfloat16())


def test_any_split_gives_the_same_rows_and_touches_no_others() -> None:
    shape = (5, 3, 2)
    whole = torch.empty(64, *shape)
    NoisyRows(table(), images(shape), SEED).write(0, whole)
    part = torch.full((9, *shape), float("nan"))
    NoisyRows(table(), images(shape), SEED).write(38, part, 7)
    assert torch.equal(part[:7], whole[38:45])
    assert bool(part[7:].isnan().all())


def test_normals_match_in_the_tails_and_at_the_ends_of_the_uniform() -> None:
    """A million values, some beyond 4.5, all within 2e-6 of the specification."""
    out = torch.empty(5000, 200, 1, 1)
    segments = table([(0, 5000, 0, 1, 1.0)])
    NoisyRows(segments, np.zeros((1, 200, 1, 1), np.float32), SEED).write(0, out)
    want = standard_normal(SEED, 1000, 1, np.arange(5000), (200, 1, 1), attempt=6)
    assert np.abs(want).max() > 4.5
    assert np.abs(out.numpy() - want).max() <= 2e-6
    assert (out.numpy() != want).mean() <= 1e-5


def test_votes_are_counted_per_segment() -> None:
    logits = np.random.default_rng(0).standard_normal((64, 5)).astype(np.float32)
    logits[3, 2], logits[40, 4], logits[41, 0] = np.nan, np.inf, -np.inf
    logits[10] = logits[45] = 0.0
    counts = np.ones((3, 6), np.int64)
    count_votes(torch.from_numpy(logits[:50]), table(), 0, counts)
    count_votes(torch.from_numpy(logits[50:]), table(), 50, counts)
    votes = np.where(np.isfinite(logits).all(1), logits.argmax(1), 5)
    want = [np.bincount(part, minlength=6) + 1 for part in np.split(votes, [40, 41])]
    assert_array_equal(counts, want)
    assert votes[10] == votes[45] == 0


def test_bad_arguments_are_named() -> None:
    shape = (5, 3, 2)
    out, stack = torch.empty(64, *shape), images(shape)
    with pytest.raises(KernelArgumentError, match=r"^rows must lie in the segments"):
        NoisyRows(table(), stack, SEED).write(1, out)
    with pytest.raises(KernelArgumentError, match=r"^images must be contiguous float32"):
        NoisyRows(table(), stack.astype(np.float64), SEED).write(0, out)
    with pytest.raises(KernelArgumentError, match=r"^out must be float32 or bfloat16"):
        NoisyRows(table(), stack, SEED).write(0, out.half())
    with pytest.raises(KernelArgumentError, match=r"^out must be contiguous"):
        NoisyRows(table(), stack, SEED).write(0, torch.empty(64, 2, 5, 3).permute(0, 2, 3, 1))
    with pytest.raises(KernelArgumentError, match=r"^segments must name images below 1"):
        NoisyRows(table(), stack[:1], SEED).write(0, out)
    with pytest.raises(KernelArgumentError, match=r"^seed must be in \[0, 2\^64\)"):
        NoisyRows(table(), stack, 1 << 64).write(0, out)
    with pytest.raises(KernelArgumentError, match=r"^version must be one of"):
        NoisyRows(table(), stack, SEED, version="sse9").write(0, out)
    with pytest.raises(KernelArgumentError, match=r"^counts must be int64"):
        count_votes(torch.zeros(4, 5), table(), 0, np.zeros((3, 5), np.int64))
    with pytest.raises(KernelArgumentError, match=r"^logits must be contiguous float32"):
        count_votes(torch.zeros(4, 5).bfloat16(), table(), 0, np.zeros((3, 6), np.int64))


def integer_rows(tables: Thresholds, version: str, dtype: torch.dtype) -> torch.Tensor:
    segments = table()
    segments["level"] = [1, 0, 1]
    grid = np.random.default_rng(4).integers(0, 256, (2, 9, 7, 3)).astype(np.float32)
    out = torch.full((64, 9, 7, 3), float("nan"), dtype=dtype)
    NoisyRows(segments, grid, SEED, version=version, tables=tables).write(0, out)
    return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_integer_rows_are_the_specification_on_every_instruction_set(
    dtype: torch.dtype, use: Callable[[str], None]
) -> None:
    """Tolerance zero, for tables of different lengths side by side."""
    grid = np.random.default_rng(4).integers(0, 256, (2, 9, 7, 3)).astype(np.int32)
    want = []
    for (image, count, first, phase, _), sigma in zip(PARTS, (0.3, 0.02, 0.3), strict=True):
        samples = np.arange(first, first + count)
        noise = integer_noise(SEED, 1000 + image, phase, samples, (9, 7, 3), sigma, attempt=6)
        want.append(unit_of_grid(grid[image] + noise))
    expected = torch.from_numpy(np.concatenate(want)).to(dtype)
    tables = Thresholds.pack([thresholds(0.02), thresholds(0.3)])
    for version in VERSIONS:
        use(version)
        assert torch.equal(integer_rows(tables, version, dtype), expected)


def test_low_word_decides_on_equality_of_the_high_word(use: Callable[[str], None]) -> None:
    """Tables made from the word itself: a threshold equal to it counts, one above it does not."""
    key, word3 = [12345, 9], counter_word3(0x12, 6)
    high, low = (int(philox4x32([0, 3, 1001, w], key)[0]) for w in (word3, word3 | 1 << 15))
    word = high << 32 | low
    for limits, expected in (
        ([word, word + 1], 0),
        ([word - 1, word], 1),
        ([word + 1, word + 2], -1),
        ([high << 32, (high + 1) << 32], 0),
        ([0, 0, 0, word - 1, word, word + 1], 2),
    ):
        tables = Thresholds.pack([np.array(limits, np.uint64)])
        out = torch.zeros(1, 1, 1, 1)
        for version in VERSIONS:
            use(version)
            NoisyRows(
                table(), np.zeros((2, 1, 1, 1), np.float32), SEED, version=version, tables=tables
            ).write(0, out)
            assert round(255 * float(out)) == expected


def test_bad_tables_are_named() -> None:
    good = np.array([5, 6], np.uint64)
    cases: list[list[Any]] = [
        [],
        [good[:1]],
        [good.astype(np.int64)],
        [good[::-1].copy()],
        [good[:0]],
    ]
    for bad in cases:
        with pytest.raises(KernelArgumentError, match=r"^tables must"):
            Thresholds.pack(bad)
    segments, out = table(), torch.zeros(1, 1, 1, 1)
    packed = Thresholds.pack([good])
    narrow = Thresholds(packed.limits[:, :2].contiguous(), packed.count, packed.lowest)
    with pytest.raises(KernelArgumentError, match=r"^tables must be packed for the CPU"):
        NoisyRows(segments, np.zeros((2, 1, 1, 1), np.float32), SEED, tables=narrow).write(0, out)
    segments["level"] = [0, 1, 0]
    with pytest.raises(KernelArgumentError, match=r"^segments must name levels below 1"):
        NoisyRows(segments, np.zeros((2, 1, 1, 1), np.float32), SEED, tables=packed).write(0, out)
