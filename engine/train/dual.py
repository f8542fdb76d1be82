"""Training of a dual model: an expert classifier per noise level and a selector over them.

Round 0: experts, the radii they reach on images they did not see, a selector taught with those.
Round 1 (`Tuning`): each expert is tuned with the weight the selector gives its level, then radii
and selector are made again (Sun, Mao and Vechev, 2025).
"""

from dataclasses import dataclass

import torch
from torch import nn

from dualsmooth.engine.checks import positive
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.models.bundle import SELECTOR, Bundle, expert_role
from dualsmooth.engine.train.context import SMALL, Sizes, Workshop
from dualsmooth.engine.train.experts import TUNED, Crew, Expert, Tuning
from dualsmooth.engine.train.loop import Schedule
from dualsmooth.engine.train.radii import Labelling, selected_shares
from dualsmooth.engine.train.selector import Calibration, SelectorLoss, calibrate, train_selector


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
    network : str
        A registered architecture for every network, for example ``cifar_resnet110``.
    half : bool
        Round the finished weights to float16.
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
    half: bool = False
    seed: int = 0
    network: str = SMALL

    def __post_init__(self) -> None:
        positive("tau", self.tau)

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
        crews = [
            Crew(expert, level, self.classifying, self.labelling, workshop)
            for level, expert in enumerate(self.experts)
        ]
        for below, crew in zip((None, *crews), crews, strict=False):
            crew.train(below)
        selector = self._selector(workshop, crews, 0)
        if self.tuning is not None:
            shares = selected_shares(selector, workshop.images, self.tau, self.labelling.votes,
                                     workshop.source(len(crews), TUNED))  # fmt: skip
            for crew in crews:
                crew.tune(self.tuning, shares[:, crew.level])
            selector = self._selector(workshop, crews, 1)
        networks = {
            expert_role(crew.expert.sigma): workshop.describe(
                crew.deployed, workshop.classes, half=self.half
            )
            for crew in crews
        }
        networks[SELECTOR] = workshop.describe(selector, len(crews), half=self.half)
        data = workshop.data
        return Bundle(self.name, data.shape, workshop.classes, self.sigmas, self.tau, networks)

    def _selector(self, workshop: Workshop, crews: list[Crew], number: int) -> nn.Module:
        radii = torch.stack([crew.radii(number) for crew in crews], 1)
        labelled = radii[:, 0].isfinite().nonzero()[:, 0]
        kept = 0 if self.calibration is None else int(len(labelled) * self.calibration.share)
        apart, labelled = labelled[:kept], labelled[kept:]
        source = workshop.source(len(crews), number * (TUNED + 1))
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
