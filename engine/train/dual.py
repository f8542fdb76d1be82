"""Training of a dual model: an expert classifier per noise level and a selector over them.

Round 0: experts, the radii they reach on images they did not see, a selector taught with those.
Round 1 (`Tuning`): each expert is tuned with the weight the selector gives its level, then radii
and selector are made again (Sun, Mao and Vechev, 2025).
"""

from dataclasses import dataclass, field

import torch
from torch import nn

from dualsmooth.engine.checks import positive
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.models.bundle import SELECTOR, Bundle, expert_role
from dualsmooth.engine.models.network import Network
from dualsmooth.engine.train.context import SMALL, Sizes, TrainingContext
from dualsmooth.engine.train.experts import TUNED, Expert, ExpertTrainer, Tuning
from dualsmooth.engine.train.loop import Schedule
from dualsmooth.engine.train.points import Points
from dualsmooth.engine.train.radii import Labelling, selected_shares
from dualsmooth.engine.train.selector import SelectorLoss, make_selector
from dualsmooth.engine.train.utility import PUBLISHED, check_utility


@dataclass(frozen=True, slots=True)
class DualRecipe:
    """Everything that decides the weights, beside the images.

    Experts are in ascending order of their noise level; the selector's is tau, and it is taught
    with the radii that `labelling` finds and what they are worth by `utility`, from the weights of
    the nearest expert with `warm_start`. `points` finds its operating points. With `joint` votes it
    classifies, too, as the expert at tau does, so that one pass gives both votes of a row. `tuning`
    is round 1, if there is one; `half` rounds the finished weights to float16. `network` and
    `sizes` are those of every network (`TrainingContext`).
    """

    name: str
    experts: tuple[Expert, ...]
    tau: float
    classifying: Schedule
    selecting: Schedule
    utility: str
    labelling: Labelling
    selector_loss: SelectorLoss = field(default_factory=SelectorLoss)
    points: Points = field(default_factory=Points)
    tuning: Tuning | None = None
    warm_start: bool = True
    joint: bool = False
    sizes: Sizes | None = None
    half: bool = False
    seed: int = 0
    network: str = SMALL

    def __post_init__(self) -> None:
        positive("tau", self.tau)
        check_utility(self.utility, self.sigmas)
        if self.joint and (self.tau not in self.sigmas or self.utility == PUBLISHED):
            rule = f"must be false where tau is none of {self.sigmas} or utility {PUBLISHED}"
            raise ArgumentError("joint", rule, f"tau {self.tau:g}, {self.utility}")

    @property
    def sigmas(self) -> tuple[float, ...]:
        """Noise levels, ascending."""
        return tuple(expert.sigma for expert in self.experts)

    @property
    def steps(self) -> int:
        """Number of networks that are trained."""
        per_expert = 1 if self.labelling.folds == 1 else 1 + self.labelling.folds
        return (per_expert * len(self.experts) + 1) * (1 if self.tuning is None else 2)

    def make(self, context: TrainingContext) -> Bundle:
        """Train every network; the same seed gives the same bytes on one kind of machine."""
        if len(context.data) < max(2, self.labelling.folds):
            rule = f"must be at least {max(2, self.labelling.folds)} images"
            raise ArgumentError("data", rule, context.data.name)
        trainers = [
            ExpertTrainer(expert, level, self.classifying, self.labelling, context)
            for level, expert in enumerate(self.experts)
        ]
        for below, trainer in zip((None, *trainers), trainers, strict=False):
            trainer.train(below)
        module, selector = self._selector(context, trainers, 0)
        if self.tuning is not None:
            votes, source = self.labelling.votes, context.source(len(trainers), TUNED)
            shares = selected_shares(module, context.images, self.tau, votes, source)
            shares = shares.view(len(shares), len(trainers), -1).sum(2)  # over classes, if joint
            for trainer in trainers:
                trainer.tune(self.tuning, shares[:, trainer.level])
            _, selector = self._selector(context, trainers, 1)
        networks = {
            expert_role(trainer.expert.sigma): context.describe(
                trainer.deployed, context.classes, half=self.half
            )
            for trainer in trainers
        }
        networks[SELECTOR] = selector
        data = context.data
        return Bundle(self.name, data.shape, context.classes, self.sigmas, self.tau, networks)

    def _selector(
        self, context: TrainingContext, trainers: list[ExpertTrainer], number: int
    ) -> tuple[nn.Module, Network]:
        radii = torch.stack([trainer.radii(number) for trainer in trainers], 1)
        source = context.source(len(trainers), number * (TUNED + 1))
        nearest = min(trainers, key=lambda trainer: abs(trainer.expert.sigma - self.tau))
        start = nearest.deployed if self.warm_start or self.joint else None
        name = SELECTOR if number == 0 else f"{SELECTOR}-round{number}"
        made = make_selector(self, context, radii, source, name, start, self.joint)
        context.report(name)
        return made
