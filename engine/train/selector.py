"""Training of the noise-level selector from the radii its classifiers reach."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from dualsmooth.engine.checks import non_negative
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.models.architectures.ordered import OrderedScore
from dualsmooth.engine.models.network import Network, network_from_module
from dualsmooth.engine.models.operating_point import BALANCED
from dualsmooth.engine.train.context import TrainingContext
from dualsmooth.engine.train.loop import Schedule, Step, train_on_noise
from dualsmooth.engine.train.losses import (
    consistency_loss,
    mean_log_probabilities,
    soft_cross_entropy,
)
from dualsmooth.engine.train.points import Points, operating_points
from dualsmooth.engine.train.utility import PUBLISHED, utility_of


@dataclass(frozen=True, slots=True)
class SelectorLoss:
    """How a selector is taught what the utility of the radii says.

    `pull` weighs the consistency loss: the variance over noise draws of the probability that a
    level is above a cut (published: Jeong and Shin's). A label says on which side of a cut an image
    has the larger utility; with `soft` > 0, in units of utility, it says how surely.
    """

    pull: float = 4.0
    soft: float = 0.0

    def __post_init__(self) -> None:
        non_negative("pull", self.pull)
        non_negative("soft", self.soft)


def train_selector(
    module: nn.Module,
    images: Tensor,
    radii: Tensor,
    tau: float,
    utility: str,
    terms: SelectorLoss,
    schedule: Schedule,
    generator: Generator,
    step: Step | None = None,
    teacher: nn.Module | None = None,
) -> nn.Module:
    """Teach a network to vote for the level that is worth most to each image, under noise tau.

    The radii of the true class at each level, [n, K], are by networks that did not see the image;
    images that no level classifies are left out. Where votes are joint, a `teacher` answers the
    same noisy images, and the network is taught its probabilities of the classes, too.
    """
    usable = (radii > 0).any(1)
    if not usable.any():
        rule = "must have images that some level classifies under noise"
        raise ArgumentError("data", rule, f"none of {len(radii)}", "train the classifiers longer")
    images, radii = images[usable], radii[usable]
    if utility == PUBLISHED:
        targets, weights = torch.softmax(radii.clamp(min=0), 1), rarity(radii)
    else:
        gains = cut_gains(utility_of(utility, radii)(radii))
        weights = gains.abs() / gains.abs().mean().clamp(min=1e-6)
        targets = torch.sigmoid(gains / terms.soft) if terms.soft else (gains > 0).float()

    def published(logs: Tensor, chosen: Tensor) -> Tensor:
        weight = weights[chosen]
        value = soft_cross_entropy(mean_log_probabilities(logs), targets[chosen], weight)
        return value + consistency_loss(logs, terms.pull, 0.5, weight)

    def joint(logs: Tensor, chosen: Tensor) -> Tensor:
        logs = logs.view(*logs.shape[:2], radii.shape[1] + 1, -1)  # [M, B, K + 1, C]
        pairs, told = logs[:, :, :-1], logs[:, :, -1].softmax(-1)
        classes = soft_cross_entropy(pairs.logsumexp(2).log_softmax(-1), told)
        return classes + ordinal(pairs.logsumexp(3), chosen)

    def ordinal(logs: Tensor, chosen: Tensor) -> Tensor:
        cuts = logs.diff(dim=-1)  # [M, B, K - 1], log odds of the level above each cut
        labels, weight = targets[chosen].expand_as(cuts), weights[chosen].expand_as(cuts)
        value = functional.binary_cross_entropy_with_logits(cuts, labels, weight)
        spread = cuts.sigmoid().var(0).mean() if len(cuts) > 1 else 0.0
        return value + terms.pull * spread

    loss = published if utility == PUBLISHED else ordinal if teacher is None else joint
    trained = module if teacher is None else _Beside(module, teacher)
    train_on_noise(trained, images, tau, loss, schedule, generator, step)
    return module


class _Beside(nn.Module):
    """Outputs of a network that is trained, and behind them those of a teacher that is not."""

    def __init__(self, network: nn.Module, teacher: nn.Module) -> None:
        super().__init__()
        self.network, self.teacher = network, teacher.forward  # no part of this module

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            told = self.teacher(x)
        return torch.cat([self.network(x), told.float()], 1)


def cut_gains(utilities: Tensor) -> Tensor:
    """What the best level above each cut is worth more than the best below: [n, K] -> [n, K - 1].

    A classification weighted by it costs what a wrong side costs, so an easy image, whose radii
    differ much, has a weight that makes the selector sure of it.
    """
    below = utilities.cummax(1).values[:, :-1]
    above = utilities.flip(1).cummax(1).values.flip(1)[:, 1:]
    return above - below


def rarity(radii: Tensor) -> Tensor:
    """One over the share of the image's best level, [n, K] -> [n]."""
    best = radii.argmax(1)
    shares = torch.bincount(best, minlength=radii.shape[1]) / len(radii)
    return 1 / shares[best]


class SelectorRecipe(Protocol):
    """The part of a recipe that a selector is made by."""

    @property
    def tau(self) -> float:
        """Noise level of the selector."""

    @property
    def utility(self) -> str:
        """What a radius is worth (`dualsmooth.engine.train.utility`)."""

    @property
    def selector_loss(self) -> SelectorLoss:
        """How its labels are taught."""

    @property
    def selecting(self) -> Schedule:
        """How long and how fast it is trained."""

    @property
    def points(self) -> Points:
        """How its operating points are found."""

    @property
    def half(self) -> bool:
        """Whether its finished weights are rounded to float16."""


def make_selector(
    recipe: SelectorRecipe,
    context: TrainingContext,
    radii: Tensor,
    source: Generator,
    name: str,
    start: nn.Module | None = None,
    joint: bool = False,
) -> tuple[nn.Module, Network]:
    """A selector taught with the radii of all images, [n, K], NaN where an image has no label.

    It begins with the weights of `start`, a network of its architecture but for the outputs. The
    images its operating points are found on teach it nothing. With `joint` votes it goes on
    answering as `start` does, beside its score.
    """
    levels, published = radii.shape[1], recipe.utility == PUBLISHED
    outputs = levels if published else 1 + joint * context.classes
    module = network = context.new(outputs, source)
    if start is not None:
        copy_features(start, network, joint=joint)
    thresholds = [float(2 * cut - levels + 2) for cut in range(levels - 1)]
    if not published:
        module = OrderedScore(network, thresholds, joint=joint)
    labelled = radii[:, 0].isfinite().nonzero()[:, 0]
    kept = 0 if published else int(len(labelled) * recipe.points.share)
    apart, labelled = labelled[:kept], labelled[kept:]
    tau, utility, step = recipe.tau, recipe.utility, context.step(name)
    taught = (context.images[labelled], radii[labelled])
    terms, schedule, teacher = recipe.selector_loss, recipe.selecting, start if joint else None
    train_selector(module, *taught, tau, utility, terms, schedule, source, step, teacher)
    if published:
        return module, context.describe(module, levels, half=recipe.half)
    points = {BALANCED: thresholds}
    if kept:
        unseen = (context.images[apart], radii[apart])
        points = operating_points(network, *unseen, tau, recipe.points, source)
    architecture, kwargs = context.architecture(outputs)
    described: dict[str, object] = {"architecture": architecture, "kwargs": kwargs}
    described |= {"points": points, "prefer": BALANCED} | ({"joint": True} if joint else {})
    module = OrderedScore(network, points[BALANCED], joint=joint).eval()
    return module, network_from_module(module, "ordered_score", described, half=recipe.half)


def copy_features(source: nn.Module, target: nn.Module, *, joint: bool = False) -> None:
    """Copy every tensor of one network into another whose last layer has other outputs.

    With `joint` that layer has the outputs of the source, and then one of its own.
    """
    tensors = {}
    known = source.state_dict().values()
    for (name, own), tensor in zip(target.state_dict().items(), known, strict=True):
        if own.shape == tensor.shape:
            tensors[name] = tensor
        else:
            tensors[name] = torch.cat([tensor, own[-1:]]) if joint else own
    target.load_state_dict(tensors)
