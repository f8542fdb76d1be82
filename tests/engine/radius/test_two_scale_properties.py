import math

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.special import ndtr, ndtri
from scipy.stats import ncx2

from dualsmooth.engine.radius.two_scale import semielastic_radius, two_scale_lower_bound

QUICK = settings(deadline=None, derandomize=True, max_examples=60)

probabilities = st.floats(0.51, 0.99999)
dimensions = st.sampled_from([1, 2, 3, 29, 30, 64, 784, 3072, 150_528])
distances = st.floats(0.0, 1.0)
sigma = 0.5


def drifts(dim: int, spread: float) -> float:
    """Log-ratio of the noise levels on the scale where dimension ``dim`` notices it."""
    return spread / math.sqrt(2 * dim)


def ball_probability(dim: int, squared: float, center: float, level: float) -> float:
    """P(|X|^2 <= squared) for X ~ N(center e, level^2 I), by SciPy."""
    return float(ncx2.cdf(squared / level**2, dim, (center / level) ** 2))


@QUICK
@given(
    dim=st.sampled_from([1, 2, 10, 100, 784]),
    p=st.floats(0.01, 0.99),
    center=st.floats(0.05, 3.0),
    step=st.floats(-0.4, 0.4),
    log_ratio=st.floats(-0.4, 0.4),
    inside=st.booleans(),
)
def test_no_ball_or_its_outside_falls_below_the_bound(
    dim: int, p: float, center: float, step: float, log_ratio: float, inside: bool
) -> None:
    squared = sigma**2 * float(ncx2.ppf(p if inside else 1 - p, dim, (center / sigma) ** 2))
    at0 = ball_probability(dim, squared, center, sigma)
    at1 = ball_probability(dim, squared, abs(center + step), sigma * math.exp(log_ratio))
    assume(0.0 < at0 < 1.0 and math.isfinite(at1))
    if not inside:
        at0, at1 = 1 - at0, 1 - at1
    moved = abs(abs(center + step) - center)
    sigma1 = sigma * math.exp(log_ratio)
    assert two_scale_lower_bound(at0, moved, sigma, sigma1, dim) <= at1 + 1e-11


@QUICK
@given(
    dim=st.sampled_from([1, 2, 3, 10, 29, 30, 100, 784]),
    p=st.floats(0.05, 0.999),
    distance=st.floats(0.01, 1.0),
    log_ratio=st.floats(0.02, 0.3),
    upper=st.booleans(),
)
def test_textbook_chi_square_form(
    dim: int, p: float, distance: float, log_ratio: float, upper: bool
) -> None:
    sigma1 = sigma * math.exp(log_ratio if upper else -log_ratio)
    gap = abs(sigma**2 - sigma1**2)
    l0, l1 = (distance * sigma / gap) ** 2, (distance * sigma1 / gap) ** 2
    quantile = ncx2.ppf(p if upper else 1 - p, dim, l0) * (sigma / sigma1) ** 2
    expected = ncx2.cdf(quantile, dim, l1) if upper else ncx2.sf(quantile, dim, l1)
    assume(math.isfinite(expected))
    bound = two_scale_lower_bound(p, distance, sigma, sigma1, dim)
    assert bound == pytest.approx(float(expected), abs=2e-9)


@pytest.mark.parametrize("dim", [1, 2, 3, 10, 29, 3072])
@pytest.mark.parametrize("side", [-1, 1])
def test_levels_so_close_that_the_textbook_form_is_nan(dim: int, side: int) -> None:
    sigma1 = sigma * (1 + side * 1e-9)
    gap = abs(sigma**2 - sigma1**2)
    assert math.isnan(ncx2.ppf(0.99, dim, (0.25 * sigma / gap) ** 2))
    bound = two_scale_lower_bound(0.99, 0.25, sigma, sigma1, dim)
    assert bound == pytest.approx(float(ndtr(ndtri(0.99) - 0.5)), abs=1e-8)


