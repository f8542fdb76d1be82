import json
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from scipy import stats

from dualsmooth.engine.bounds import clopper_pearson_lower
from dualsmooth.engine.draws import Phase
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.noise.stream import (
    blocks_per_image,
    philox4x32,
    standard_normal,
    uniform_from_word,
)

VECTORS = json.loads((Path(__file__).parents[2] / "reference" / "philox.json").read_text())


def words(hexadecimal: list[str]) -> list[int]:
    return [int(word, 16) for word in hexadecimal]


@pytest.mark.parametrize("case", [c for c in VECTORS["official"] if c["rounds"] == 10])
def test_published_vectors(case: dict[str, list[str]]) -> None:
    assert_array_equal(philox4x32(words(case["ctr"]), words(case["key"])), words(case["out"]))


@pytest.mark.parametrize("case", VECTORS["extra"])
def test_extra_vectors(case: dict[str, list[str]]) -> None:
    assert_array_equal(philox4x32(words(case["ctr"]), words(case["key"])), words(case["r10"]))


def test_cpp26_check_value() -> None:
    assert philox4x32([2499, 0, 0, 0], [20111115, 0])[3] == 1955073260


def test_batched_counters_equal_single_ones() -> None:
    counters = np.random.default_rng(0).integers(0, 1 << 32, (3, 5, 4))
    batched = philox4x32(counters, [7, 9])
    for i in range(3):
        for j in range(5):
            assert_array_equal(batched[i, j], philox4x32(counters[i, j], [7, 9]))


