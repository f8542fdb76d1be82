"""Training of a dual model: an expert classifier per noise level and a selector over them.

Round 0: experts, the radii they reach on images they did not see, a selector taught with those.
Round 1 (`Tuning`): each expert is tuned with the weight the selector gives its level, then radii
and selector are made again (Sun, Mao and Vechev, 2025).
"""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.models.bundle import SELECTOR, Bundle, expert_role
from dualsmooth.engine.train.calibrate import Calibration, calibrate
from dualsmooth.engine.train.loop import Schedule, Step, train_on_noise
from dualsmooth.engine.train.losses import consistency_loss, soft_cross_entropy
from dualsmooth.engine.train.radii import Labelling, radii_of, selected_shares
from dualsmooth.engine.train.selector import SelectorLoss, train_selector
from dualsmooth.engine.train.workshop import Sizes, Workshop

_TUNED = 4
"""Purpose of the random sources of round 1."""


@dataclass(frozen=True, slots=True)
class Expert:
    """How the classifier of one level is trained.

    Parameters
    ----------
    sigma : float
        Noise level in pixel units.
    pull, entropy : float
        Weights of the consistency loss.
    """

    sigma: float
    pull: float = 0.0
    entropy: float = 0.0


@dataclass(frozen=True, slots=True)
class Tuning:
    """Round 1.

    Parameters
    ----------
    schedule : Schedule
    least : float
        Weight, in [0, 1], of an image to an expert the selector never picks for it.
    """

    schedule: Schedule
    least: float


@dataclass(frozen=True, slots=True)
class DualRecipe:
    """Everything that decides the weights, beside the images.

    Parameters
    ----------
    name : str
        Name of the recipe and the bundle.
    experts : tuple of Expert
        One per noise level, ascending.
    tau : float
        Noise level of the selector.
    classifying, selecting : Schedule
    selector_loss : SelectorLoss
    labelling : Labelling
        How the radii are found that teach the selector.
    tuning : Tuning or None
        Round 1, if there is one.
    sizes : Sizes or None
        Of every network; None means by the size of the images.
    seed : int
    """

    name: str
    experts: tuple[Expert, ...]
    tau: float
    classifying: Schedule
    selecting: Schedule
    selector_loss: SelectorLoss
    labelling: Labelling
    tuning: Tuning | None = None
    calibration: Calibration | None = None
    warm_start: bool = False
    sizes: Sizes | None = None
    seed: int = 0

    @property
    def sigmas(self) -> tuple[float, ...]:
        """Noise levels, ascending."""
        return tuple(expert.sigma for expert in self.experts)

    @property
    def steps(self) -> int:
        """Number of networks that are trained."""
        per_expert = 1 if self.labelling.folds == 1 else 1 + self.labelling.folds
        return (per_expert * len(self.experts) + 1) * (1 if self.tuning is None else 2)

    def make(self, workshop: Workshop) -> Bundle:
        """Train every network; the same seed gives the same bytes on one kind of machine.

        Raises
        ------
        ArgumentError
            If there are too few images to label.
        """
        if len(workshop.data) < max(2, self.labelling.folds):
            rule = f"must be at least {max(2, self.labelling.folds)} images"
            raise ArgumentError("data", rule, workshop.data.name)
        crews = [Crew(self, workshop, level) for level in range(len(self.experts))]
        for crew in crews:
            crew.train()
        selector = self._selector(workshop, crews, 0)
        if self.tuning is not None:
            shares = selected_shares(selector, workshop.images, self.tau, self.labelling.votes,
                                     workshop.source(len(crews), _TUNED))  # fmt: skip
            for crew in crews:
                crew.tune(self.tuning, shares[:, crew.level])
            selector = self._selector(workshop, crews, 1)
        networks = {
            expert_role(crew.expert.sigma): workshop.describe(crew.deployed, workshop.classes)
            for crew in crews
        }
        networks[SELECTOR] = workshop.describe(selector, len(crews))
        data = workshop.data
        return Bundle(self.name, data.shape, workshop.classes, self.sigmas, self.tau, networks)

    def _selector(self, workshop: Workshop, crews: list["Crew"], number: int) -> nn.Module:
        radii = torch.stack([crew.radii(number) for crew in crews], 1)
        labelled = radii[:, 0].isfinite().nonzero()[:, 0]
        kept = 0 if self.calibration is None else int(len(labelled) * self.calibration.share)
        apart, labelled = labelled[:kept], labelled[kept:]
        source = workshop.source(len(crews), number * (_TUNED + 1))
        module = workshop.new(len(crews), source)
        if self.warm_start:
            nearest = min(crews, key=lambda crew: abs(crew.expert.sigma - self.tau))
            copy_features(nearest.deployed, module)
        name = SELECTOR if number == 0 else f"{SELECTOR}-round{number}"
        train_selector(
            module,
            workshop.images[labelled],
            radii[labelled],
            self.tau,
            self.selector_loss,
            self.selecting,
            source,
            workshop.step(name),
        )
        if self.calibration is not None:
            images, known = workshop.images[apart], radii[apart]
            calibrate(module, images, known, self.tau, self.calibration, source)
        workshop.report(name)
        return module