@QUICK
@given(
    dim=dimensions,
    p=probabilities,
    spread=st.floats(-2.0, 2.0),
    near=distances,
    more=st.floats(1e-6, 1.0),
)
def test_bound_falls_with_the_distance(
    dim: int, p: float, spread: float, near: float, more: float
) -> None:
    sigma1 = sigma * math.exp(drifts(dim, spread))
    closer = two_scale_lower_bound(p, near, sigma, sigma1, dim)
    assert two_scale_lower_bound(p, near + more, sigma, sigma1, dim) <= closer + 1e-13


@QUICK
@given(
    dim=dimensions,
    p=probabilities,
    distance=distances,
    low=st.floats(-2.0, 0.0),
    high=st.floats(0.0, 2.0),
    inner=st.floats(0.0, 1.0),
    closer=st.floats(0.0, 1.0),
)
def test_both_ends_decide_for_everything_between_and_closer(
    dim: int, p: float, distance: float, low: float, high: float, inner: float, closer: float
) -> None:
    ends = [sigma * math.exp(drifts(dim, spread)) for spread in (low, high)]
    assume(all(two_scale_lower_bound(p, distance, sigma, end, dim) > 0.5 for end in ends))
    between = ends[0] + inner * (ends[1] - ends[0])
    assert two_scale_lower_bound(p, closer * distance, sigma, between, dim) > 0.5 - 1e-13


@QUICK
@given(dim=dimensions, p=st.floats(0.55, 0.99999), rate=st.floats(1e-4, 0.5))
def test_upper_end_binds_so_checking_only_the_lower_end_is_unsound(
    dim: int, p: float, rate: float
) -> None:
    radius = semielastic_radius(p, sigma, rate, dim)
    up, low = (sigma * math.exp(sign * rate * radius) for sign in (1, -1))
    at_upper = two_scale_lower_bound(p, radius, sigma, up, dim)
    assert 0.5 - 1e-9 < at_upper < 0.5 + 1e-7
    assert two_scale_lower_bound(p, radius, sigma, low, dim) >= at_upper - 1e-9


def test_broken_radius_from_the_lower_end_has_a_counterexample() -> None:
    p, dim, rate = 0.99, 784, 0.1
    low, high = 0.0, sigma * float(ndtri(p))
    for _ in range(50):  # the broken rule: only s1 < s0 is checked
        middle = 0.5 * (low + high)
        sigma1 = sigma * math.exp(-rate * middle)
        good = two_scale_lower_bound(p, middle, sigma, sigma1, dim) > 0.5
        low, high = (middle, high) if good else (low, middle)
    assert low > semielastic_radius(p, sigma, rate, dim) * 1.003
    # A ball seen with probability p from x0 at level sigma, and less than 1/2 from the allowed x1.
    sigma1 = sigma * math.exp(rate * low)
    center = low * sigma**2 / (sigma1**2 - sigma**2)
    squared = sigma**2 * float(ncx2.ppf(p, dim, (center / sigma) ** 2))
    assert ball_probability(dim, squared, center, sigma) == pytest.approx(p, abs=1e-9)
    assert ball_probability(dim, squared, center + low, sigma1) < 0.499


@QUICK
@given(dim=dimensions, p=st.floats(0.75, 0.99999))
def test_bound_is_continuous_but_strictly_lower_just_above_equal_levels(dim: int, p: float) -> None:
    at_equality = two_scale_lower_bound(p, 0.25, sigma, sigma, dim)
    assert at_equality == pytest.approx(float(ndtr(ndtri(p) - 0.5)), abs=2e-10)
    gaps = []
    for power in (-9, -8, -7, -6):
        above = two_scale_lower_bound(p, 0.25, sigma, sigma * (1 + 10.0**power), dim)
        gaps.append(at_equality - above)
    # Above 1/2 even a half-space loses mass as the level grows.
    assert 0.0 < gaps[0] < gaps[1] < gaps[2] < gaps[3] < 1e-4
    assert gaps[0] < 1e-8


def test_fixed_level_formula_is_unsound_for_a_ratio_of_one_in_a_thousand() -> None:
    bound = two_scale_lower_bound(0.99, 0.25, 0.5, 0.5 * 1.001, 150_528)
    assert bound == pytest.approx(0.9433, abs=1e-4)
    assert bound < float(ndtr(ndtri(0.99) - 0.5)) - 0.02
