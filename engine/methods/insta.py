"""Insta-RS: a noise level found by search for each input, and regions that make it sound.

Chen et al. (2021, withdrawn) search the noise level that maximizes the radius at the input itself
and report sigma(x0) z(p). That is a radius of the classifier with sigma frozen at sigma(x0), not of
the deployed one, whose search may end elsewhere at x. `frozen_radius_unsound` gives that number for
comparison; it certifies nothing.

Three rules make the search sound:

* ``anchor`` (default, `AnchorSmoothing`): levels are searched at anchors, beforehand; sigma(x) is
  the level of the nearest anchor. sigma is constant inside a distance rho that is plain geometry
  (`methods.regions.anchors`), so g = c inside min(rho, sigma z(p)) (Cohen et al., 2019).
* ``memory`` (`dualsmooth.engine.methods.insta_memory`, after Alfarra et al., 2020): the search runs
  at the input, and the answer is remembered as a ball; every later input inside a ball gets its
  answer, and balls of different classes never overlap. The claim is about the stateful system: it
  depends on the order of the queries, and the first to come owns the region.
* ``certified``: a selector trained on the levels the search found, under dual smoothing.

Assumptions. Search votes and the n0 votes that choose the class are independent of the n estimation
votes; n0 and n are fixed beforehand; noise is Gaussian; the anchors are fixed before any input.

Failure budget. One Clopper-Pearson bound at the full alpha; regions cost nothing.
"""

from dataclasses import dataclass, replace
from math import isfinite
from typing import Any

from dualsmooth.engine.budget import Budget
from dualsmooth.engine.certificate import Certificate
from dualsmooth.engine.images import Image
from dualsmooth.engine.methods.fixed import FixedSmoothing
from dualsmooth.engine.methods.method import Networks, PredictProcedure, Procedure
from dualsmooth.engine.methods.regions.anchors import Anchors


@dataclass(frozen=True)
class AnchorSmoothing:
    """Certify with the noise level of the nearest anchor.

    Parameters
    ----------
    networks : Networks
        A bundle with a classifier for every level of the anchors.
    anchors : Anchors
        Made by a search over other images (``dualsmooth search``).
    """

    networks: Networks
    anchors: Anchors

    def __post_init__(self) -> None:
        for sigma in self.anchors.levels:
            self.networks.classifier_at(sigma)

    @property
    def name(self) -> str:
        """Method and options as written into certificates."""
        return anchor_name(self.anchors.sha256)

    @property
    def roles(self) -> tuple[str, ...]:
        """Names of the networks it draws from."""
        roles = (self.networks.classifier_at(sigma) for sigma in self.anchors.levels)
        return tuple(dict.fromkeys(roles))

    @property
    def record(self) -> dict[str, Any]:
        """What the run configuration keeps of the method."""
        return {"method": "insta", "region": "anchor", "anchors": self.anchors.sha256}

    def at(self, image: Image) -> "AnchorAt":
        """The method at one image, whose level and region are known."""
        return AnchorAt(self.networks, self.name, *self.anchors.locate(image))


@dataclass(frozen=True)
class AnchorAt:
    """Fixed smoothing inside the region of an anchor.

    Parameters
    ----------
    networks : Networks
    name : str
        Method and options as written into certificates.
    sigma : float
        Noise level of the nearest anchor.
    region : float
        Radius inside which the level is the same.
    """

    networks: Networks
    name: str
    sigma: float
    region: float

    @property
    def roles(self) -> tuple[str, ...]:
        """Names of the networks it draws from."""
        return self._fixed.roles

    @property
    def _fixed(self) -> FixedSmoothing:
        return FixedSmoothing(self.networks, self.sigma)

    def certify(self, budget: Budget, alpha: float) -> Procedure:
        """CERTIFY: fixed smoothing at the anchor's level, no further than its region."""
        return self._certify(self._fixed.certify(budget, alpha))

    def _certify(self, procedure: Procedure) -> Procedure:
        return within(replace((yield from procedure), method=self.name), self.region)

    def predict(self, n: int, alpha: float) -> PredictProcedure:
        """PREDICT: P(returned class is not the deployed classifier's) <= alpha."""
        return self._fixed.predict(n, alpha)


def anchor_name(sha256: str) -> str:
    """Method and options as written into certificates, from the digest of all anchors."""
    return f"insta(anchor, {sha256[:8]})"


def within(certificate: Certificate, region: float) -> Certificate:
    """A certificate whose claim ends with a region; an abstention if the region is empty."""
    limited = replace(certificate, region=region if isfinite(region) else None)
    if certificate.predicted is None:
        return limited
    if not region > 0.0:
        return replace(limited, predicted=None, radius=0.0, abstained_at="region")
    return replace(limited, radius=min(certificate.radius, region))


def frozen_radius_unsound(certificate: Certificate) -> float:
    """Radius with sigma frozen at sigma(x0): what Insta-RS reported. It certifies nothing.

    A change of the noise level by 2 % can flip the class without moving x at all, and the search
    may end elsewhere at any x. For comparison with published tables only.
    """
    return max((b.radius for b in certificate.bounds if b.stage == "classifier"), default=0.0)
