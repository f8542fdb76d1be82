"""Training of a dual model: an expert classifier per noise level and a selector over them."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from dualsmooth.engine.data import ImageSet, as_unit_float
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.models.bundle import SELECTOR, Bundle, expert_role
from dualsmooth.engine.models.network import Network, network_from_module
from dualsmooth.engine.models.registry import create
from dualsmooth.engine.train.loop import Schedule, one_thread, train_on_noise
from dualsmooth.engine.train.losses import consistency_loss, soft_cross_entropy
from dualsmooth.engine.train.radii import cross_fitted_radii
from dualsmooth.engine.train.selector import SelectorLoss, train_selector

_ARCHITECTURE = "small_convnet"


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
class DualRecipe:
    """Everything that decides the weights, beside the images.

    Parameters
    ----------
    name : str
        Name of the bundle.
    experts : tuple of Expert
        One per noise level, ascending.
    tau : float
        Noise level of the selector.
    widths, hidden : tuple of int, int
        Sizes of every network (`small_convnet`).
    classifying, selecting : Schedule
    selector_loss : SelectorLoss
    folds, votes : int
        Cross fitting of the selector's labels.
    seed : int
    """

    name: str
    experts: tuple[Expert, ...]
    tau: float
    widths: tuple[int, ...]
    hidden: int
    classifying: Schedule
    selecting: Schedule
    selector_loss: SelectorLoss
    folds: int
    votes: int
    seed: int = 0


def train_dual(
    data: ImageSet, recipe: DualRecipe, report: Callable[[str], object] = lambda step: None
) -> Bundle:
    """Train all networks of a dual model: the same seed gives the same bytes.

    Parameters
    ----------
    data : ImageSet
        Training images with labels.
    report : callable
        Called with the name of each step when it is done; there are `steps(recipe)`.

    Raises
    ------
    ArgumentError
        If a label is missing or there are fewer images than folds.
    """
    if len(data) < recipe.folds or data.labels.min() < 0:
        rule = f"must be at least {recipe.folds} images, all with labels"
        raise ArgumentError("data", rule, data.name)
    with one_thread():
        networks = _Trainer(data, recipe, report).networks()
    return Bundle(
        name=recipe.name,
        input_shape=data.shape,
        num_classes=len(data.classes),
        sigmas=tuple(expert.sigma for expert in recipe.experts),
        tau=recipe.tau,
        networks=networks,
    )


def steps(recipe: DualRecipe) -> int:
    """Number of networks that are trained: experts, experts of the folds and the selector."""
    return len(recipe.experts) * (1 + recipe.folds) + 1


class _Trainer:
    """The images as tensors, and a fresh source of randomness for every network."""

    def __init__(self, data: ImageSet, recipe: DualRecipe, report: Callable[[str], object]) -> None:
        self.images = torch.from_numpy(as_unit_float(data.images)).permute(0, 3, 1, 2).contiguous()
        self.labels = torch.from_numpy(data.labels)
        self.shape, self.classes = data.shape, len(data.classes)
        self.recipe, self.report = recipe, report

    def networks(self) -> dict[str, Network]:
        made, radii = {}, []
        for level, expert in enumerate(self.recipe.experts):
            module = self._train_expert(expert, self.images, self.labels, self._source(level, 0))
            made[expert_role(expert.sigma)] = self._described(module, self.classes)
            radii.append(self._radii(expert, level))
        module = self._new(len(radii), source := self._source(len(radii), 0))
        recipe = self.recipe
        train_selector(
            module,
            self.images,
            torch.stack(radii, 1),
            recipe.tau,
            recipe.selector_loss,
            recipe.selecting,
            source,
        )
        self.report(SELECTOR)
        made[SELECTOR] = self._described(module, len(radii))
        return made

    def _radii(self, expert: Expert, level: int) -> Tensor:
        source = self._source(level, 1)

        def train(images: Tensor, labels: Tensor) -> nn.Module:
            return self._train_expert(expert, images, labels, source)

        return cross_fitted_radii(
            train,
            self.images,
            self.labels,
            sigma=expert.sigma,
            folds=self.recipe.folds,
            votes=self.recipe.votes,
            generator=source,
        )

    def _train_expert(
        self, expert: Expert, images: Tensor, labels: Tensor, source: Generator
    ) -> nn.Module:
        targets = functional.one_hot(labels, self.classes).float()

        def loss(log_probabilities: Tensor, chosen: Tensor) -> Tensor:
            value = soft_cross_entropy(log_probabilities, targets[chosen])
            return value + consistency_loss(log_probabilities, expert.pull, expert.entropy)

        module = self._new(self.classes, source)
        schedule = self.recipe.classifying
        train_on_noise(module, images, expert.sigma, loss, schedule, source)
        self.report(expert_role(expert.sigma))
        return module

    def _source(self, network: int, purpose: int) -> Generator:
        return Generator().manual_seed(self.recipe.seed * 1000 + network * 10 + purpose)

    def _new(self, outputs: int, source: Generator) -> nn.Module:
        seed = int(torch.randint(1 << 31, (), generator=source))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return create(_ARCHITECTURE, self._kwargs(outputs))

    def _kwargs(self, outputs: int) -> dict[str, object]:
        height, width, channels = self.shape
        return {
            "in_channels": channels,
            "num_classes": outputs,
            "image_size": [height, width],
            "widths": list(self.recipe.widths),
            "hidden": self.recipe.hidden,
        }

    def _described(self, module: nn.Module, outputs: int) -> Network:
        return network_from_module(module, _ARCHITECTURE, self._kwargs(outputs))
