import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import Tensor, nn

from dualsmooth.engine.train.points import Points, operating_points, routed_radius, votes_between

TAU = 0.5


class FirstPixel(nn.Module):
    """The first pixel is the score."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :1]


def routed(p: np.ndarray, radii: np.ndarray, tau: float) -> float:
    """Theorem C, from its own words."""
    levels, best = len(p), -np.inf
    for i in range(levels):
        for j in range(i, levels):
            lower = np.inf if i == 0 else tau * norm.ppf(p[i:].sum())
            upper = np.inf if j == levels - 1 else tau * norm.ppf(p[: j + 1].sum())
            best = max(best, min(lower, upper, radii[i : j + 1].min()))
    return float(best)


@pytest.mark.parametrize("levels", [1, 2, 3, 5])
def test_routed_radius_is_theorem_c(levels: int) -> None:
    g = torch.Generator().manual_seed(levels)
    shares = torch.softmax(torch.randn(40, levels, generator=g).double(), 1)
    radii = torch.randn(40, levels, generator=g).double()
    found = routed_radius(shares, radii, 0.7).numpy()
    expected = [routed(p, r, 0.7) for p, r in zip(shares.numpy(), radii.numpy(), strict=True)]
    assert np.allclose(found, expected, atol=1e-9)


def test_votes_between_thresholds_are_votes_for_levels() -> None:
    scores, thresholds = torch.randn(7, 50), torch.tensor([-0.5, 0.2, 0.2])
    levels = (scores[..., None] > thresholds).sum(-1)
    shares = nn.functional.one_hot(levels, 4).float().mean(1)
    assert torch.allclose(votes_between(scores, thresholds), shares, atol=1e-6)


def places(x: Tensor, radii: Tensor, **options: float) -> dict[str, float]:
    """Point by name, of two levels."""
    g = torch.Generator().manual_seed(0)
    chosen = Points(radii=(0.0, 0.25, 0.5, 0.75), **options)  # type: ignore[arg-type]
    found = operating_points(FirstPixel(), x.view(-1, 1, 1, 1), radii, TAU, chosen, g)
    return {name: point[0] for name, point in found.items()}


def test_a_line_between_two_kinds_of_images_is_found() -> None:
    """Level 1 certifies where the score is above 0.5, level 0 below."""
    x = torch.linspace(-6, 7, 141)
    above = x > 0.5
    radii = torch.stack([torch.where(above, -1.0, 0.9), torch.where(above, 0.9, -1.0)], 1)
    assert -1 < places(x, radii)["balanced"] < 2


def test_points_stand_in_order_and_keep_their_promise() -> None:
    """Level 0 certifies 0.6 everywhere; level 1 more of bright images, and loses some dark ones."""
    g = torch.Generator().manual_seed(1)
    x = 6 * torch.rand(600, generator=g)
    radii = torch.stack([torch.full((600,), 0.6), x / 3 - 0.4 * torch.rand(600, generator=g)], 1)
    found = places(x, radii, slack=0.01, edge=0.25)
    assert found["small"] >= found["balanced"] >= found["large"]
    assert found["small"] > found["large"]

    def certified(threshold: float, radius: float) -> float:
        above = torch.special.ndtr((x - threshold) / TAU)
        routed = routed_radius(torch.stack([1 - above, above], 1), radii, TAU)
        return float((routed > radius).float().mean())

    for radius in (0.0, 0.25):
        assert certified(found["small"], radius) > 0.96  # fixed 0 certifies all of them
    for radius in (0.0, 0.25, 0.5, 0.75):
        alone = float((radii[:, 1] > radius).float().mean())
        assert certified(found["large"], radius) > alone - 0.04


def test_three_levels_get_two_lines() -> None:
    x = torch.linspace(0, 9, 121)
    kinds = (x / 3).floor().clamp(max=2).long()
    radii = torch.where(nn.functional.one_hot(kinds, 3) > 0, 0.4, -1.0)
    g = torch.Generator().manual_seed(0)
    options = Points(radii=(0.0, 0.25), slack=0.1)
    found = operating_points(FirstPixel(), x.view(-1, 1, 1, 1), radii, TAU, options, g)
    low, high = found["balanced"]
    assert 2 < low < 4
    assert 5 < high < 7
