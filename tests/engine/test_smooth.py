import math

import numpy as np
import pytest
import torch
from scipy import stats

from dualsmooth.engine.api import Smooth
from dualsmooth.engine.bounds.binomial import clopper_pearson_table
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.radius.gaussian import gaussian_radius


class HalfSpace(torch.nn.Module):
    """Class 1 iff the first coordinate is at least the threshold."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = torch.nn.Parameter(torch.tensor(float(threshold)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        score = x.flatten(1)[:, 0] - self.threshold
        return torch.stack([-score, score, torch.full_like(score, -9.0)], dim=1)


@pytest.mark.parametrize("shape", [(3, 4, 5), (1, 2, 2), (6,), (2, 3)])
def test_certified_radius_is_just_below_the_true_one(shape: tuple[int, ...]) -> None:
    x = torch.zeros(shape)
    label, radius = Smooth(HalfSpace(-0.5), 3, 0.5).certify(x, 50, 4000, 0.001, batch_size=300)
    assert label == 1
    assert 0.42 < radius < 0.5


def test_radii_follow_the_binomial_law() -> None:
    """Mean radius of 60 calls against its exact expectation; |score| < 5, false alarm 6e-7."""
    n, alpha, sigma = 500, 0.01, 0.5
    smooth = Smooth(HalfSpace(-0.3), 3, sigma, seed=5)
    radii = [smooth.certify(torch.zeros(2), 400, n, alpha, 512)[1] for _ in range(60)]
    k = np.arange(n + 1)
    mass = stats.binom.pmf(k, n, stats.norm.cdf(0.3 / sigma))
    radius = np.array([gaussian_radius(p, sigma) for p in clopper_pearson_table(n, alpha)])
    mean = mass @ radius
    spread = np.sqrt(mass @ (radius - mean) ** 2 / 60)
    assert abs(np.mean(radii) - mean) < 5 * spread


def test_predict_and_abstain() -> None:
    assert Smooth(HalfSpace(-0.5), 3, 0.5).predict(torch.zeros(4), 1000, 0.001, 100) == 1
    assert Smooth(HalfSpace(0.5), 3, 0.5).predict(torch.zeros(4), 1000, 0.001, 100) == 0
    undecided = Smooth(HalfSpace(0.0), 3, 0.5)
    assert undecided.predict(torch.zeros(4), 200, 0.001, 100) == Smooth.ABSTAIN == -1
    assert undecided.certify(torch.zeros(4), 50, 200, 0.001, 100) == (-1, 0.0)


def test_a_callable_and_a_changed_module_are_read_at_each_call() -> None:
    network = HalfSpace(-0.5).train()
    smooth = Smooth(network, 3, 0.5)
    assert smooth.predict(torch.zeros(4), 500, 0.001, 100) == 1
    with torch.no_grad():
        network.threshold.add_(1.0)
    assert smooth.predict(torch.zeros(4), 500, 0.001, 100) == 0
    plain = Smooth(lambda x: torch.stack([x[:, 0], -x[:, 0]], 1), 2, 0.1)
    assert plain.predict(torch.ones(4), 500, 0.001, 100) == 0


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda: Smooth(HalfSpace(0), 3, 0.0), "sigma"),
        (lambda: Smooth(HalfSpace(0), 3, math.nan), "sigma"),
        (lambda: Smooth(HalfSpace(0), 1, 0.5), "num_classes"),
        (lambda: Smooth(HalfSpace(0), 3, 0.5).certify(torch.zeros(2), 0, 9, 0.1, 9), "n0"),
        (lambda: Smooth(HalfSpace(0), 3, 0.5).certify(torch.zeros(2), 9, 9, 1.0, 9), "alpha"),
        (lambda: Smooth(HalfSpace(0), 3, 0.5).certify(torch.zeros(2), 9, 9, 0.1, 0), "batch_size"),
        (lambda: Smooth(HalfSpace(0), 3, 0.5).predict(torch.full((2,), math.nan), 9, 0.1, 9), "x"),
    ],
)
def test_bad_arguments(call: object, argument: str) -> None:
    with pytest.raises(ArgumentError, match=f"^{argument} "):
        call()  # type: ignore[operator]
