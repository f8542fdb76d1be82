"""The comparison is fair: the published rule, whose exact error probabilities are as stated."""

import numpy as np
import pytest
from scipy import stats

from dualsmooth.benchmarks.accuracy.budgets import certify_adaptive
from dualsmooth.engine.bounds.binomial import clopper_pearson_lower
from dualsmooth.engine.bounds.proportions import clopper_pearson_upper

SIZES, ALPHA, BETA = (20, 60, 200), 0.05, 0.02


def exact(p: float, p0: float, alpha: float) -> float:
    """P(yes) by summing over the votes of every round."""
    reach, yes = 1.0, 0.0
    for number, n in enumerate(SIZES):
        k = np.arange(n + 1)
        pmf = stats.binom.pmf(k, n, p)
        lower = np.asarray(clopper_pearson_lower(k, n, alpha / 3))
        upper = np.asarray(clopper_pearson_upper(k, n, BETA / 2))
        yes += reach * pmf[lower > p0].sum()
        going = ~(lower > p0) & ~(upper < p0) if number < 2 else np.zeros(n + 1, bool)
        reach *= pmf[going].sum()
    return float(yes)


@pytest.mark.parametrize("p", [0.7, 0.8, 0.9])
def test_simulation_follows_the_exact_law(p: float) -> None:
    """1000 runs, five standard deviations."""
    rng = np.random.default_rng(5)
    runs = [
        certify_adaptive(lambda n: int(rng.binomial(n, p)), 0.75, SIZES, ALPHA, BETA)
        for _ in range(1000)
    ]
    share, expected = np.mean([yes for yes, _ in runs]), exact(p, 0.75, ALPHA)
    assert abs(share - expected) < 5 * np.sqrt(expected * (1 - expected) / 1000) + 1e-3
    assert {used for _, used in runs} <= {20, 80, 280}


def test_a_wrong_yes_is_as_rare_as_stated() -> None:
    for p0 in (0.55, 0.75, 0.9):
        assert exact(p0, p0, ALPHA) <= ALPHA
        assert exact(p0, p0, 3 * ALPHA) > exact(p0, p0, ALPHA)  # every round at full alpha


def test_rounds_end_early() -> None:
    assert certify_adaptive(lambda n: n, 0.75, SIZES, ALPHA, BETA) == (True, 20)
    assert certify_adaptive(lambda n: 0, 0.75, SIZES, ALPHA, BETA) == (False, 20)
