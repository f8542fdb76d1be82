"""Laws of the noise that enters the network, through the kernels, with the real counter layout.

Fixed seeds; every check has a false-alarm rate of about 1e-6, and every kind of check is shown to
fail on a stream with the fault it looks for.
"""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats

from dualsmooth.engine.noise.integer import thresholds
from dualsmooth.engine.noise.stream import counter_word3
from dualsmooth.kernels import ops
from dualsmooth.kernels.launch import NoiseLaunch
from dualsmooth.kernels.rows import Rows, seed_key
from dualsmooth.kernels.thresholds import Thresholds

Normals = NDArray[np.float64]
SHAPE = (128, 128, 3)  # few large programs: the interpreter is slow per program
WIDE = None if torch.cuda.is_available() else NoiseLaunch(blocks=16384, warps=4)
MOMENTS = ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96), (6, 15, 10170))


def rows_of(
    samples: Sequence[int], device: torch.device, image: int, phase: int, attempt: int
) -> Rows:
    n = len(samples)
    return Rows.pack(
        slot=[0] * n,
        sigma=[1.0] * n,
        stream=[counter_word3(phase, attempt)] * n,
        image=[image] * n,
        sample=samples,
        segment=[0] * n,
        device=device,
    )


def draw(
    samples: Sequence[int],
    device: torch.device,
    *,
    seed: int = 2026,
    image: int = 8,
    phase: int = 3,
    attempt: int = 0,
    shape: tuple[int, int, int] = SHAPE,
) -> Normals:
    """Noise [n, H W C] as the kernel adds it to a black image with sigma 1."""
    rows = rows_of(samples, device, image, phase, attempt)
    black = torch.zeros(1, *shape, device=device)
    z = ops.noise(black, rows, seed_key(seed, device), backend="triton", launch=WIDE)
    return z.cpu().numpy().astype(np.float64).reshape(len(samples), -1)


@pytest.fixture(scope="module")
def sample(device: torch.device) -> Normals:
    return draw(range(8), device)


def law_faults(z: Normals) -> list[str]:
    """Names of the law tests that a sample of standard normals fails."""
    z, n, faults = np.sort(z.ravel()), z.size, []
    if not math.sqrt(n) * stats.kstest(z, "norm").statistic < 2.69:
        faults.append("kolmogorov")
    index = 2 * np.arange(1, n + 1) - 1
    anderson = -n - np.mean(index * (stats.norm.logcdf(z) + stats.norm.logsf(z[::-1])))
    if not anderson < 13:
        faults.append("anderson")
    for power, mean, spread in MOMENTS:
        if not abs((z**power).mean() - mean) < 5 * math.sqrt(spread / n):
            faults.append(f"moment {power}")
    for limit in (3.0, 4.0, 4.5, 5.0, 6.0):
        chance, seen = 2 * stats.norm.sf(limit), int((abs(z) > limit).sum())
        low, high = stats.binom.ppf([5e-7, 1 - 5e-7], n, chance)
        if not low <= seen <= high:
            faults.append(f"tail {limit}")
    return faults


def correlation(a: Normals, b: Normals) -> float:
    """Correlation in standard deviations, for mean 0 and variance 1."""
    return float(abs((a * b).sum()) / math.sqrt(a.size))


def test_law_of_the_normals(sample: Normals) -> None:
    assert law_faults(sample) == []


@pytest.mark.slow
def test_law_and_far_tails_of_ten_million_normals(device: torch.device) -> None:
    z = np.concatenate([draw(range(k, k + 30), device) for k in range(0, 210, 30)])
    assert law_faults(z) == []
    assert (abs(z) > 5).any()


def test_law_tests_notice_faults(sample: Normals) -> None:
    assert "moment 2" in law_faults(1.01 * sample)
    assert "tail 4.0" in law_faults(np.clip(sample, -3.9, 3.9))
    z = sample[:2]  # enough for the other faults
    assert "moment 1" in law_faults(z + 0.02)
    assert "kolmogorov" in law_faults(np.round(z * 8) / 8)
    assert "anderson" in law_faults(stats.t.ppf(stats.norm.cdf(z), 12))


