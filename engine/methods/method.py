"""What a method is: procedures for one image that see it through votes only."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping
from typing import Any, ClassVar, TypeAlias

from dualsmooth.engine.budget import Budget
from dualsmooth.engine.certificate import Certificate, Claim
from dualsmooth.engine.checks import check_votes, error_level
from dualsmooth.engine.draws import LEVELS, Counts, Draw, Phase, Prediction
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.images import Image
from dualsmooth.engine.models.network import Networks

Procedure: TypeAlias = Generator[Draw, Counts, Claim]
"""CERTIFY for one image: yields draws, receives votes, returns the claim."""
PredictProcedure: TypeAlias = Generator[Draw, Counts, Prediction]
"""PREDICT for one image."""


class Method(ABC):
    """A published system, as a dataclass of its networks and options.

    A system whose noise level is a function of the image (``needs_image``) has its procedures at
    one image only: `at` returns them.
    """

    networks: Networks
    serial: ClassVar[bool] = False
    """Whether an answer depends on all answers before it: one image at a time, in one process."""
    needs_fp32: ClassVar[bool] = False
    needs_image: ClassVar[bool] = False
    budgets: ClassVar[tuple[str, ...]] = ("fixed",)
    """Kinds of budget it can spend."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Method and options as written into certificates."""

    @property
    def sigmas(self) -> tuple[float, ...]:
        """Noise levels its classifiers vote at."""
        return self.networks.sigmas

    @property
    def roles(self) -> tuple[str, ...]:
        """Names of the networks it draws from."""
        return tuple(dict.fromkeys(self.networks.classifier_at(sigma) for sigma in self.sigmas))

    @property
    def shares(self) -> int:
        """Parts that alpha is split into at most: bounds must be exact at each."""
        return 1

    @property
    def record(self) -> dict[str, Any]:
        """Kind and options as JSON, for the run configuration; `recorded_method` reads it."""
        assert dataclasses.is_dataclass(self)
        options = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        del options["networks"]
        return {"method": self.name.partition("(")[0], **options}

    def at(self, image: Image) -> "Method":
        """The method at one image, float32 in [0, 1], channels-last."""
        return self

    def bind(self, about: Mapping[str, Any]) -> None:  # noqa: B027
        """Hear what votes are about before any is drawn: bundle, arithmetic, sampler."""

    def follow_log(self, configuration: Mapping[str, Any] | None) -> None:  # noqa: B027
        """Hear that answers are logged, by a run that is resumed where there is a configuration."""

    def settle(self, certificate: Certificate) -> None:  # noqa: B027
        """Hear that a certificate is on disk."""

    def check_settled(self) -> None:  # noqa: B027
        """Refuse to go on if what is kept does not agree with the log."""

    def check(self, budget: Budget, alpha: float) -> None:
        """Raise `ArgumentError` if a certificate cannot have this budget or this alpha."""
        error_level("alpha", alpha, self.shares)
        if budget.kind not in self.budgets:
            rule = f"must be {' or '.join(self.budgets)} with {self.name}"
            raise ArgumentError("budget", rule, budget.kind)

    def certify(self, budget: Budget, alpha: float) -> Procedure:
        """CERTIFY for one image: a class and a radius, or abstain; raises as `check`."""
        self.check(budget, alpha)
        return self._certify(budget, float(alpha))

    def predict(self, n: int, alpha: float) -> PredictProcedure:
        """PREDICT for one image: P(class returned is not the deployed classifier's) <= alpha."""
        return self._predict(check_votes("n", n), error_level("alpha", alpha, self.shares))

    def _certify(self, budget: Budget, alpha: float) -> Procedure:
        raise self._without_image

    def _predict(self, n: int, alpha: float) -> PredictProcedure:
        raise self._without_image

    @property
    def _without_image(self) -> ArgumentError:
        return ArgumentError("image", f"is needed by {self.name}", None, "use method.at(image)")

    def classify(self, phase: Phase, sigma: float, count: int, first: int = 0) -> Draw:
        """Votes of the classifier at a noise level, on the counters of that level.

        The level's index makes bundles share votes between runs of fixed and of other methods.
        """
        sigmas = self.networks.sigmas[:LEVELS]  # a method of one level may have a later one
        level = sigmas.index(sigma) if sigma in sigmas else 0
        return Draw(self.networks.classifier_at(sigma), sigma, phase, first, count, level)
