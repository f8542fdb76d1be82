"""SmoothMix (Jeong et al., 2021): mixing with adversarial images of the smoothed classifier."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from dualsmooth.engine.checks import non_negative, positive, positive_integer
from dualsmooth.engine.train.loop import noisy_log_softmax
from dualsmooth.engine.train.losses import mean_log_probabilities, soft_cross_entropy


@dataclass(frozen=True, slots=True)
class SmoothMix:
    """How adversarial images are found, and the weight of the mixed ones.

    Parameters
    ----------
    steps : int
        Gradient steps away from the true class.
    length : float
        L2 length of a step, in units of the noise level.
    weight : float
        Of the loss of the mixed images.
    draws : int
        Noise draws per image, shared by the steps.
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
    is the mean softmax under noise.

    Parameters
    ----------
    clean : Tensor, shape (B, C, H, W)
    targets : Tensor, shape (B, K)
    sigma : float, or Tensor of shape (B, 1, 1, 1)
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
