"""Recipe `insta`: a noise level per training image (after Insta-RS, Chen et al., 2021).

Stage 1 trains one classifier at one noise level. Stage 2 trains it on, each image at its own level:
the one with the largest smoothed margin, searched again every few epochs. The table is forgotten at
test time; there a selector, taught with the radii of images that were held out, picks the level,
and it is certified like that of `dual`.
"""

from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from dualsmooth.engine.checks import positive, positive_integer
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.models.bundle import CLASSIFIER, SELECTOR, Bundle
from dualsmooth.engine.models.network import Network
from dualsmooth.engine.train.context import TrainingContext
from dualsmooth.engine.train.loop import Schedule, noisy_log_softmax, train_on_noise
from dualsmooth.engine.train.losses import mean_log_probabilities, soft_cross_entropy
from dualsmooth.engine.train.points import Points
from dualsmooth.engine.train.radii import Labelling, radii_of
from dualsmooth.engine.train.selector import SelectorLoss, make_selector
from dualsmooth.engine.train.utility import check_utility

CLIP = 0.02
"""Probabilities of the search stay in [CLIP, 1 - CLIP]: a few draws say nothing about tails."""


@dataclass(frozen=True, slots=True)
class InstaRecipe:
    """Everything that decides the weights, beside the images.

    Noise levels ascend; stage 1 has `first`, the selector tau. Stage 1 is on the schedule
    `classifying`; stage 2 is so many `rounds` of searching the table, with so many `draws` per
    image and level, and of `tuning`. One classifier labels, so images are held out.
    """

    name: str
    sigmas: tuple[float, ...]
    first: float
    tau: float
    classifying: Schedule
    tuning: Schedule
    selecting: Schedule
    rounds: int
    draws: int
    utility: str
    labelling: Labelling
    selector_loss: SelectorLoss = field(default_factory=SelectorLoss)
    points: Points = field(default_factory=Points)
    half: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        positive("first", self.first)
        positive("tau", self.tau)
        positive_integer("draws", self.draws)
        check_utility(self.utility, self.sigmas)
        if self.rounds < 0:
            raise ArgumentError("rounds", "must be an integer >= 0", self.rounds)
        if self.labelling.folds != 1:
            rule = "must be 1: one classifier labels the images it did not see"
            raise ArgumentError("folds", rule, self.labelling.folds)

    @property
    def steps(self) -> int:
        """Number of trainings: stage 1, the rounds of stage 2, the selector."""
        return 2 + self.rounds

    def make(self, context: TrainingContext) -> Bundle:
        """Train the classifier and the selector."""
        source = context.source(0, 0)
        held = self.labelling.held(context, 0, source)[0]
        classifier = self._classifier(context, ~held, source)
        selector = self._selector(context, classifier, held)
        networks = {
            CLASSIFIER: context.describe(classifier, context.classes, half=self.half),
            SELECTOR: selector,
        }
        data = context.data
        return Bundle(self.name, data.shape, context.classes, self.sigmas, self.tau, networks)

    def _classifier(self, context: TrainingContext, seen: Tensor, source: Generator) -> nn.Module:
        images = context.images[seen]
        targets = functional.one_hot(context.labels[seen], context.classes).float()

        def loss(logs: Tensor, chosen: Tensor) -> Tensor:
            return soft_cross_entropy(logs, targets[chosen])

        module = context.new(context.classes, source)
        step = context.step(CLASSIFIER)
        train_on_noise(module, images, self.first, loss, self.classifying, source, step)
        context.report(step.name)
        for number in range(self.rounds):
            table = widest_levels(module, images, self.sigmas, self.draws, source)
            step = context.step(f"{CLASSIFIER}-table{number}")
            train_on_noise(module, images, table, loss, self.tuning, source, step)
            context.report(step.name)
        return module

    def _selector(self, context: TrainingContext, classifier: nn.Module, held: Tensor) -> Network:
        images, labels = context.images[held], context.labels[held]
        votes = context.source(1, 0)
        radii = torch.full((len(held), len(self.sigmas)), torch.nan, device=context.device)
        for level, sigma in enumerate(self.sigmas):
            step = context.step(f"radii@{sigma:g}")
            radii[held, level] = radii_of(
                classifier, images, labels, sigma, self.labelling, votes, step
            )
        made = make_selector(self, context, radii, context.source(1, 1), SELECTOR, classifier)
        context.report(SELECTOR)
        return made[1]


def widest_levels(
    module: nn.Module, images: Tensor, sigmas: tuple[float, ...], draws: int, generator: Generator
) -> Tensor:
    """Level of the largest smoothed margin of each image, [n].

    J(s) = s / 2 (z(p_1) - z(p_2)) with the two largest entries of the mean softmax under noise s,
    clipped; the levels share their normals, so that they differ by the scale alone.
    """
    found = []
    with torch.no_grad():
        for part in torch.split(images, max(1, 4096 // draws)):
            state, margins = generator.get_state(), []
            for sigma in sigmas:
                generator.set_state(state)
                logs = noisy_log_softmax(module, part, sigma, draws, generator)
                shares = mean_log_probabilities(logs).exp().clamp(CLIP, 1 - CLIP)
                top = torch.special.ndtri(shares.topk(2, 1).values)
                margins.append(sigma / 2 * (top[:, 0] - top[:, 1]))
            found.append(torch.stack(margins, 1).argmax(1))
    levels = torch.tensor(sigmas, device=images.device)
    return levels[torch.cat(found)]


INSTA = InstaRecipe(
    name="insta",
    sigmas=(0.25, 0.5, 1.0),
    first=0.5,
    tau=1.0,
    classifying=Schedule(epochs=6, affine=None),
    tuning=Schedule(epochs=3, affine=None, peak_rate=1e-3),
    selecting=Schedule(epochs=8, affine=None, peak_rate=2e-3),
    rounds=2,
    draws=8,
    utility="R + 4 min(R, 0.5)",
    labelling=Labelling(votes=100),
)
"""Three noise levels for images of about 28x28 pixels."""