def copy_features(source: nn.Module, target: nn.Module) -> None:
    """Copy every tensor of one network into another whose last layer has other outputs."""
    tensors = {
        name: tensor if tensor.shape == own.shape else own
        for (name, own), tensor in zip(
            target.state_dict().items(), source.state_dict().values(), strict=True
        )
    }
    target.load_state_dict(tensors)


class Crew:
    """The networks of one level: the deployed one, and those that label images they did not see.

    With cross fitting there is one labelling network per fold; with images held out the deployed
    network labels them itself.
    """

    def __init__(self, recipe: DualRecipe, workshop: Workshop, level: int) -> None:
        self.recipe, self.workshop, self.level = recipe, workshop, level
        self.expert = recipe.experts[level]
        self.source = workshop.source(level, 1)
        self.modules: list[nn.Module] = []

    def train(self) -> None:
        """Round 0; the networks of the folds are trained when their radii are asked for."""
        held = self.recipe.labelling.held(self.workshop, self.level, self.source)
        everything = torch.ones_like(held[0])
        self.seen = [~part for part in held] if len(held) == 1 else [everything]
        self.held = held
        self.deployed = self._fit(None, self.seen[0], self.workshop.source(self.level, 0), "")
        self.modules = [self.deployed] if len(held) == 1 else []

    def radii(self, number: int) -> Tensor:
        """Radius of each image by a network that did not see it, NaN where there is none: [n]."""
        radii = torch.full((len(self.workshop.images),), torch.nan, device=self.workshop.device)
        for fold, held in enumerate(self.held):
            name = f"fold{fold}"
            if fold == len(self.modules):
                self.modules.append(self._fit(None, ~held, self.source, name))
            radii[held] = self._radii(self.modules[fold], held, f"{name}-round{number}")
        return radii

    def tune(self, tuning: Tuning, share: Tensor) -> None:
        """Round 1: train on with the selector's share of this level as the weight of an image."""
        weights = tuning.least + (1 - tuning.least) * share
        source = self.workshop.source(self.level, _TUNED)
        folds = [
            self._fit(module, ~held, source, f"fold{fold}-tuned", tuning.schedule, weights)
            for fold, (module, held) in enumerate(zip(self.modules, self.held, strict=True))
        ]
        if len(folds) == 1:
            self.deployed = folds[0]
        else:
            self.deployed = self._fit(
                self.deployed, self.seen[0], source, "tuned", tuning.schedule, weights
            )
        self.modules = folds

    def _radii(self, module: nn.Module, held: Tensor, name: str) -> Tensor:
        step = self.workshop.step(f"radii@{self.expert.sigma:g}-{name}")
        images, labels = self.workshop.images[held], self.workshop.labels[held]
        votes = self.recipe.labelling.votes
        return radii_of(module, images, labels, self.expert.sigma, votes, self.source, step)

    def _fit(
        self,
        module: nn.Module | None,
        seen: Tensor,
        source: Generator,
        name: str,
        schedule: Schedule | None = None,
        weights: Tensor | None = None,
    ) -> nn.Module:
        workshop, expert = self.workshop, self.expert
        targets = functional.one_hot(workshop.labels[seen], workshop.classes).float()
        weight = None if weights is None else weights[seen]

        def loss(logs: Tensor, chosen: Tensor) -> Tensor:
            share = None if weight is None else weight[chosen]
            value = soft_cross_entropy(logs, targets[chosen], share)
            return value + consistency_loss(logs, expert.pull, expert.entropy, share)

        role = expert_role(expert.sigma)
        step = Step(f"{role}-{name}" if name else role, workshop.journal)
        module = module or workshop.new(workshop.classes, source)
        images = workshop.images[seen]
        schedule = schedule or self.recipe.classifying
        train_on_noise(module, images, expert.sigma, loss, schedule, source, step)
        workshop.report(step.name)
        return module
