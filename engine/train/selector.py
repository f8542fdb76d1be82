"""Training of the noise-level selector from the radii its classifiers reach."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from dualsmooth.engine.checks import (
    closed_unit,
    non_negative,
    open_unit,
    positive,
    positive_integer,
)
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.train.loop import Schedule, Step, train_on_noise
from dualsmooth.engine.train.losses import (
    consistency_loss,
    dual_radius,
    interval_radii,
    mean_log_probabilities,
    soft_cross_entropy,
)
from dualsmooth.engine.train.radii import noisy_logits


@dataclass(frozen=True, slots=True)
class SelectorLoss:
    """Weights of the selector's loss: cross entropy with softmax(radii / temperature), and more.

    `radius` weighs the routed radius (theorem C), which is maximized and counts `near` times more
    up to `edge` (accuracy at small radii); `pull` and `entropy` the consistency loss. As published,
    `of_mean` takes the cross entropy of the mean over noise draws instead of every draw, and
    `rebalance` weighs an image by one over the share of its best level. With `wrong_costs` a level
    that gets an image wrong counts with its negative radius. A certificate counts 0 there, so this
    is no radius any more: it draws the selector to small noise levels.
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

    The radii of the true class at each level, [n, K], are by networks that did not see the image;
    images that no level classifies are left out.
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


@dataclass(frozen=True, slots=True)
class Shift:
    """A shift s adds s * k / (K - 1) to the logit of level k; this is how s is chosen.

    The largest worst share of the oracle wins, on a `share` of the labelled images that the
    selector is not trained on, each with so many votes. Preferred are shifts that stay at most
    `slack` of the images below the best fixed level at every radius of the grid.
    """

    share: float = 0.2
    votes: int = 200
    slack: float = 0.01
    shifts: tuple[float, ...] = tuple(s / 2 for s in range(-12, 13))
    radii: tuple[float, ...] = tuple(r / 4 for r in range(13))

    def __post_init__(self) -> None:
        open_unit("share", self.share)
        positive_integer("votes", self.votes)
        closed_unit("slack", self.slack)


def calibrate(
    selector: nn.Module,
    images: Tensor,
    radii: Tensor,
    tau: float,
    options: Shift,
    generator: Generator,
) -> float:
    """Shift the last layer's biases of a selector; returns the shift, 0 if no image is certified.

    Neither the classifiers nor the selector saw the images; the radii [n, K] of the true class at
    each level are <= 0 where it loses.
    """
    if not (radii > min(options.radii)).any():
        return 0.0
    levels = radii.shape[1]
    with torch.no_grad():
        logits = noisy_logits(selector, images, tau, options.votes, generator)
    ramp = torch.arange(levels, device=radii.device) / max(1, levels - 1)
    grid = torch.tensor(options.radii, device=radii.device)

    def certified(values: Tensor) -> Tensor:
        return (values[:, None] > grid).float().mean(0)

    oracle = certified(radii.max(1).values)
    best = certified(radii[:, radii.clamp(min=0).mean(0).argmax()])
    reached = oracle > 0

    def rank(shift: float) -> tuple[float, float]:
        winners = (logits + shift * ramp).argmax(-1)
        shares = nn.functional.one_hot(winners, levels).float().mean(1)
        found = certified(routed_radius(shares, radii, tau))
        below = float((best - found).max())
        return -max(below, options.slack), float((found / oracle)[reached].min())

    shift = max(options.shifts, key=rank)
    last = [part for part in selector.modules() if isinstance(part, nn.Linear)][-1]
    with torch.no_grad():
        last.bias.add_(shift * ramp)
    return shift


def routed_radius(shares: Tensor, radii: Tensor, tau: float) -> Tensor:
    """Radius of interval routing (theorem C) from vote shares [n, K] and radii [n, K]: [n]."""
    return interval_radii(shares, radii, tau, 1e-3).max(0).values
