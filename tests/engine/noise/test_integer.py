"""Integer noise: thresholds against two other computations, words against the kernels' reference,
the law against exact bin probabilities."""

import itertools
from decimal import Decimal, localcontext

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from scipy import stats

from dualsmooth.engine.draws import Phase
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.noise import integer as module
from dualsmooth.engine.noise.integer import (
    integer_noise,
    tables_digest,
    thresholds,
    unit_of_grid,
)
from dualsmooth.engine.noise.stream import counter_word3
from dualsmooth.kernels import reference
from dualsmooth.kernels.rows import Rows, seed_key
from dualsmooth.kernels.thresholds import Thresholds

SEED = 5 << 33 | 77
SHAPES = [(8, 8, 1), (9, 7, 3), (3, 5, 4), (5, 5, 2), (1, 1, 1)]
DIGEST = "271cd217007dc49343daecf4e0439f689c5bedf393a2f3ea1ffbac3c7af4c1f9"
"""Of the tables for 0.12, 0.25, 0.5 and 1; another digest is another noise law."""
TOP = (1 << 64) - 1
PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459230781641")


def test_tables_are_pinned() -> None:
    assert tables_digest([1.0, 0.5, 0.25, 0.12, 0.5]) == DIGEST
    assert tables_digest([0.12]) != tables_digest([0.1200001])


def decimal_thresholds(sigma: float) -> list[int]:
    """The oracle: a series of positive terms in 60 decimal digits."""
    upper: list[int] = []
    with localcontext() as context:
        context.prec = 60
        while not upper or upper[-1] < TOP:
            x = (Decimal(len(upper)) + Decimal("0.5")) / (Decimal(sigma) * 255)
            upper.append(min(TOP, int(normal_cdf(x) * (1 << 64))))
    upper.pop()
    return [TOP - t for t in reversed(upper)] + upper


def normal_cdf(x: Decimal) -> Decimal:
    """Phi(x) for x >= 0: 1/2 + phi(x) (x + x^3/3 + x^5/(3*5) + ...)."""
    term, total, odd = x, Decimal(0), 1
    while term > Decimal("1e-55") * total:
        total += term
        odd += 2
        term = term * x * x / odd
    return Decimal("0.5") + total * (-x * x / 2).exp() / (2 * PI).sqrt()


@pytest.mark.parametrize("sigma", [0.003, 0.12, 0.3141])
def test_thresholds_equal_a_series_in_decimals(sigma: float) -> None:
    """The alternating series in fixed point is another computation."""
    assert thresholds(sigma).tolist() == decimal_thresholds(sigma)


def test_thresholds_are_floors_of_the_normal_law() -> None:
    mpmath = pytest.importorskip("mpmath", reason="the high-precision peer")
    table = thresholds(0.05)
    reach = len(table) // 2
    with mpmath.workprec(256):
        for i in range(-reach, reach):
            exact = mpmath.ncdf((mpmath.mpf(2 * i + 1) / 2) / (mpmath.mpf(0.05) * 255))
            assert int(table[i + reach]) == int(mpmath.floor(exact * mpmath.mpf(2) ** 64))


def test_largest_noise_at_sigma_one() -> None:
    assert len(thresholds(1.0)) // 2 <= 2320


def test_a_word_equal_to_a_threshold_is_above_it() -> None:
    """E = min {i : U < T_i}, by the definition in Python integers."""
    table = thresholds(0.12).tolist()
    reach = len(table) // 2
    words = [0, 2**64 - 1] + [t + d for t in table[:: len(table) // 9] for d in (-1, 0, 1)]
    words += [t + d for t in table[-3:] for d in (-1, 0, 1)]
    first = [next((i for i, t in enumerate(table) if u < t), 2 * reach) - reach for u in words]
    found = module._noise_of(np.array([words], np.uint64), np.array([0.12]))
    assert_array_equal(found, [first])
    assert {-reach, reach} <= set(first)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_value_equals_the_kernels_reference(shape: tuple[int, int, int]) -> None:
    """Tolerance zero: other images, phases, attempts, samples and sigmas in one batch."""
    images, sigmas = [3, 2**32 - 1, 4], [0.05, 0.12, 0.05]
    streams, samples = [(2, 0), (3 + 16, 65535), (1, 1)], [0, 2**32 - 1, 5]
    rows = Rows.pack(
        slot=[0, 0, 0], sigma=sigmas, stream=[counter_word3(*s) for s in streams], image=images,
        sample=samples, segment=[0, 0, 0],
    )  # fmt: skip
    level = torch.tensor([0, 1, 0], dtype=torch.int32)
    grid = np.random.default_rng(1).integers(0, 256, shape).astype(np.uint8)
    tables = Thresholds.pack([thresholds(0.05), thresholds(0.12)])
    truth = reference.integer_noise(
        torch.from_numpy(grid)[None], rows, seed_key(SEED), level, tables
    )
    for row, cast in enumerate(truth.numpy()):
        phase, attempt = streams[row]
        noise = integer_noise(
            SEED, images[row], phase, [samples[row]], shape, sigmas[row], attempt=attempt
        )
        assert_array_equal(unit_of_grid(grid.astype(np.int32) + noise[0]), cast)


def test_samples_do_not_depend_on_their_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    together = integer_noise(1, 2, 3, np.arange(9), (5, 5, 1), 0.2)
    for i in range(9):
        assert_array_equal(integer_noise(1, 2, 3, [i], (5, 5, 1), 0.2)[0], together[i])
    monkeypatch.setattr(module, "_BLOCKS_AT_ONCE", 20)
    assert_array_equal(integer_noise(1, 2, 3, np.arange(9), (5, 5, 1), 0.2), together)


def bins(sigma: float, least: float) -> tuple[np.ndarray, np.ndarray]:
    """Upper edges and exact probabilities of bins, tails pooled to at least ``least``."""
    table = thresholds(sigma)
    reach = len(table) // 2
    edges = np.array([0, *table.tolist(), 2**64], object)
    p = np.array([float((b - a) / 2**64) for a, b in itertools.pairwise(edges)])
    inside = np.flatnonzero(p >= least)
    first, last = inside[0], inside[-1]
    pooled = np.concatenate([[p[: first + 1].sum()], p[first + 1 : last], [p[last:].sum()]])
    return np.arange(first - reach, last - reach), pooled


def chi_square(noise: np.ndarray, sigma: float) -> float:
    """p-value of the histogram against the exact law."""
    edges, p = bins(sigma, 5.0 / noise.size)
    counts = np.bincount(np.searchsorted(edges, noise.ravel(), side="left"), minlength=len(p))
    return float(stats.chisquare(counts, p / p.sum() * noise.size).pvalue)


@pytest.mark.parametrize("sigma", [0.01, 0.12, 0.5])
def test_law_against_exact_bin_probabilities(sigma: float) -> None:
    """False alarm 1e-6 for each sigma; rounded normals of a sigma 5 % larger fail."""
    noise = integer_noise(2026, 1, int(Phase.CLASS_ESTIMATE), np.arange(300), (32, 32, 1), sigma)
    assert chi_square(noise, sigma) > 1e-6
    wider = np.random.default_rng(0).normal(0, 1.05 * 255 * sigma, noise.size)
    assert chi_square(np.rint(wider).astype(int), sigma) < 1e-6


@pytest.mark.parametrize("sigma", [0.0, -1.0, 4.5, float("nan"), float("inf")])
def test_bad_sigmas_are_named(sigma: float) -> None:
    with pytest.raises(ArgumentError, match=r"^sigma must be in \(0, 4\]"):
        integer_noise(0, 0, 0, [0], (1, 1, 1), sigma)
