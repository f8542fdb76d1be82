import numpy as np
from numpy.testing import assert_allclose

from dualsmooth.engine.bounds.anytime import stirling_remainder


def test_differences_follow_the_gamma_recurrence() -> None:
    x = np.concatenate([np.arange(0.5, 40.0, 0.25), np.geomspace(40.0, 1e7, 200)])
    expected = (x + 0.5) * np.log1p(1.0 / x) - 1.0
    assert_allclose(stirling_remainder(x) - stirling_remainder(x + 1.0), expected, atol=3e-14)


def test_values_at_the_ends() -> None:
    assert_allclose(stirling_remainder(1.0), 1.0 - 0.5 * np.log(2.0 * np.pi), rtol=1e-14)
    assert_allclose(stirling_remainder(1e9), 1.0 / 12e9, rtol=1e-14)
