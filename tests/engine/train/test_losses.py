import math

import torch
from torch.nn.functional import log_softmax

from dualsmooth.engine.train.losses import consistency_loss, soft_cross_entropy


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


def test_soft_cross_entropy_of_hard_targets() -> None:
    logs = random_logs(2, 4, 3)
    hard = torch.eye(3).double()[[0, 2, 1, 1]]
    expected = -logs[:, range(4), [0, 2, 1, 1]].mean()
    assert math.isclose(soft_cross_entropy(logs, hard), expected)
