"""Recipes of plain classifiers: `gaussian`, `consistency` and `smoothmix`.

`gaussian` is cross entropy under noise (Cohen et al., 2019); `consistency` adds the regularizer of
Jeong and Shin (2020); `smoothmix` adds mixing with adversarial images of the smoothed classifier
(Jeong et al., 2021). Each trains one expert per noise level, or one network for all of them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from dualsmooth.engine.checks import non_negative, one_of, positive_integer
from dualsmooth.engine.models.bundle import CLASSIFIER, Bundle, expert_role
from dualsmooth.engine.models.ensemble import joined
from dualsmooth.engine.models.network import Network
from dualsmooth.engine.train.context import TrainingContext
from dualsmooth.engine.train.loop import Schedule, fit, noisy_log_softmax
from dualsmooth.engine.train.losses import (
    SmoothMix,
    consistency_loss,
    smoothmix_loss,
    soft_cross_entropy,
)


@dataclass(frozen=True, slots=True)
class ClassifierLoss:
    """Beside cross entropy: weights of the consistency loss, mixing with adversarial images."""

    pull: float = 0.0
    entropy: float = 0.0
    smoothmix: SmoothMix | None = None

    def __post_init__(self) -> None:
        non_negative("pull", self.pull)
        non_negative("entropy", self.entropy)


@dataclass(frozen=True, slots=True)
class ClassifierRecipe:
    """Everything that decides the weights, beside the images.

    Noise levels ascend. ``experts`` are one network per level; ``shared`` is one network, trained
    with a level drawn for each image. `members` networks per expert have their logits averaged.
    """

    name: str
    loss: ClassifierLoss
    schedule: Schedule
    sigmas: tuple[float, ...] = (0.25, 0.5, 1.0)
    networks: Literal["experts", "shared"] = "experts"
    members: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        one_of("networks", self.networks, ("experts", "shared"))
        positive_integer("members", self.members)

    @property
    def steps(self) -> int:
        """Number of networks that are trained."""
        return self.members * (1 if self.networks == "shared" else len(self.sigmas))

    def make(self, context: TrainingContext) -> Bundle:
        """Train every network."""
        if self.networks == "shared":
            levels = {CLASSIFIER: self.sigmas}
        else:
            levels = {expert_role(sigma): (sigma,) for sigma in self.sigmas}
        networks = {
            role: self._ensemble(context, role, sigmas, number)
            for number, (role, sigmas) in enumerate(levels.items())
        }
        data = context.data
        return Bundle(self.name, data.shape, context.classes, self.sigmas, None, networks)

    def _ensemble(
        self, context: TrainingContext, role: str, sigmas: tuple[float, ...], number: int
    ) -> Network:
        members = []
        for member in range(self.members):
            source = context.source(number, member)
            module = context.new(context.classes, source)
            name = role if self.members == 1 else f"{role}-{member}"
            train_classifier(module, context, sigmas, self.loss, self.schedule, source, name)
            members.append(context.describe(module, context.classes))
        return members[0] if self.members == 1 else joined(members)


def train_classifier(
    module: nn.Module,
    context: TrainingContext,
    sigmas: tuple[float, ...],
    terms: ClassifierLoss,
    schedule: Schedule,
    source: Generator,
    name: str,
) -> nn.Module:
    """Train a classifier at one noise level, or at a level drawn for each image."""
    targets = functional.one_hot(context.labels, context.classes).float()
    sigma_of = _levels(sigmas, source)

    def objective(clean: Tensor, chosen: Tensor) -> Tensor:
        sigma = sigma_of(len(chosen))
        if terms.smoothmix is not None:
            return smoothmix_loss(module, clean, targets[chosen], sigma, terms.smoothmix, source)
        logs = noisy_log_softmax(module, clean, sigma, schedule.draws, source)
        value = soft_cross_entropy(logs, targets[chosen])
        return value + consistency_loss(logs, terms.pull, terms.entropy)

    fit(module, context.images, objective, schedule, source, context.step(name))
    context.report(name)
    return module


def _levels(sigmas: tuple[float, ...], source: Generator) -> Callable[[int], float | Tensor]:
    known = torch.tensor(sigmas, device=source.device)

    def one(count: int) -> float:
        return sigmas[0]

    def drawn(count: int) -> Tensor:
        index = torch.randint(len(sigmas), (count,), generator=source, device=source.device)
        return known[index].view(-1, 1, 1, 1)

    return one if len(sigmas) == 1 else drawn


_SCHEDULE = Schedule(epochs=15, affine=None)
GAUSSIAN = ClassifierRecipe("gaussian", ClassifierLoss(), _SCHEDULE)
CONSISTENCY = ClassifierRecipe("consistency", ClassifierLoss(pull=5.0, entropy=0.5), _SCHEDULE)
SMOOTHMIX = ClassifierRecipe("smoothmix", ClassifierLoss(smoothmix=SmoothMix()), _SCHEDULE)
