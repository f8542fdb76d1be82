import math

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.special import ndtr
from scipy.stats import ncx2

from dualsmooth.engine.radius.ball_mass import ball_mass

QUICK = settings(deadline=None, derandomize=True, max_examples=150)
degrees = st.sampled_from([0, 1, 2, 9, 29, 63, 783, 3071])


@QUICK
@given(
    nu=degrees,
    spread=st.floats(-6.0, 6.0),
    slope=st.floats(0.0, 50.0),
    kap=st.floats(-1.0, 1.0).filter(lambda kap: abs(kap) > 1e-12),
)
def test_both_sides_add_up_to_one(nu: int, spread: float, slope: float, kap: float) -> None:
    t = kap + spread * math.sqrt(2 * kap**2 * (nu + 1) + 4 * slope**2)
    total = sum(ball_mass(t, kap, slope, nu, below=below) for below in (True, False))
    assert total == pytest.approx(1.0, abs=2e-13)


@QUICK
@given(nu=degrees, spread=st.floats(-4.0, 5.0), offset=st.floats(0.0, 30.0))
def test_a_ball_has_the_non_central_chi_square_mass(nu: int, spread: float, offset: float) -> None:
    t = 1.0 + spread * math.sqrt(2 * (nu + 1) + 4 * offset**2)
    squared = t + nu + offset**2
    assume(squared > 0)
    inside, outside = (ball_mass(t, 1.0, offset, nu, below=below) for below in (True, False))
    assert inside == pytest.approx(ncx2.cdf(squared, nu + 1, offset**2), abs=1e-10)
    assert outside == pytest.approx(ncx2.sf(squared, nu + 1, offset**2), abs=1e-10)


@pytest.mark.parametrize("nu", [0, 1, 28, 3071, 150_527])
@pytest.mark.parametrize("kap", [1e-15, -1e-15])
def test_nearly_flat_ball_is_a_half_space(nu: int, kap: float) -> None:
    for z in (-6.0, -1.0, 0.0, 2.0):
        mass = ball_mass(2.0 * z, kap, 1.0, nu, below=True)
        assert mass == pytest.approx(float(ndtr(z)), rel=1e-11)
