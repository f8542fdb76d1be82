"""Methods as a run recorded them: their procedures again, without networks.

An audit derives certificates from recorded votes. A method whose noise level is a function of the
image is made again from the images and from what the level rests on (anchors, references, balls),
if the auditor has them. If not, a certificate's own sigma and region are taken on trust, everything
after them is derived, and the audit says so.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dualsmooth.engine.certificate import Certificate
from dualsmooth.engine.checks import positive
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.images import Image, unit_float
from dualsmooth.engine.methods.insta import AnchorAt, AnchorSmoothing, anchor_name
from dualsmooth.engine.methods.insta_memory import MemoryAt, MemorySmoothing
from dualsmooth.engine.methods.method import GlobalMethod, LocalMethod, Method
from dualsmooth.engine.methods.regions.anchors import Anchors
from dualsmooth.engine.methods.regions.balls import Ball
from dualsmooth.engine.methods.regions.memory import Memory
from dualsmooth.engine.methods.regions.neighbours import NeighbourNoise
from dualsmooth.engine.methods.registry import choose_method
from dualsmooth.engine.methods.search import GridSearch, MultiStart, Quasiconcave, Search
from dualsmooth.engine.methods.semielastic import (
    SemielasticAt,
    SemielasticSmoothing,
    semielastic_name,
)
from dualsmooth.engine.models.bundle import Bundle

_SEARCHES: dict[str, Any] = {kind.name: kind for kind in (GridSearch, MultiStart, Quasiconcave)}
_FILES = ("anchors", "memory", "references")


@dataclass(frozen=True)
class Given:
    """What an auditor has beside a run; None for what is not at hand.

    Parameters
    ----------
    images : array, optional
        Of the data set, by image id.
    anchors : Anchors, optional
    references : array, optional
        Reference images.
    memory : Path, optional
        File with the balls that a memory began with; not needed if it began with none.
    """

    images: NDArray[Any] | None = None
    anchors: Anchors | None = None
    references: NDArray[Any] | None = None
    memory: Path | None = None


@dataclass(frozen=True)
class Recorded:
    """A method of a run.

    Parameters
    ----------
    name : str
        As written into certificates.
    of : callable
        The procedures that made a certificate.
    trusted : str
        What is taken as recorded, and what would show it; empty if nothing is.
    """

    name: str
    of: Callable[[Certificate], GlobalMethod]
    trusted: str = ""


def method_record(method: Method) -> dict[str, Any]:
    """Kind and options of a method as JSON; `recorded_method` reads them."""
    own: dict[str, Any] | None = getattr(method, "record", None)
    if own is not None:
        return own
    assert dataclasses.is_dataclass(method)
    options = {f.name: getattr(method, f.name) for f in dataclasses.fields(method)}
    del options["networks"]
    return {"method": method.name.partition("(")[0], **options}


def recorded_method(bundle: Bundle, record: Mapping[str, Any], given: Given) -> Recorded:
    """The method of a `method_record`.

    Raises
    ------
    ValueError, KeyError, TypeError
        If the record is not one of a method, or what is given is not what it names.
    """
    options = dict(record)
    kind, region = options.get("method"), options.get("region")
    if kind == "semielastic":
        return _semielastic(bundle, options, given)
    if kind == "insta" and region == "anchor":
        return _anchor(bundle, options, given)
    if kind == "insta" and region == "memory":
        return _memory(bundle, options, given)
    if any(options.get(name) is not None for name in _FILES):
        raise ValueError("options of a run must name no files")
    chosen: Any = choose_method(bundle, **options)
    return Recorded(chosen.name, lambda c: chosen)


def at_images(method: LocalMethod, images: NDArray[Any]) -> Callable[[Certificate], GlobalMethod]:
    """The procedures of a method at the image of a certificate."""

    def of(certificate: Certificate) -> GlobalMethod:
        if not 0 <= certificate.image_id < len(images):
            raise ValueError(f"the data have no image {certificate.image_id}")
        return method.at(unit_float(images[certificate.image_id]))

    return of


def _semielastic(bundle: Bundle, options: dict[str, Any], given: Given) -> Recorded:
    del options["method"]
    name = semielastic_name(options)
    if given.images is not None and given.references is not None:
        numbers = {key: options[key] for key in ("base", "rate", "offset", "neighbours")}
        noise = NeighbourNoise(given.references, **numbers)
        _check_same("references", noise.record, options)
        return Recorded(name, at_images(SemielasticSmoothing(bundle, noise), given.images))
    rate, dim = options["rate"], int(np.prod(bundle.input_shape))
    return Recorded(
        name, lambda c: SemielasticAt(bundle, name, _sigma(c), rate, dim),
        "the noise level of each image (--data, --references)",
    )  # fmt: skip


def _anchor(bundle: Bundle, options: dict[str, Any], given: Given) -> Recorded:
    name = anchor_name(options["anchors"])
    if given.images is not None and given.anchors is not None:
        method = AnchorSmoothing(bundle, given.anchors)
        _check_same("anchors", method.record, options)
        return Recorded(name, at_images(method, given.images))
    return Recorded(
        name, lambda c: AnchorAt(bundle, name, _sigma(c), _region(c)),
        "the noise level and the region of each image (--data, --anchors)",
    )  # fmt: skip


def _memory(bundle: Bundle, options: dict[str, Any], given: Given) -> Recorded:
    search, begun = search_of(options["search"]), options["memory"]
    before = begun["balls"]
    if given.images is not None and (before == 0 or given.memory is not None):
        memory = Memory.as_begun(given.memory if before else None, begun)
        method = MemorySmoothing(bundle, search, memory)
        trusted = f"{before} balls from before (audit the runs that made them)" if before else ""
        return Recorded(method.name, at_images(method, given.images), trusted)
    method = MemorySmoothing(bundle, search, _RecordedMemory(None, begun))
    return Recorded(
        method.name,
        lambda c: MemoryAt(
            dataclasses.replace(method, memory=_RecordedMemory(c, begun)), _NO_IMAGE
        ),
        "what the memory answered and where it ends (--data"
        + (", --memory)" if before else ")"),
    )  # fmt: skip


def _check_same(what: str, ours: Mapping[str, Any], recorded: Mapping[str, Any]) -> None:
    changed = [key for key in sorted({*ours, *recorded}) if ours.get(key) != recorded.get(key)]
    if changed:
        raise ArgumentError(what, "must be those of the run", f"another {', '.join(changed)}")


def search_of(record: Mapping[str, Any]) -> Search:
    """The search of a memory's record."""
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in record.items() if k != "kind"}
    made: Search = _SEARCHES[record["kind"]](**values)
    return made


class _RecordedMemory:
    """What a memory answered for one certificate."""

    def __init__(self, certificate: Certificate | None, state: dict[str, Any]) -> None:
        self.certificate, self.state = certificate, state

    @contextmanager
    def query(self, image: Image) -> Iterator["_RecordedMemory"]:
        """Answer as recorded."""
        yield self

    def bind(self, about: Mapping[str, Any]) -> None:
        """Nothing: no ball is kept."""

    def find(self, alpha: float) -> Ball | None:
        """The recorded answer, if no vote was drawn for it."""
        c = self.certificate
        if c is None or c.counts or c.predicted is None:
            return None
        return Ball(c.predicted, c.radius, _sigma(c), c.alpha.total)

    def room(self, predicted: int) -> float:
        """The recorded region."""
        assert self.certificate is not None
        return _region(self.certificate)

    def remember(self, predicted: int, radius: float, sigma: float, alpha: float) -> None:
        """Nothing: the answer is in the memory already."""


_NO_IMAGE = np.zeros((1, 1, 1), np.float32)


def _sigma(certificate: Certificate) -> float:
    return positive("sigma", certificate.sigma)


def _region(certificate: Certificate) -> float:
    return inf if certificate.region is None else certificate.region
