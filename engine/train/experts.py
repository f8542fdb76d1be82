"""The networks of one noise level of a dual model, and the radii they reach on unseen images."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from dualsmooth.engine.checks import closed_unit, non_negative, positive
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.models.bundle import expert_role
from dualsmooth.engine.train.context import TrainingContext
from dualsmooth.engine.train.loop import Schedule, Step, noisy_log_softmax, train_on_noise
from dualsmooth.engine.train.losses import (
    consistency_loss,
    mean_log_probabilities,
    soft_cross_entropy,
)
from dualsmooth.engine.train.radii import Labelling, radii_of

TUNED = 4
"""Purpose of the random sources of round 1."""

TAUGHT = 3
"""Purpose of the random sources of a teacher's answers."""

_ANSWERS = 8


@dataclass(frozen=True, slots=True)
class Expert:
    """How the classifier of one level, sigma in pixel units, is trained.

    `pull` and `entropy` weigh the consistency loss; `teacher`, in [0, 1], the answers of the next
    smaller level's network, which sees more of an image, in the targets. The rest is the label's.
    """

    sigma: float
    pull: float = 0.0
    entropy: float = 0.0
    teacher: float = 0.0

    def __post_init__(self) -> None:
        positive("sigma", self.sigma)
        non_negative("pull", self.pull)
        non_negative("entropy", self.entropy)
        closed_unit("teacher", self.teacher)


@dataclass(frozen=True, slots=True)
class Tuning:
    """Round 1; `least`, in [0, 1], is the weight of an image to an expert never picked for it."""

    schedule: Schedule
    least: float

    def __post_init__(self) -> None:
        closed_unit("least", self.least)


@dataclass(eq=False)
class ExpertTrainer:
    """The networks of one level: the deployed one, and those that label images they did not see.

    With cross fitting there is one labelling network per fold; with images held out the deployed
    network labels them itself.
    """

    expert: Expert
    level: int
    schedule: Schedule
    labelling: Labelling
    context: TrainingContext

    def __post_init__(self) -> None:
        self.source = self.context.source(self.level, 1)
        self.modules: list[nn.Module] = []

    def train(self, below: "ExpertTrainer | None" = None) -> None:
        """Round 0; the networks of the folds are trained when their radii are asked for.

        With folds there is no teacher: it would tell their networks about images they must not see.
        """
        self.targets = self._targets(below)
        self.held = self.labelling.held(self.context, self.level, self.source)
        alone = len(self.held) == 1
        self.seen = ~self.held[0] if alone else torch.ones_like(self.held[0])
        self.deployed = self._fit(None, self.seen, self.context.source(self.level, 0), "")
        self.modules = [self.deployed] if alone else []

    def radii(self, number: int) -> Tensor:
        """Radius of each image by a network that did not see it, NaN where there is none: [n]."""
        radii = torch.full((len(self.context.images),), torch.nan, device=self.context.device)
        for fold, held in enumerate(self.held):
            name = f"fold{fold}"
            if fold == len(self.modules):
                self.modules.append(self._fit(None, ~held, self.source, name))
            radii[held] = self._radii(self.modules[fold], held, f"{name}-round{number}")
        return radii

    def tune(self, tuning: Tuning, share: Tensor) -> None:
        """Round 1: train on with the selector's share of this level as the weight of an image."""
        weights = tuning.least + (1 - tuning.least) * share
        source = self.context.source(self.level, TUNED)
        names = [f"fold{fold}-tuned" for fold in range(len(self.held))]
        if len(self.held) == 1:  # the deployed network labels
            names = ["tuned"]
        schedule, deployed = tuning.schedule, self.deployed
        self.modules = [
            self._fit(module, ~held, source, name, schedule, weights)
            for name, module, held in zip(names, self.modules, self.held, strict=True)
        ]
        self.deployed = self.modules[0]
        if len(self.held) > 1:
            self.deployed = self._fit(deployed, self.seen, source, "tuned", schedule, weights)

    def _targets(self, below: "ExpertTrainer | None") -> Tensor:
        labels = functional.one_hot(self.context.labels, self.context.classes).float()
        share = self.expert.teacher
        if not share:
            return labels
        if below is None or self.labelling.folds > 1:
            rule = "must be 0 for the smallest level and with cross fitting"
            raise ArgumentError("teacher", rule, share)
        source = self.context.source(self.level, TAUGHT)
        images, sigma = self.context.images, below.expert.sigma
        return (1 - share) * labels + share * mean_answer(below.deployed, images, sigma, source)

    def _radii(self, module: nn.Module, held: Tensor, name: str) -> Tensor:
        step = self.context.step(f"radii@{self.expert.sigma:g}-{name}")
        images, labels = self.context.images[held], self.context.labels[held]
        sigma, labelling = self.expert.sigma, self.labelling
        return radii_of(module, images, labels, sigma, labelling, self.source, step)

    def _fit(
        self,
        module: nn.Module | None,
        seen: Tensor,
        source: Generator,
        name: str,
        schedule: Schedule | None = None,
        weights: Tensor | None = None,
    ) -> nn.Module:
        context, expert = self.context, self.expert
        targets = self.targets[seen]
        weight = None if weights is None else weights[seen]

        def loss(logs: Tensor, chosen: Tensor) -> Tensor:
            share = None if weight is None else weight[chosen]
            value = soft_cross_entropy(logs, targets[chosen], share)
            return value + consistency_loss(logs, expert.pull, expert.entropy, share)

        role = expert_role(expert.sigma)
        step = Step(f"{role}-{name}" if name else role, context.checkpoints)
        module = module or context.new(context.classes, source)
        images = context.images[seen]
        schedule = schedule or self.schedule
        train_on_noise(module, images, expert.sigma, loss, schedule, source, step)
        context.report(step.name)
        return module


def mean_answer(module: nn.Module, images: Tensor, sigma: float, generator: Generator) -> Tensor:
    """Mean softmax under a few draws of noise sigma, [n, K]."""
    answers = []
    with torch.no_grad():
        for part in torch.split(images, 128):
            logs = noisy_log_softmax(module, part, sigma, _ANSWERS, generator)
            answers.append(mean_log_probabilities(logs).exp())
    return torch.cat(answers)
