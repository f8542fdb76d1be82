import json
import math
import warnings
from pathlib import Path
from typing import Any

import pytest
from scipy.special import ndtri
from scipy.stats import chi2

from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.radius.two_scale import semielastic_radius, two_scale_lower_bound

REFERENCE = json.loads((Path(__file__).parents[2] / "reference" / "idrs.json").read_text())


def inputs(case: dict[str, Any], *names: str) -> list[float]:
    return [float(case[name]) for name in names]


@pytest.mark.parametrize("case", REFERENCE["worst_case_probability"], ids=lambda c: c["sigma1"])
def test_bound_agrees_with_40_digit_values_and_never_exceeds_them(case: dict[str, Any]) -> None:
    p, distance, sigma0, sigma1 = inputs(case, "p", "R", "sigma0", "sigma1")
    bound = two_scale_lower_bound(p, distance, sigma0, sigma1, case["d"])
    assert float(case["L"]) - 1e-9 < bound < float(case["L"])


@pytest.mark.parametrize("case", REFERENCE["worst_case_over_sigma_interval"])
def test_worst_level_of_an_interval_is_an_end(case: dict[str, Any]) -> None:
    p, distance, sigma0 = inputs(case, "p", "R", "sigma0")
    ends = {
        side: two_scale_lower_bound(p, distance, sigma0, float(case[key]), case["d"])
        for side, key in (("lower", "sigma1_lo"), ("upper", "sigma1_hi"))
    }
    assert min(ends.values()) == pytest.approx(float(case["L_worst"]), abs=1e-9)
    assert min(ends, key=lambda side: ends[side]) == case["binding"]


@pytest.mark.parametrize("case", REFERENCE["semi_elastic_radius"], ids=lambda c: c["radius"])
def test_semielastic_radius_agrees_with_reference(case: dict[str, Any]) -> None:
    p, sigma0, rate = inputs(case, "p", "sigma0", "r")
    radius = semielastic_radius(p, sigma0, rate, case["d"])
    assert float(case["radius"]) - 1e-9 < radius < float(case["radius"])
    lower = two_scale_lower_bound(p, radius, sigma0, sigma0 * math.exp(-rate * radius), case["d"])
    assert lower == pytest.approx(float(case["L_at_lower_end"]), abs=2e-9)


@pytest.mark.parametrize("case", REFERENCE["admissible_log_ratio"], ids=lambda c: c["side"])
def test_largest_admissible_ratio(case: dict[str, Any]) -> None:
    p, distance, sigma0, log_ratio = inputs(case, "p", "R", "sigma0", "lnratio")
    sigma1 = sigma0 * math.exp(log_ratio if case["side"] == "upper" else -log_ratio)
    bound = two_scale_lower_bound(p, distance, sigma0, sigma1, case["d"])
    assert bound == pytest.approx(0.5, abs=1e-9)


@pytest.mark.parametrize(
    ("sigma0", "dim", "ratios"),
    [
        (0.5, 3072, {0.005: 0.981, 0.01: 0.931, 0.015: 0.861, 0.05: 0.451, 0.1: 0.245}),
        (0.25, 3072, {0.005: 0.995, 0.01: 0.981, 0.015: 0.959, 0.05: 0.712, 0.1: 0.451}),
        (1.0, 3072, {0.005: 0.931, 0.01: 0.785, 0.015: 0.645, 0.05: 0.245, 0.1: 0.125}),
        (0.5, 150_528, {0.001: 0.964, 0.005: 0.589, 0.01: 0.342}),
    ],
)
def test_price_of_semielasticity(sigma0: float, dim: int, ratios: dict[float, float]) -> None:
    fixed = sigma0 * float(ndtri(0.99))
    for rate, ratio in ratios.items():
        radius = semielastic_radius(0.99, sigma0, rate, dim)
        assert radius / fixed == pytest.approx(ratio, abs=6e-4)


def test_two_percent_counterexample_is_not_certified() -> None:
    dim, squared = 3072, 0.97 * 3072 * 0.5**2
    p = float(chi2.sf(squared / 0.5**2, dim))  # class A outside the ball around x0
    assert p == pytest.approx(0.88084, abs=1e-5)
    for ratio, mass in ((0.99, 0.6542), (0.985, 0.5002), (0.98, 0.3450), (0.97, 0.1135)):
        truth = float(chi2.sf(squared / (0.5 * ratio) ** 2, dim))
        assert truth == pytest.approx(mass, abs=1e-4)
        bound = two_scale_lower_bound(p, 0.0, 0.5, 0.5 * ratio, dim)
        assert truth - 1e-9 < bound < truth
    assert not two_scale_lower_bound(p, 0.0, 0.5, 0.5 * 0.98, dim) > 0.5
    # The radius of the frozen level promises too much once sigma may drift by 2 % on the way.
    frozen = 0.5 * float(ndtri(p))
    assert frozen == pytest.approx(0.5896, abs=1e-4)
    assert semielastic_radius(p, 0.5, -math.log(0.98) / frozen, dim) < 0.8 * frozen


@pytest.mark.parametrize("dim", [1, 64, 3072])
def test_constant_level_gives_the_fixed_radius_rounded_down(dim: int) -> None:
    fixed = 0.5 * float(ndtri(0.99))
    assert fixed - 1e-9 < semielastic_radius(0.99, 0.5, 0.0, dim) < fixed


@pytest.mark.parametrize("p", [0.0, 0.3, 0.5, 0.5 + 1e-12])
def test_nothing_is_certified_at_or_below_one_half(p: float) -> None:
    assert semielastic_radius(p, 0.5, 0.01, 3072) == 0.0


def test_extreme_arguments_give_a_bound_and_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for dim in (1, 2, 30, 150_528):
            for p in (0.0, 1e-12, 1e-6, 0.5, 1 - 1e-16):
                for distance in (0.0, 1e-300, 1e-12, 5.0, 1e300):
                    for ratio in (1e-9, 0.5, 1 - 1e-16, 1.0, 1 + 3e-16, 3.0, 1e12):
                        bound = two_scale_lower_bound(p, distance, 1.0, ratio, dim)
                        assert 0.0 <= bound <= p
            assert 0.0 < semielastic_radius(1 - 1e-16, 1.0, 1e6, dim) < 8.3
            assert 0.0 < semielastic_radius(0.51, 1e-6, 1e-6, dim) < 1e-6


GOOD: dict[str, Any] = {"p": 0.9, "distance": 0.1, "sigma0": 0.5, "sigma1": 0.5, "dim": 3}
BAD: list[tuple[str, Any]] = [
    ("p", 1.0),
    ("p", -0.1),
    ("distance", -1e-9),
    ("sigma0", 0.0),
    ("sigma1", -0.5),
    ("dim", 0),
    ("dim", 3.0),
    *((name, value) for name in GOOD for value in (math.nan, math.inf, None, "0.5", True)),
]


@pytest.mark.parametrize(("argument", "value"), BAD)
def test_bad_arguments_of_the_bound_are_named(argument: str, value: Any) -> None:
    with pytest.raises(ArgumentError) as caught:
        two_scale_lower_bound(**{**GOOD, argument: value})
    assert caught.value.argument == argument


@pytest.mark.parametrize("argument", ["p", "sigma", "rate", "dim"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -1, None])
def test_bad_arguments_of_the_radius_are_named(argument: str, value: Any) -> None:
    good: dict[str, Any] = {"p": 0.9, "sigma": 0.5, "rate": 0.01, "dim": 3}
    with pytest.raises(ArgumentError) as caught:
        semielastic_radius(**{**good, argument: value})
    assert caught.value.argument == argument
