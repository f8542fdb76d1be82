"""Methods as a run recorded them: their procedures again, without networks, images or files.

An audit derives certificates from recorded votes. Methods whose noise level is a function of the
image are rebuilt from what the certificate says of it, its sigma and region: those two statements
are taken as recorded, everything after them is derived.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np

from dualsmooth.engine.certificate import Certificate
from dualsmooth.engine.checks import positive
from dualsmooth.engine.images import Image
from dualsmooth.engine.methods.insta import AnchorAt
from dualsmooth.engine.methods.insta_memory import MemoryAt, MemorySmoothing
from dualsmooth.engine.methods.method import GlobalMethod, Method
from dualsmooth.engine.methods.regions.memory import Ball
from dualsmooth.engine.methods.registry import choose_method
from dualsmooth.engine.methods.search import GridSearch, MultiStart, Quasiconcave, Search
from dualsmooth.engine.methods.semielastic import SemielasticAt
from dualsmooth.engine.models.bundle import Bundle

_SEARCHES: dict[str, Any] = {kind.name: kind for kind in (GridSearch, MultiStart, Quasiconcave)}


@dataclass(frozen=True)
class Recorded:
    """A method of a run.

    Parameters
    ----------
    name : str
        As written into certificates.
    trusts_image : bool
        Whether a certificate's noise level and region are taken as recorded.
    of : callable
        The procedures that made a certificate.
    """

    name: str
    trusts_image: bool
    of: Callable[[Certificate], GlobalMethod]


def method_record(method: Method) -> dict[str, Any]:
    """Kind and options of a method as JSON; `recorded_method` reads them."""
    own: dict[str, Any] | None = getattr(method, "record", None)
    if own is not None:
        return own
    assert dataclasses.is_dataclass(method)
    options = {f.name: getattr(method, f.name) for f in dataclasses.fields(method)}
    del options["networks"]
    return {"method": method.name.partition("(")[0], **options}


def recorded_method(bundle: Bundle, record: Mapping[str, Any]) -> Recorded:
    """The method of a `method_record`.

    Raises
    ------
    ValueError, KeyError, TypeError
        If the record is not one of a method.
    """
    options = dict(record)
    kind, region = options.get("method"), options.get("region")
    if kind == "semielastic":
        rate, dim = options["rate"], int(np.prod(bundle.input_shape))
        name = f"semielastic({options['noise']})"
        return Recorded(name, True, lambda c: SemielasticAt(bundle, name, _sigma(c), rate, dim))
    if kind == "insta" and region == "anchor":
        name = f"insta(anchor, {options['anchors']})"
        return Recorded(name, True, lambda c: AnchorAt(bundle, name, _sigma(c), _region(c)))
    if kind == "insta" and region == "memory":
        search = search_of(options["search"])
        method = MemorySmoothing(bundle, search, _RecordedMemory(None))
        return Recorded(
            method.name, True,
            lambda c: MemoryAt(dataclasses.replace(method, memory=_RecordedMemory(c)), _NO_IMAGE),
        )  # fmt: skip
    chosen: Any = choose_method(bundle, **options)
    return Recorded(chosen.name, False, lambda c: chosen)


def search_of(record: Mapping[str, Any]) -> Search:
    """The search of a memory's record."""
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in record.items() if k != "kind"}
    made: Search = _SEARCHES[record["kind"]](**values)
    return made


class _RecordedMemory:
    """What a memory answered for one certificate."""

    def __init__(self, certificate: Certificate | None) -> None:
        self.certificate = certificate

    @contextmanager
    def query(self, image: Image) -> Iterator["_RecordedMemory"]:
        """Answer as recorded."""
        yield self

    def find(self) -> Ball | None:
        """The recorded answer, if no vote was drawn for it."""
        c = self.certificate
        if c is None or c.counts or c.predicted is None:
            return None
        return Ball(c.predicted, c.radius, _sigma(c))

    def room(self, predicted: int) -> float:
        """The recorded region."""
        assert self.certificate is not None
        return _region(self.certificate)

    def remember(self, predicted: int, radius: float, sigma: float) -> None:
        """Nothing: the answer is in the memory already."""


_NO_IMAGE = np.zeros((1, 1, 1), np.float32)


def _sigma(certificate: Certificate) -> float:
    return positive("sigma", certificate.sigma)


def _region(certificate: Certificate) -> float:
    return inf if certificate.region is None else certificate.region