@pytest.mark.parametrize("shape", [(8, 8, 1), (5, 7, 3), (3, 3, 4), (3, 5, 2), (1, 1, 1)])
def test_layout_follows_the_counter_specification(shape: tuple[int, int, int]) -> None:
    seed, image_id, phase, sample = (5 << 32) | 3, 11, int(Phase.CLASS_ESTIMATE), 4_000_000_000
    noise = standard_normal(seed, image_id, phase, [sample], shape)[0].ravel()
    channels = shape[2]
    for flat, value in enumerate(noise):
        pixel = flat // channels, flat % channels
        block, lane = pixel if channels in (3, 4) else (flat // 4, flat % 4)
        w = philox4x32([block, sample, image_id, phase | 1 << 8], [3, 5])
        u1, u2 = (
            float(np.float32(np.float32(np.float32(w[i]) * 2.0**-32) + np.float32(2.0**-33)))
            for i in (lane // 2 * 2, lane // 2 * 2 + 1)
        )
        turn = np.cos if lane % 2 == 0 else np.sin
        expected = np.float32(np.sqrt(-2 * np.log(u1)) * turn(2 * np.pi * u2))
        assert value == pytest.approx(expected, rel=2e-7, abs=1e-12)


def test_samples_do_not_depend_on_their_batch() -> None:
    together = standard_normal(1, 2, 3, np.arange(9), (5, 5, 1))
    for i in range(9):
        assert_array_equal(together[i : i + 1], standard_normal(1, 2, 3, [i], (5, 5, 1)))


def test_extreme_words_stay_finite() -> None:
    """The logarithm of no word is infinite, and none is above 0."""
    extremes = uniform_from_word(np.array([0, (1 << 32) - 1], np.uint64))
    assert extremes.tolist() == [2.0**-33, 1.0]


@pytest.mark.parametrize(
    ("argument", "call"),
    [
        ("seed", lambda: standard_normal(1 << 64, 0, 0, [0], (1, 1, 1))),
        ("seed", lambda: standard_normal(-1, 0, 0, [0], (1, 1, 1))),
        ("image_id", lambda: standard_normal(0, 1 << 32, 0, [0], (1, 1, 1))),
        ("phase", lambda: standard_normal(0, 0, 256, [0], (1, 1, 1))),
        ("samples", lambda: standard_normal(0, 0, 0, [-1], (1, 1, 1))),
        ("samples", lambda: standard_normal(0, 0, 0, [0.5], (1, 1, 1))),
        ("attempt", lambda: standard_normal(0, 0, 0, [0], (1, 1, 1), attempt=1 << 16)),
        ("counter", lambda: philox4x32([1, 2, 3], [0, 0])),
        ("key", lambda: philox4x32([1, 2, 3, 4], [[0, 0], [0, 0]])),
    ],
)
def test_bad_arguments_are_named(argument: str, call: object) -> None:
    with pytest.raises(ArgumentError, match=f"^{argument} "):
        call()  # type: ignore[operator]


def test_the_documented_distance_from_the_normal_law() -> None:
    """A value is r(u1) cos(2 pi u2): monotone in u1, of variation 2 in u2; u is near its word."""
    words = np.unique(np.concatenate([
        np.random.default_rng(0).integers(0, 1 << 32, 1 << 20, np.uint64),
        *((1 << power) + np.arange(-600, 600) for power in range(10, 33)),
    ]).astype(np.int64).clip(0, (1 << 32) - 1)).astype(np.uint64)  # fmt: skip
    u = uniform_from_word(words).astype(np.float64)
    assert (np.diff(u) >= 0).all()
    near = abs(u - (words + 0.5) / 2.0**32).max()
    assert 2.0**-25 < near <= 2.0**-24
    rounding = stats.norm.pdf(1.0) * 2.0**-24  # |z| phi(z) is largest at 1
    assert 3 * (2.0**-24 + 2.0**-33) + rounding < 2e-7
    assert 2e-7 + stats.norm.pdf(0.0) * 2e-6 < 1e-6  # devices agree within 2e-6
    beyond = 2 * stats.norm.sf(np.sqrt(66 * np.log(2)))
    assert beyond < 1.4e-11
    assert 32 * 32 * 3 * beyond < 4.2e-8
    assert 224 * 224 * 3 * beyond < 2.1e-6
    best = clopper_pearson_lower(100_000, 100_000, 1e-3)
    lost = stats.norm.ppf(best) - stats.norm.ppf(best - 2.1e-6)
    assert lost < 0.008


def test_law_of_a_million_normals() -> None:
    """Kolmogorov-Smirnov and moments; each check has a false-alarm rate below 1e-6."""
    z = standard_normal(2026, 1, 3, np.arange(1000), (32, 32, 1)).ravel().astype(np.float64)
    n = z.size
    assert np.sqrt(n) * stats.kstest(z, "norm").statistic < 2.69
    for power, mean, spread in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96), (6, 15, 10170)):
        assert abs((z**power).mean() - mean) < 5 * np.sqrt(spread / n)
    for limit in (3.0, 4.0, 4.5):
        expected = n * 2 * stats.norm.sf(limit)
        assert abs((abs(z) > limit).sum() - expected) < 5 * np.sqrt(expected) + 5


def test_neighbouring_counters_are_uncorrelated() -> None:
    """Neighbours in image, sample, phase, block and seed: |correlation| below 5 sd."""
    shape, samples = (32, 32, 1), np.arange(200)
    base = standard_normal(6, 8, 2, samples, shape).ravel()
    neighbours = {
        "image": standard_normal(6, 9, 2, samples, shape),
        "sample": standard_normal(6, 8, 2, samples + 200, shape),
        "phase": standard_normal(6, 8, 3, samples, shape),
        "level": standard_normal(6, 8, 2 + 16, samples, shape),
        "seed": standard_normal(7, 8, 2, samples, shape),
        "attempt": standard_normal(6, 8, 2, samples, shape, attempt=1),
    }
    for name, other in neighbours.items():
        correlation = np.corrcoef(base, other.ravel())[0, 1]
        assert abs(correlation) < 5 / np.sqrt(base.size), name
    for lag in (1, 2, 3, 4, 5, 6, 7, 8, 16, 32, 1024):
        correlation = np.corrcoef(base[:-lag], base[lag:])[0, 1]
        assert abs(correlation) < 5 / np.sqrt(base.size), f"lag {lag}"


def test_blocks_per_image() -> None:
    shapes = ((8, 8, 1), (32, 32, 3), (2, 2, 4), (3, 3, 1))
    assert [blocks_per_image(s) for s in shapes] == [16, 1024, 4, 3]
