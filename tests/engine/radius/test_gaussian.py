import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from dualsmooth.engine.bounds.binomial import clopper_pearson_lower
from dualsmooth.engine.budget import Budget
from dualsmooth.engine.certificate import Certificate
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.methods.semielastic import SemielasticAt
from dualsmooth.engine.models.network import OneNetwork
from dualsmooth.engine.radius.decision import least_probability
from dualsmooth.engine.radius.gaussian import gaussian_radius, interval_radius, margin_radius
from dualsmooth.engine.radius.two_scale import semielastic_radius

REFERENCE = Path(__file__).parents[2] / "reference"


def test_radii_stay_below_forty_digit_references() -> None:
    cases = json.loads((REFERENCE / "statistics.json").read_text())["clopper_pearson"]
    checked = 0
    for case in cases:
        if "ndtri_lower" in case:
            exact = float(case["ndtri_lower"])
            bound = clopper_pearson_lower(case["k"], case["n"], float(case["alpha"]))
            radius = gaussian_radius(float(bound), 1.0)
            assert radius < exact
            assert radius >= exact - 3e-10 * (1 + exact)
            checked += 1
    assert checked > 100


def test_published_radii() -> None:
    cases = json.loads((REFERENCE / "idrs.json").read_text())["clopper_pearson"]
    for case in cases:
        bound = float(clopper_pearson_lower(case["k"], case["n"], case["alpha"]))
        assert gaussian_radius(bound, 1.0) == pytest.approx(case["cohen_radius_sigma_1"], abs=1e-9)


@given(st.floats(0.0, 1.0, exclude_max=True), st.floats(1e-3, 10.0))
def test_radius_rounds_down(p: float, sigma: float) -> None:
    radius = gaussian_radius(p, sigma)
    assert 0.0 <= radius
    if radius:
        assert radius < sigma * special.ndtri(p)


def test_nothing_is_certified_at_or_just_above_one_half() -> None:
    """A relative safety factor alone would still certify here."""
    assert gaussian_radius(0.5, 1.0) == 0.0
    assert gaussian_radius(0.5 + 1e-11, 1.0) == 0.0
    assert gaussian_radius(0.5 + 1e-9, 1.0) > 0.0
    assert gaussian_radius(0.0, 1.0) == 0.0
    assert gaussian_radius(1.0, 1.0) == math.inf


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_bad_sigma(value: float) -> None:
    with pytest.raises(ArgumentError, match=r"^sigma must be a finite number > 0"):
        gaussian_radius(0.9, value)


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan])
def test_bad_probability(value: float) -> None:
    with pytest.raises(ArgumentError, match=r"^p_lower "):
        gaussian_radius(value, 1.0)


def test_interval_radius_is_the_best_minimum() -> None:
    assert interval_radius([], []) == 0.0
    assert interval_radius([0.2, 0.5, np.inf], [0.9, 0.4, 0.1]) == 0.4
    assert interval_radius([0.0], [1.0]) == 0.0


@pytest.mark.parametrize("sigma", [0.1, 0.12, 0.25, 1 / 3, 0.7, 1e-3, 1e39])
def test_radii_are_in_the_scale_that_the_noise_has(sigma: float) -> None:
    """Samplers multiply by float32(sigma): 0.12 becomes 0.11999999731779099."""
    with np.errstate(over="ignore"):
        scale = min(sigma, float(np.float32(sigma)))
    assert gaussian_radius(0.9, sigma) == gaussian_radius(0.9, scale)
    assert gaussian_radius(0.9, sigma) < scale * special.ndtri(0.9)
    assert margin_radius(0.9, 0.9, sigma / 2) < scale * special.ndtri(0.9)
    radius = gaussian_radius(0.9, sigma)
    assert gaussian_radius(least_probability(radius, sigma), sigma) >= radius


def test_semielastic_radii_allow_for_levels_rounded_to_float32() -> None:
    method = SemielasticAt(OneNetwork(), 0.12, 0.05, 3072)
    at = method.certify(Budget.fixed(10, 1000), 0.001)
    next(at)
    at.send(np.array([10, 0, 0]))
    with pytest.raises(StopIteration) as stop:
        at.send(np.array([930, 70, 0]))
    certificate: Certificate = stop.value.value
    scale, lower = float(np.float32(0.12)), certificate.bounds[0].lower
    assert 0.0 < certificate.radius < semielastic_radius(lower, scale, 0.05, 3072)
