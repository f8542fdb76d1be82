import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import Tensor, nn

from dualsmooth.engine.train.selector import Shift, calibrate, routed_radius


class Linear(nn.Module):
    """Votes for level 1 where the first pixel is above a threshold, for level 0 below."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.last = nn.Linear(1, 2)
        with torch.no_grad():
            self.last.weight.copy_(torch.tensor([[0.0], [1.0]]))
            self.last.bias.copy_(torch.tensor([0.0, -threshold]))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last(x.flatten(1)[:, :1])
        return logits


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


def test_a_selector_with_its_line_in_the_wrong_place_is_moved() -> None:
    """Level 1 wins above 0.5, the selector says above 3.5: the shift is 3."""
    x = torch.linspace(-3, 4, 41).view(-1, 1, 1, 1)
    above = x.flatten() > 0.5
    radii = torch.stack([torch.where(above, -1.0, 0.3), torch.where(above, 0.9, -1.0)], 1)
    selector = Linear(3.5)
    g = torch.Generator().manual_seed(0)
    shift = calibrate(selector, x, radii, 0.1, Shift(slack=1.0, radii=(0.0,)), g)
    assert shift == 3.0
    assert torch.allclose(selector.last.bias, torch.tensor([0.0, -0.5]))


def test_slack_comes_before_gain() -> None:
    """Routing gains at radius 0 and loses at 0.5; without slack the best fixed level stays."""
    x = torch.linspace(-2, 2, 41).view(-1, 1, 1, 1)
    radii = torch.full((41, 2), 0.1)
    radii[:, 1] = torch.where(x.flatten() > 0, 2.0, -1.0)
    radii[::7, 1] = 2.0  # images on the wrong side, which routing would lose
    shifts, shares = [], []
    for slack in (0.0, 1.0):
        selector = Linear(0.0)
        options = Shift(slack=slack, radii=(0.0, 0.5))
        g = torch.Generator().manual_seed(0)
        shifts.append(calibrate(selector, x, radii, 0.2, options, g))
        shares.append(float((selector(x).argmax(1) == 1).float().mean()))
    assert shifts[0] > shifts[1]
    assert shares[0] == 1.0
    assert shares[1] < 1.0


def test_without_a_certified_image_nothing_moves() -> None:
    selector = Linear(1.0)
    x, radii = torch.rand(3, 1, 1, 1), torch.full((3, 2), -1.0)
    assert calibrate(selector, x, radii, 0.1, Shift(), torch.Generator()) == 0.0
    assert torch.allclose(selector.last.bias, torch.tensor([0.0, -1.0]))
    assert calibrate(selector, x[:0], radii[:0], 0.1, Shift(), torch.Generator()) == 0.0
