"""Training of the noise-level selector from the radii its classifiers reach."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from dualsmooth.engine.train.loop import Schedule, train_on_noise
from dualsmooth.engine.train.losses import consistency_loss, dual_radius, soft_cross_entropy


@dataclass(frozen=True, slots=True)
class SelectorLoss:
    """Weights of the selector's loss.

    Parameters
    ----------
    temperature : float
        Soft labels are softmax(radii / temperature), radii in pixel units.
    radius : float
        Weight of the routed radius (theorem C), which is maximized.
    pull, entropy : float
        Weights of the consistency loss.
    """

    temperature: float
    radius: float
    pull: float
    entropy: float


def train_selector(
    module: nn.Module,
    images: Tensor,
    radii: Tensor,
    tau: float,
    weights: SelectorLoss,
    schedule: Schedule,
    generator: Generator,
) -> nn.Module:
    """Teach a network to vote for the level that certifies each image, under noise tau.

    Parameters
    ----------
    images : Tensor, shape (n, channels, height, width)
    radii : Tensor, shape (n, K)
        Radius of the true class at each level, by networks that did not see the image; images
        that no level classifies are left out.
    """
    usable = (radii > 0).any(1)
    images, radii = images[usable], radii[usable]
    targets = torch.softmax(radii.clamp(min=0) / weights.temperature, 1)

    def loss(log_probabilities: Tensor, chosen: Tensor) -> Tensor:
        value = soft_cross_entropy(log_probabilities, targets[chosen])
        value = value + consistency_loss(log_probabilities, weights.pull, weights.entropy)
        routed = dual_radius(log_probabilities, radii[chosen], tau)
        return value - weights.radius * routed.mean()

    return train_on_noise(module, images, tau, loss, schedule, generator)
