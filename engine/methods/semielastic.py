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
from math import prod
from typing import Annotated, Any

from dualsmooth.engine.budget import Budget
from dualsmooth.engine.certificate import Certificate, Claim
from dualsmooth.engine.checks import keep_plain, non_negative, positive, positive_integer
from dualsmooth.engine.data.spec import load_images
from dualsmooth.engine.draws import Draw, Phase, Prediction
from dualsmooth.engine.errors import ArgumentError, about_images_of
from dualsmooth.engine.images import Image
from dualsmooth.engine.ledger import AlphaLedger
from dualsmooth.engine.methods.method import Method, PredictProcedure, Procedure
from dualsmooth.engine.methods.options import Given, Options, Recorded, check_same
from dualsmooth.engine.methods.regions.neighbours import NeighbourNoise, describe
from dualsmooth.engine.methods.votes import event_bound, majority_class, top_class
from dualsmooth.engine.models.bundle import Bundle
from dualsmooth.engine.models.network import CommonNetworks, check_networks
from dualsmooth.engine.radius.two_scale import SCALE_ERROR, noise_scale, semielastic_radius


@dataclass(frozen=True)
class SemielasticSmoothing(Method):
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
    needs_image = True

    def __post_init__(self) -> None:
        check_networks(self.networks).common_classifier()

    @property
    def name(self) -> str:
        return f"semielastic({describe(self.noise.record)})"

    @property
    def roles(self) -> tuple[str, ...]:
        return (self.networks.common_classifier(),)

    @property
    def record(self) -> dict[str, Any]:
        return {"method": "semielastic", **self.noise.record}

    def at(self, image: Image) -> "SemielasticAt":
        return SemielasticAt(self.networks, self.noise.at(image), self.noise.rate, image.size)


@dataclass(frozen=True)
class SemielasticAt(Method):
    """Semi-elastic smoothing at an image whose noise level is known.

    ``rate`` is the semi-elasticity of sigma per unit of L2 distance, ``dim`` the number of input
    components.
    """

    networks: CommonNetworks
    sigma: float
    rate: float
    dim: int
    name = "semielastic"

    def __post_init__(self) -> None:
        keep_plain(self, "sigma", "rate", "dim")
        positive("sigma", self.sigma)
        non_negative("rate", self.rate)
        positive_integer("dim", self.dim)

    @property
    def roles(self) -> tuple[str, ...]:
        return (self.networks.common_classifier(),)

    def _certify(self, budget: Budget, alpha: float) -> Procedure:
        ledger = AlphaLedger("single", alpha, {"classifier": alpha})
        candidate = top_class((yield self._draw(Phase.CLASS_GUESS, budget.n0)))
        if candidate is None:
            return Claim.of(None, 0.0, self.sigma, ledger)
        counts = yield self._draw(Phase.CLASS_ESTIMATE, budget.n)
        bound = event_bound("classifier", counts, "=", candidate, self.sigma, alpha)
        scale, error = noise_scale(self.sigma), SCALE_ERROR if self.rate else 0.0
        radius = semielastic_radius(bound.lower, scale, self.rate, self.dim, error)
        return Claim.of(candidate, radius, self.sigma, ledger, [bound])

    def _predict(self, n: int, alpha: float) -> PredictProcedure:
        predicted = majority_class((yield self._draw(Phase.CLASS_PREDICT, n)), alpha)
        abstained_at = "classifier" if predicted is None else None
        return Prediction(predicted, (self.sigma,), abstained_at)

    def _draw(self, phase: Phase, count: int) -> Draw:
        return Draw(self.networks.common_classifier(), self.sigma, phase, 0, count)


@dataclass(frozen=True, kw_only=True)
class SemielasticOptions(Options):
    """Options of ``semielastic``."""

    sigma: Annotated[float | None, "level at --offset"] = None
    references: Annotated[
        str | None, "SPEC of the reference images, part of the deployed classifier"
    ] = None
    rate: Annotated[float, "change of ln sigma per unit of distance"] = NeighbourNoise.rate
    offset: Annotated[float, "typical mean distance"] = NeighbourNoise.offset
    neighbours: Annotated[int, "nearest references to average"] = NeighbourNoise.neighbours

    def build(self, bundle: Bundle) -> SemielasticSmoothing:
        for name in ("sigma", "references"):
            if getattr(self, name) is None:
                raise ArgumentError(name, "is required by --method semielastic", None)
        assert self.sigma is not None
        assert self.references is not None
        with about_images_of("references"):
            images = load_images(self.references, shape=bundle.input_shape).images
        noise = NeighbourNoise(images, self.sigma, self.rate, self.offset, self.neighbours)
        return SemielasticSmoothing(bundle, noise)

    @classmethod
    def recorded(cls, bundle: Bundle, options: Mapping[str, Any], given: Given) -> Recorded:
        """With the references that are given, or at the noise level that a certificate states."""
        if given.images is not None and given.references is not None:
            numbers = {key: options[key] for key in ("base", "rate", "offset", "neighbours")}
            noise = NeighbourNoise(given.references, **numbers)
            check_same("references", noise.record, options)
            return Recorded.at(SemielasticSmoothing(bundle, noise), given.images)
        rate, dim = options["rate"], prod(bundle.input_shape)

        def of(certificate: Certificate) -> SemielasticAt:
            return SemielasticAt(bundle, positive("sigma", certificate.sigma), rate, dim)

        trusted = "the noise level of each image (--data, --references)"
        return Recorded(f"semielastic({describe(options)})", of, trusted)
