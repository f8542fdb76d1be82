"""Training of the noise-level selector from the radii its classifiers reach."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from dualsmooth.engine.checks import non_negative, positive
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.train.loop import Schedule, Step, train_on_noise
from dualsmooth.engine.train.losses import (
    consistency_loss,
    dual_radius,
    mean_log_probabilities,
    soft_cross_entropy,
)


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
    of_mean : bool
        Cross entropy of the mean over noise draws, as published, instead of every draw.
    rebalance : bool
        Weight an image by one over the share of its best level, as published.
    near, edge : float
        The routed radius counts `near` times more up to `edge`: accuracy at small radii.
    wrong_costs : bool
        A level that gets an image wrong counts with its negative radius. A certificate counts 0
        there, so this is no radius any more: it draws the selector to small noise levels.
    """

    temperature: float
    radius: float
    pull: float
    entropy: float
    of_mean: bool = False
    rebalance: bool = False
    near: float = 0.0
    edge: float = 0.5
    wrong_costs: bool = False

    def __post_init__(self) -> None:
        positive("temperature", self.temperature)
        for name in ("radius", "pull", "entropy", "near", "edge"):
            non_negative(name, getattr(self, name))


def train_selector(
    module: nn.Module,
    images: Tensor,
    radii: Tensor,
    tau: float,
    terms: SelectorLoss,
    schedule: Schedule,
    generator: Generator,
    step: Step | None = None,
) -> nn.Module:
    """Teach a network to vote for the level that certifies each image, under noise tau.

    Parameters
    ----------
    images : Tensor, shape (n, channels, height, width)
    radii : Tensor, shape (n, K)
        Radius of the true class at each level, by networks that did not see the image; images
        that no level classifies are left out.

    Raises
    ------
    ArgumentError
        If no level classifies any image.
    """
    usable = (radii > 0).any(1)
    if not usable.any():
        rule = "must have images that some level classifies under noise"
        raise ArgumentError("data", rule, f"none of {len(radii)}", "train the classifiers longer")
    images, radii = images[usable], radii[usable]
    certified = radii.clamp(min=0)
    worth = radii if terms.wrong_costs else certified
    targets = torch.softmax(certified / terms.temperature, 1)
    weights = rarity(radii) if terms.rebalance else None

    def loss(log_probabilities: Tensor, chosen: Tensor) -> Tensor:
        weight = None if weights is None else weights[chosen]
        judged = mean_log_probabilities(log_probabilities) if terms.of_mean else log_probabilities
        value = soft_cross_entropy(judged, targets[chosen], weight)
        value = value + consistency_loss(log_probabilities, terms.pull, terms.entropy, weight)
        if not terms.radius:
            return value
        routed = dual_radius(log_probabilities, worth[chosen], tau)
        if terms.near:
            routed = routed + terms.near * routed.clamp(max=terms.edge)
        return value - terms.radius * routed.mean()

    return train_on_noise(module, images, tau, loss, schedule, generator, step)


def rarity(radii: Tensor) -> Tensor:
    """One over the share of the image's best level, [n, K] -> [n]."""
    best = radii.argmax(1)
    shares = torch.bincount(best, minlength=radii.shape[1]) / len(radii)
    return 1 / shares[best]