@pytest.mark.parametrize("lag", [*range(1, 9), 16, 32, 384, 49152])
def test_no_autocorrelation(sample: Normals, lag: int) -> None:
    """Neighbouring lanes, pixels, rows (384) and samples (49152); also of the squares."""
    flat = sample.ravel()
    squares = (flat**2 - 1) / math.sqrt(2)
    assert correlation(flat[:-lag], flat[lag:]) < 5
    assert correlation(squares[:-lag], squares[lag:]) < 6


def test_neighbouring_counters_are_uncorrelated(sample: Normals, device: torch.device) -> None:
    base, samples = sample[:1], range(1)
    neighbours = {
        "image": draw(samples, device, image=9),
        "far image": draw(samples, device, image=8 | 1 << 31),
        "sample": draw([1], device),
        "phase": draw(samples, device, phase=2),
        "level": draw(samples, device, phase=3 + 16),
        "attempt": draw(samples, device, attempt=1),
        "low seed bit": draw(samples, device, seed=2027),
        "high seed bit": draw(samples, device, seed=2026 | 1 << 63),
        "swapped words": draw([8], device, image=0),
    }
    for name, other in neighbours.items():
        squares = [(z**2 - 1) / math.sqrt(2) for z in (base, other)]
        assert correlation(base, other) < 5, name
        assert correlation(*squares) < 6, name
    assert correlation(base, sample[:1]) > 100


def test_noise_is_the_same_in_any_packing(sample: Normals, device: torch.device) -> None:
    """One kernel call per sample, reversed, equals the batch bit for bit."""
    for i in (7, 0):
        assert np.array_equal(draw([i], device)[0], sample[i])
    assert np.array_equal(draw([7, 5, 6], device), sample[[7, 5, 6]])


def test_sample_index_wraps_nowhere(device: torch.device) -> None:
    """The largest index differs from the first ones, and uses all 32 bits."""
    edge = draw([(1 << 32) - 1, 0, 1, 1 << 31], device, shape=(8, 8, 3))
    for i in range(4):
        for j in range(i):
            assert correlation(edge[i], edge[j]) < 5


def grid_steps(
    device: torch.device,
    sigma: float,
    samples: int,
    image: float,
    shape: tuple[int, int, int] = SHAPE,
) -> NDArray[np.int64]:
    x = torch.full((1, *shape), image, device=device).to(torch.uint8)
    tables = Thresholds.pack([thresholds(sigma)], device)
    level = torch.zeros(samples, dtype=torch.int32, device=device)
    rows = rows_of(range(samples), device, 8, 3, 0)
    key = seed_key(2026, device)
    y = ops.integer_noise(x, rows, key, level, tables, backend="triton", launch=WIDE)
    steps = (255 * y).round().long() - int(image)
    on_grid = (steps + int(image)).float() * torch.tensor(1 / 255, device=device)
    assert torch.equal(on_grid, y)  # a detector of off-grid values votes alike everywhere
    return steps.cpu().numpy().ravel()


def chi_square(steps: NDArray[np.int64], sigma: float) -> float:
    """p-value against the exact bin probabilities, tails pooled to at least 5 expected."""
    table = thresholds(sigma).tolist()
    reach = len(table) // 2
    edges = np.array([0.0, *(t / 2.0**64 for t in table), 1.0])
    expected = np.diff(edges) * steps.size
    seen = np.bincount(steps + reach, minlength=expected.size).astype(np.float64)
    inside = np.flatnonzero(expected >= 5)
    first, last = inside[0], inside[-1]

    def pooled(v: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.concatenate([[v[:first].sum()], v[first : last + 1], [v[last + 1 :].sum()]])

    e, s = pooled(expected), pooled(seen)
    keep = e > 0
    return float(stats.chi2.sf(((s - e)[keep] ** 2 / e[keep]).sum(), keep.sum() - 1))


def test_law_of_the_integer_noise(device: torch.device) -> None:
    steps = grid_steps(device, 0.05, 2, 100)
    assert chi_square(steps, 0.05) > 1e-6
    assert chi_square(steps, 0.053) < 1e-6
    assert chi_square(steps // 2 * 2, 0.05) < 1e-6


def test_integer_noise_is_the_same_for_every_image(device: torch.device) -> None:
    black, white = (grid_steps(device, 0.05, 2, image, (33, 31, 3)) for image in (0, 255))
    assert np.array_equal(black, white)
