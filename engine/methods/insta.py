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

from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import inf
from pathlib import Path
from typing import Annotated, Any

from dualsmooth.engine.budget import KINDS, Budget
from dualsmooth.engine.certificate import Certificate, Claim
from dualsmooth.engine.checks import one_of, positive
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.images import Image
from dualsmooth.engine.methods.dual import ROUTING_HELP, RULE_HELP, DualSmoothing
from dualsmooth.engine.methods.fixed import FixedSmoothing
from dualsmooth.engine.methods.insta_memory import MemorySmoothing, recorded_memory
from dualsmooth.engine.methods.method import Method, Procedure
from dualsmooth.engine.methods.options import Given, Options, Recorded, check_same
from dualsmooth.engine.methods.regions.anchors import Anchors, read_anchors
from dualsmooth.engine.methods.regions.memory import Memory
from dualsmooth.engine.methods.search import make_search
from dualsmooth.engine.models.bundle import Bundle
from dualsmooth.engine.models.network import Networks, check_networks


@dataclass(frozen=True)
class AnchorSmoothing(Method):
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
    needs_image = True
    budgets = KINDS

    def __post_init__(self) -> None:
        for sigma in self.anchors.levels:
            check_networks(self.networks).classifier_at(sigma)

    @property
    def name(self) -> str:
        return anchor_name(self.anchors.sha256)

    @property
    def sigmas(self) -> tuple[float, ...]:
        return self.anchors.levels

    @property
    def record(self) -> dict[str, Any]:
        return {"method": "insta", "region": "anchor", "anchors": self.anchors.sha256}

    def at(self, image: Image) -> "AnchorAt":
        sigma, region = self.anchors.locate(image)
        return AnchorAt(self.networks, sigma, region=region)


@dataclass(frozen=True)
class AnchorAt(FixedSmoothing):
    """Fixed smoothing at the level of the nearest anchor, no further than the level reaches."""

    region: float = inf

    def _certify(self, budget: Budget, alpha: float) -> Procedure:
        return (yield from super()._certify(budget, alpha)).within(self.region)


@dataclass(frozen=True, kw_only=True)
class InstaOptions(Options):
    """Options of ``insta``; those of another region than the chosen one must be left out."""

    region: Annotated[
        str, "anchor (default), memory or certified (a selector trained on the search)"
    ] = "anchor"
    anchors: Annotated[Path | None, "region anchor: file made by `dualsmooth search`"] = None
    memory: Annotated[
        Path | None,
        "region memory: file of the balls, read first and appended to; without it the memory ends "
        "with the run",
    ] = None
    search: Annotated[
        str | None,
        "region memory: multi-start, quasiconcave or grid (default where there are experts)",
    ] = None
    selector_rule: Annotated[str | None, RULE_HELP] = None
    routing: Annotated[str | None, ROUTING_HELP] = None

    def build(self, bundle: Bundle) -> Method:
        parts = {
            "anchor": ("anchors",),
            "memory": ("memory", "search"),
            "certified": ("selector_rule", "routing"),
        }
        one_of("region", self.region, tuple(parts))
        for name in [field.name for field in fields(self)[1:]]:
            value = getattr(self, name)
            if value is not None and name not in parts[self.region]:
                raise ArgumentError(name, f"does not belong to --region {self.region}", value)
        if self.region == "certified":
            rule = "median" if self.selector_rule is None else self.selector_rule
            return DualSmoothing(bundle, rule, self.routing)
        if self.region == "memory":
            search = make_search(bundle, self.search)
            return MemorySmoothing(bundle, search, Memory(self.memory))
        if self.anchors is None:
            hint = "dualsmooth search makes the file"
            raise ArgumentError("anchors", "is required by --method insta", None, hint)
        return AnchorSmoothing(bundle, read_anchors(self.anchors))

    @classmethod
    def recorded(cls, bundle: Bundle, options: Mapping[str, Any], given: Given) -> Recorded:
        """With the anchors that are given, or at the level and region that a certificate states."""
        if options["region"] == "memory":
            return recorded_memory(bundle, options, given)
        if options["region"] != "anchor":
            raise ValueError("options of a run must be those of anchors or of a memory")
        if given.images is not None and given.anchors is not None:
            method = AnchorSmoothing(bundle, given.anchors)
            check_same("anchors", method.record, {"method": "insta", **options})
            return Recorded.at(method, given.images)

        def of(certificate: Certificate) -> AnchorAt:
            region = inf if certificate.region is None else certificate.region
            return AnchorAt(bundle, positive("sigma", certificate.sigma), region=region)

        trusted = "the noise level and the region of each image (--data, --anchors)"
        return Recorded(anchor_name(options["anchors"]), of, trusted)


def anchor_name(sha256: str) -> str:
    """Method and options as written into certificates, from the digest of all anchors."""
    return f"insta(anchor, {sha256[:8]})"


def frozen_radius_unsound(certificate: Certificate | Claim) -> float:
    """Radius with sigma frozen at sigma(x0): what Insta-RS reported. It certifies nothing.

    A change of the noise level by 2 % can flip the class without moving x at all, and the search
    may end elsewhere at any x. For comparison with published tables only.
    """
    return max((b.radius for b in certificate.bounds if b.stage == "classifier"), default=0.0)
