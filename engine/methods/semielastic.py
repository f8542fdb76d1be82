"""Semi-elastic noise: sigma(x) drifts slowly with x, and the radius allows for the drift.

Sukenik, Kuvshinov and Guennemann (2022): one classifier f, smoothed at sigma(x), with
|ln sigma(x) - ln sigma(y)| <= r ||x - y|| for all x and y. If P(f(x0 + sigma(x0) w) = A) >= p, the
deployed classifier answers A at every x closer than

    R = sup{ R : L(p; R, s0, s0 e^{+rR}) > 1/2 and L(p; R, s0, s0 e^{-rR}) > 1/2 },  s0 = sigma(x0)

with L the Neyman-Pearson bound of `radius.two_scale`. Both ends decide; the upper one
usually binds.

Assumptions. sigma obeys the rate everywhere, which a noise function by nearest neighbours does and
a network does not; the same f is deployed at every sigma; n0 and n fixed beforehand; the n votes
are independent of the n0 votes that chose A; noise is Gaussian.

Failure budget. One Clopper-Pearson bound at the full alpha; sigma(x) costs nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dualsmooth.engine.budget import Budget
from dualsmooth.engine.certificate import Certificate
from dualsmooth.engine.checks import (
    check_votes,
    error_level,
    non_negative,
    positive,
    positive_integer,
)
from dualsmooth.engine.draws import Draw, Phase, Prediction
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.images import Image
from dualsmooth.engine.ledger import AlphaLedger
from dualsmooth.engine.methods.method import CommonNetworks, PredictProcedure, Procedure
from dualsmooth.engine.methods.regions.neighbours import NeighbourNoise, describe
from dualsmooth.engine.methods.votes import event_bound, majority_class, top_class
from dualsmooth.engine.radius.two_scale import SCALE_ERROR, noise_scale, semielastic_radius


@dataclass(frozen=True)
class SemielasticSmoothing:
    """Certify with a noise level from the distances to reference images.

    Parameters
    ----------
    networks : Networks
        A bundle with one classifier for every noise level.
    noise : NeighbourNoise
        sigma as a function of the image; the reference images are part of the deployed classifier.
    """

    networks: CommonNetworks
    noise: NeighbourNoise

    def __post_init__(self) -> None:
        self.networks.common_classifier()

    @property
    def name(self) -> str:
        """Method and options as written into certificates."""
        return semielastic_name(self.noise.record)

    @property
    def roles(self) -> tuple[str, ...]:
        """Names of the networks it draws from."""
        return (self.networks.common_classifier(),)

    @property
    def record(self) -> dict[str, Any]:
        """What the run configuration keeps of the method."""
        return {"method": "semielastic", **self.noise.record}

    def at(self, image: Image) -> "SemielasticAt":
        """The method at one image, whose noise level is known."""
        return SemielasticAt(
            self.networks, self.name, self.noise.at(image), self.noise.rate, image.size
        )


@dataclass(frozen=True)
class SemielasticAt:
    """Semi-elastic smoothing at an image with a known noise level.

    Parameters
    ----------
    networks : Networks
    name : str
        Method and options as written into certificates.
    sigma : float
        Noise level of the image.
    rate : float
        Semi-elasticity of sigma per unit of L2 distance.
    dim : int
        Number of input components.
    """

    networks: CommonNetworks
    name: str
    sigma: float
    rate: float
    dim: int

    def __post_init__(self) -> None:
        positive("sigma", self.sigma)
        non_negative("rate", self.rate)
        positive_integer("dim", self.dim)

    @property
    def roles(self) -> tuple[str, ...]:
        """Names of the networks it draws from."""
        return (self.networks.common_classifier(),)

    def certify(self, budget: Budget, alpha: float) -> Procedure:
        """CERTIFY: a class and a radius, or abstain."""
        if budget.kind != "fixed":
            raise ArgumentError("budget", "must be fixed for semielastic", budget.kind)
        level = error_level("alpha", alpha)
        return self._certify(budget, AlphaLedger("single", level, {"classifier": level}))

    def _certify(self, budget: Budget, ledger: AlphaLedger) -> Procedure:
        candidate = top_class((yield self._draw(Phase.CLASS_GUESS, budget.n0)))
        radius, bounds = 0.0, []
        if candidate is not None:
            counts = yield self._draw(Phase.CLASS_ESTIMATE, budget.n)
            bound = event_bound("classifier", counts, "=", candidate, self.sigma, ledger.total)
            bounds = [bound]
            error = SCALE_ERROR if self.rate else 0.0
            radius = semielastic_radius(
                bound.lower, noise_scale(self.sigma), self.rate, self.dim, error
            )
        certified = radius > 0.0
        return Certificate(
            predicted=candidate if certified else None,
            radius=radius,
            sigma=self.sigma,
            method=self.name,
            abstained_at=None if certified else "classifier",
            alpha=ledger,
            bounds=tuple(bounds),
        )

    def predict(self, n: int, alpha: float) -> PredictProcedure:
        """PREDICT: P(returned class is not the deployed classifier's) <= alpha."""
        return self._predict(check_votes("n", n), error_level("alpha", alpha))

    def _predict(self, n: int, alpha: float) -> PredictProcedure:
        predicted = majority_class((yield self._draw(Phase.CLASS_PREDICT, n)), alpha)
        abstained_at = "classifier" if predicted is None else None
        return Prediction(predicted, (self.sigma,), abstained_at)

    def _draw(self, phase: Phase, count: int) -> Draw:
        return Draw(self.networks.common_classifier(), self.sigma, phase, 0, count)


def semielastic_name(noise: Mapping[str, Any]) -> str:
    """Method and options as written into certificates, from a `NeighbourNoise.record`."""
    return f"semielastic({describe(noise)})"
