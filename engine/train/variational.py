"""Recipe `variational`: a classifier and a real-valued noise level trained together.

After Variational RS (Hase et al., 2024): F(x) = E_w softmax f(x + H(x + tau w', t) w) with the
level H differentiable by reparametrization. The loss is the cross entropy of F and the
Kullback-Leibler divergence of N(0, H^2 I) from N(0, t^2 I), divided by the dimension: its curvature
2 d would pin H to t. The target t is drawn per batch; H is conditioned on it, and the bundle fixes
one. In the bundle H is quantized to ordered levels, so that it is certified as a median selector.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import log

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from dualsmooth.engine.checks import non_negative, positive
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.models.architectures.ordered import OrderedLevels
from dualsmooth.engine.models.bundle import CLASSIFIER, SELECTOR, Bundle
from dualsmooth.engine.models.network import network_from_module
from dualsmooth.engine.train.context import TrainingContext
from dualsmooth.engine.train.loop import Schedule, fit, noisy_log_softmax
from dualsmooth.engine.train.losses import mean_log_probabilities, soft_cross_entropy


@dataclass(frozen=True, slots=True)
class VariationalRecipe:
    """Everything that decides the weights, beside the images.

    The first and the last of the ascending levels are the limits of H; tau, the noise level of the
    selector, is at least the largest. `target` is the t of the bundle, `divergence` the weight of
    the divergence per dimension.
    """

    name: str
    sigmas: tuple[float, ...]
    tau: float
    target: float
    divergence: float
    schedule: Schedule
    seed: int = 0

    def __post_init__(self) -> None:
        if len(self.sigmas) < 2:
            raise ArgumentError("sigmas", "must be two or more levels", self.sigmas)
        positive("tau", self.tau)
        positive("target", self.target)
        non_negative("divergence", self.divergence)

    @property
    def steps(self) -> int:
        """Number of trainings: classifier and selector together."""
        return 1

    def make(self, context: TrainingContext) -> Bundle:
        """Train both networks."""
        source = context.source(0, 0)
        classifier = context.new(context.classes, source)
        architecture, kwargs = context.architecture(1, further_channels=1)
        described: dict[str, object] = {"architecture": architecture, "kwargs": kwargs}
        described |= {"levels": list(self.sigmas), "target": self.target}
        selector = context.build("ordered_levels", described, source)
        assert isinstance(selector, OrderedLevels)
        both = nn.ModuleDict({CLASSIFIER: classifier, SELECTOR: selector})
        step = context.step("classifier-and-selector")
        objective = self._objective(context, classifier, selector, source)
        fit(both, context.images, objective, self.schedule, source, step)
        context.report(step.name)
        networks = {
            CLASSIFIER: context.describe(classifier, context.classes),
            SELECTOR: network_from_module(selector, "ordered_levels", described),
        }
        data = context.data
        return Bundle(self.name, data.shape, context.classes, self.sigmas, self.tau, networks)

    def _objective(
        self,
        context: TrainingContext,
        classifier: nn.Module,
        selector: OrderedLevels,
        source: Generator,
    ) -> Callable[[Tensor, Tensor], Tensor]:
        truth = functional.one_hot(context.labels, context.classes).float()

        def objective(clean: Tensor, chosen: Tensor) -> Tensor:
            drawn = torch.randint(len(self.sigmas), (), generator=source, device=source.device)
            target = self.sigmas[int(drawn)]
            noise = torch.randn(clean.shape, generator=source, device=clean.device)
            level = selector.log_level(clean + self.tau * noise, target)
            sigma = level.exp().view(-1, 1, 1, 1)
            logs = noisy_log_softmax(classifier, clean, sigma, self.schedule.draws, source)
            error = soft_cross_entropy(mean_log_probabilities(logs), truth[chosen])
            return error + self.divergence * divergence_per_dimension(level, target).mean()

        return objective


def divergence_per_dimension(log_level: Tensor, target: float) -> Tensor:
    """KL(N(0, H^2 I_d) || N(0, t^2 I_d)) / d = (r^2 - 1 - ln r^2) / 2 with r = H / t."""
    twice = 2 * (log_level - log(target))
    return (twice.exp() - 1 - twice) / 2


VARIATIONAL = VariationalRecipe(
    name="variational",
    sigmas=(0.25, 0.5, 1.0),
    tau=1.0,
    target=0.5,
    divergence=0.5,
    schedule=Schedule(epochs=12, affine=None),
)
"""Three levels between 0.25 and 1 for images of about 28x28 pixels."""
