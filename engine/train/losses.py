"""Losses for networks that will be smoothed. All of them stay in the log domain."""

from dataclasses import dataclass
from math import log

import torch
from torch import Generator, Tensor, nn

from dualsmooth.engine.checks import non_negative, positive, positive_integer
from dualsmooth.engine.train.loop import noisy_log_softmax

_FAR = 10.0


def mean_log_probabilities(log_probabilities: Tensor) -> Tensor:
    """Log of the mean over noise draws of softmax outputs, [M, B, K] -> [B, K].

    The mean of probabilities would underflow to 0, and the gradient of its log to NaN.
    """
    return torch.logsumexp(log_probabilities, 0) - log(len(log_probabilities))


def consistency_loss(
    log_probabilities: Tensor, pull: float, entropy: float, weights: Tensor | None = None
) -> Tensor:
    """Jeong and Shin's regularizer: pull * mean_m KL(mean || f_m) + entropy * H(mean).

    Of the log softmax under M noise draws [M, B, K]; images may have weights [B].
    """
    center = mean_log_probabilities(log_probabilities)
    shares = center.exp()
    divergence = _mean((shares * (center - log_probabilities)).sum(-1), weights)
    return pull * divergence - entropy * _mean((shares * center).sum(-1), weights)


def soft_cross_entropy(
    log_probabilities: Tensor, targets: Tensor, weights: Tensor | None = None
) -> Tensor:
    """Mean cross entropy with target probabilities [B, K], over noise draws [M, B, K].

    Images may have weights [B].
    """
    return -_mean((targets * log_probabilities).sum(-1), weights)


def _mean(values: Tensor, weights: Tensor | None) -> Tensor:
    """Mean over draws and images, [M, B] or [B]; images with weight 0 do not count."""
    if weights is None:
        return values.mean()
    return (weights * values).mean() / weights.mean().clamp(min=1e-6)


def interval_radii(shares: Tensor, radii: Tensor, tau: float, tail: float) -> Tensor:
    """Radius of each interval of levels i <= j, [intervals, B]; routing reaches the largest.

    min(u_i, v_j, min radii_i..j) with u_i = tau z(P(h >= i)), v_j = tau z(P(h <= j)), u_1 = v_K =
    infinity (theorem C), where P are shares [B, K] at least `tail` from 0 and 1, and `radii` [B, K]
    are those of the true class at each level in pixel units, negative where it loses.
    """
    levels = radii.shape[1]
    below = shares.cumsum(1)[:, :-1]  # P(h <= j), j < K
    margin = tau * torch.special.ndtri(below.clamp(tail, 1 - tail))
    far = radii.new_full((len(radii), 1), _FAR)
    lower = torch.cat([far, -margin], 1)  # u_1 .. u_K
    upper = torch.cat([margin, far], 1)  # v_1 .. v_K
    routed = []
    for first in range(levels):
        weakest = far[:, 0]
        for last in range(first, levels):
            weakest = torch.minimum(weakest, radii[:, last])
            inside = torch.minimum(lower[:, first], upper[:, last])
            routed.append(torch.minimum(inside, weakest))
    return torch.stack(routed)


@dataclass(frozen=True, slots=True)
class SmoothMix:
    """How adversarial images are found, and the weight of the loss of the mixed ones.

    Gradient `steps` away from the true class have L2 `length` in units of the noise level and share
    their noise draws.
    """

    steps: int = 2
    length: float = 0.5
    weight: float = 2.0
    draws: int = 2

    def __post_init__(self) -> None:
        positive_integer("steps", self.steps)
        positive("length", self.length)
        non_negative("weight", self.weight)
        positive_integer("draws", self.draws)


def smoothmix_loss(
    module: nn.Module,
    clean: Tensor,
    targets: Tensor,
    sigma: float | Tensor,
    options: SmoothMix,
    generator: Generator,
) -> Tensor:
    """Cross entropy under noise, and of images mixed towards the uniform distribution.

    x' is x after gradient steps on -log of the smoothed probability of the true class; the mixed
    image (1 - m) x + m x', m uniform in [0, 1/2], has the target (1 - m) F(x) + m / K, where F(x)
    is the mean softmax under noise. sigma is one number or [B, 1, 1, 1], targets are [B, K].
    """
    logs = noisy_log_softmax(module, clean, sigma, options.draws, generator)
    natural = soft_cross_entropy(logs, targets)
    smoothed = mean_log_probabilities(logs).exp().detach()
    far = _adversarial(module, clean, targets, sigma, options, generator)
    share = torch.rand(len(clean), 1, generator=generator, device=clean.device) / 2
    mixed = torch.lerp(clean, far, share.view(-1, 1, 1, 1))
    aim = (1 - share) * smoothed + share / targets.shape[1]
    mixed_logs = noisy_log_softmax(module, mixed, sigma, options.draws, generator)
    return natural + options.weight * soft_cross_entropy(mixed_logs, aim)


def _adversarial(
    module: nn.Module,
    clean: Tensor,
    targets: Tensor,
    sigma: float | Tensor,
    options: SmoothMix,
    generator: Generator,
) -> Tensor:
    module.eval()  # steps must not move the running statistics
    state, moved = generator.get_state(), clean
    for _ in range(options.steps):
        generator.set_state(state)  # the same noise at every step
        moved = moved.detach().requires_grad_()
        logs = noisy_log_softmax(module, moved, sigma, options.draws, generator)
        loss = -(targets * mean_log_probabilities(logs)).sum()
        (gradient,) = torch.autograd.grad(loss, moved)
        norm = gradient.flatten(1).norm(dim=1).clamp(min=1e-12).view(-1, 1, 1, 1)
        moved = moved + options.length * sigma * gradient / norm
    module.train()
    return moved.detach()
