import math

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch.nn.functional import log_softmax

from dualsmooth.engine.train.losses import (
    SHARPNESS,
    consistency_loss,
    dual_radius,
    mean_log_probabilities,
    soft_cross_entropy,
)


def random_logs(draws: int, batch: int, classes: int, scale: float = 2.0) -> torch.Tensor:
    g = torch.Generator().manual_seed(draws + batch)
    return log_softmax(scale * torch.randn(draws, batch, classes, generator=g).double(), -1)


def test_consistency_in_probability_space() -> None:
    logs = random_logs(3, 7, 5)
    p = logs.exp()
    center = p.mean(0)
    divergence = (center * (center / p).log()).sum(-1).mean()
    entropy = -(center * center.log()).sum(-1).mean()
    assert math.isclose(consistency_loss(logs, 4, 0.5), 4 * divergence + 0.5 * entropy)
    same = logs[:1].expand(3, -1, -1)
    assert abs(consistency_loss(same, 4, 0)) < 1e-12


def test_far_apart_logits_give_finite_gradients() -> None:
    """In probability space the mean underflows here and its log has gradient NaN."""

    def gradient(loss: object) -> torch.Tensor:
        logits = torch.tensor([[[0.0, 300.0]], [[0.0, 300.0]]], requires_grad=True)
        value = loss(log_softmax(logits, -1))  # type: ignore[operator]
        value.backward()
        assert logits.grad is not None
        return logits.grad

    def naive(logs: torch.Tensor) -> torch.Tensor:
        center = logs.exp().mean(0)
        return (center * (center.log() - logs)).sum(-1).mean()

    assert not gradient(naive).isfinite().all()
    assert gradient(lambda logs: consistency_loss(logs, 40, 0.5)).isfinite().all()
    radii = torch.tensor([[0.1, 0.4]])
    assert gradient(lambda logs: dual_radius(logs, radii, 0.5).mean()).isfinite().all()


def test_soft_cross_entropy_of_hard_targets() -> None:
    logs = random_logs(2, 4, 3)
    hard = torch.eye(3).double()[[0, 2, 1, 1]]
    expected = -logs[:, range(4), [0, 2, 1, 1]].mean()
    assert math.isclose(soft_cross_entropy(logs, hard), expected)


def routed_radius(p: np.ndarray, radii: np.ndarray, tau: float) -> float:
    """Theorem C, from its own words: all intervals, one image."""
    levels, best = len(p), -math.inf
    for i in range(levels):
        for j in range(i, levels):
            lower = math.inf if i == 0 else tau * norm.ppf(p[i:].sum())
            upper = math.inf if j == levels - 1 else tau * norm.ppf(p[: j + 1].sum())
            best = max(best, min(lower, upper, radii[i : j + 1].min()))
    return best


@pytest.mark.parametrize("levels", [1, 2, 3, 5])
def test_dual_radius_is_theorem_c(levels: int) -> None:
    logs = random_logs(4, 50, levels)
    radii = 0.5 * torch.randn(50, levels, generator=torch.Generator().manual_seed(1)).double()
    probabilities = mean_log_probabilities(logs).exp().numpy()
    expected = [routed_radius(p, r, 0.5) for p, r in zip(probabilities, radii.numpy(), strict=True)]
    above = dual_radius(logs, radii, 0.5).numpy() - expected
    slack = math.log(levels * (levels + 1) / 2) / SHARPNESS
    assert above.min() > -1e-9
    assert above.max() < slack + 1e-9


def test_dual_radius_pulls_the_selector_to_the_best_level() -> None:
    """At the start levels 2 and 3 together give 0.2, bounded by level 2: under a true maximum
    the gradient is 0 and the selector stays."""
    radii = torch.tensor([[0.1, 0.2, 0.7]])
    logits = torch.tensor([[[0.0, 0.0, 1.0]]], requires_grad=True)
    for _ in range(200):
        (gradient,) = torch.autograd.grad(
            -dual_radius(log_softmax(logits, -1), radii, 0.5).sum(), logits
        )
        logits = (logits - gradient).detach().requires_grad_()
    assert logits.argmax().item() == 2
    assert dual_radius(log_softmax(logits, -1), radii, 0.5).item() > 0.65
