"""Insta-RS with a memory: search at the input, and never contradict an earlier answer.

After Alfarra et al. (2020). The memory comes first: an input inside a stored ball gets the ball's
class. Otherwise the noise level is searched, the class certified with it (Cohen et al., 2019), and
the ball stored, cut back until it touches no ball of another class. The claim is about the stateful
system: every later input inside the ball gets the same answer from this memory. It depends on the
order of the queries, and the first to come owns the region.

Assumptions and failure budget: those of `dualsmooth.engine.methods.insta`.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field, replace
from math import inf
from typing import Any, Protocol

import numpy as np

from dualsmooth.engine.budget import KINDS, Budget
from dualsmooth.engine.certificate import Certificate, Claim
from dualsmooth.engine.checks import positive
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.images import Image
from dualsmooth.engine.ledger import AlphaLedger
from dualsmooth.engine.methods.fixed import FixedSmoothing
from dualsmooth.engine.methods.method import Method, PredictProcedure, Procedure
from dualsmooth.engine.methods.options import Given, Recorded
from dualsmooth.engine.methods.regions.balls import Ball
from dualsmooth.engine.methods.regions.memory import Memory
from dualsmooth.engine.methods.search import Search, search_of
from dualsmooth.engine.models.bundle import Bundle
from dualsmooth.engine.models.network import Networks


class Known(Protocol):
    """What a memory says about one image."""

    def find(self, alpha: float) -> Ball | None:
        """The answer of a ball around the image that holds at alpha."""

    def room(self, predicted: int) -> float:
        """Radius a new ball of a class may have."""

    def remember(self, predicted: int, radius: float, sigma: float, alpha: float) -> None:
        """Store an answer."""


class Asked(Protocol):
    """A memory: `Memory`, or an audit's record of one."""

    @property
    def state(self) -> dict[str, Any]:
        """Number and digest of the balls."""

    def bind(self, about: Mapping[str, Any]) -> None:
        """Refuse balls that are about something else."""

    def query(self, image: Image) -> AbstractContextManager[Known]:
        """Ask about one image."""


@dataclass(frozen=True)
class MemorySmoothing(Method):
    """Certify by a search at the input, and remember the ball.

    Parameters
    ----------
    networks : Networks
        A bundle.
    search : Search
        How the noise level is found.
    memory : Memory
        Balls answered so far: one process at a time, one image at a time.
    """

    networks: Networks
    search: Search
    memory: Asked
    serial = True
    needs_image = True
    budgets = KINDS

    @property
    def name(self) -> str:
        return f"insta(memory, {self.search.name}, stateful)"

    @property
    def sigmas(self) -> tuple[float, ...]:
        return self.networks.sigmas or (1.0,)

    @property
    def record(self) -> dict[str, Any]:
        kept = {"search": self._searched, "memory": self.memory.state}
        return {"method": "insta", "region": "memory", **kept}

    @property
    def _searched(self) -> dict[str, Any]:
        return {"kind": self.search.name, **asdict(self.search)}  # type: ignore[call-overload]

    def bind(self, about: Mapping[str, Any]) -> None:
        """Let the memory hold balls of this method with these networks and arithmetic only."""
        self.memory.bind({"method": self.name, "search": self._searched, **about})

    def follow_log(self, configuration: Mapping[str, Any] | None) -> None:
        """Begin as a run that is resumed did, or here; balls reach the file after the log."""
        memory, options = self._stored, (configuration or {}).get("options")
        begun = options.get("memory") if isinstance(options, dict) else None
        memory.follow_log(begun if isinstance(begun, dict) else None)

    def settle(self, certificate: Certificate) -> None:
        """Write the ball of a certificate that has just been logged, if it has one."""
        if certificate.predicted is not None and certificate.counts:
            self._stored.settle(certificate.image_id)

    def check_settled(self) -> None:
        """Refuse balls in the file that no certificate of the resumed run shows."""
        self._stored.check_settled()

    @property
    def _stored(self) -> Memory:
        assert isinstance(self.memory, Memory)
        return self.memory

    def at(self, image: Image) -> "MemoryAt":
        return MemoryAt(self.networks, self.search, self.memory, image)

    def predict(self, n: int, alpha: float) -> PredictProcedure:
        """Refused: an answer outside the memory would have to be remembered with a radius."""
        hint = "certify answers and remembers"
        raise ArgumentError("region", "must not be memory to predict", "memory", hint)


@dataclass(frozen=True, eq=False)
class MemoryAt(MemorySmoothing):
    """The memory first, then a search and a certificate that is remembered."""

    image: Image = field(repr=False)

    def check(self, budget: Budget, alpha: float) -> None:
        FixedSmoothing(self.networks, self.sigmas[0]).check(budget, alpha)

    def _certify(self, budget: Budget, alpha: float) -> Procedure:
        with self.memory.query(self.image) as query:
            found = query.find(alpha)
            if found:
                ledger = AlphaLedger("single", alpha, {"classifier": found.alpha})
                claim = Claim.of(found.predicted, found.radius, found.sigma, ledger)
                return claim.within(found.radius)
            sigma = yield from self.search.run(self.networks)
            claim = yield from FixedSmoothing(self.networks, sigma).certify(budget, alpha)
            if claim.predicted is None:
                return claim
            claim = claim.within(query.room(claim.predicted))
            if claim.predicted is not None:
                query.remember(claim.predicted, claim.radius, sigma, alpha)
            return claim


def recorded_memory(bundle: Bundle, options: Mapping[str, Any], given: Given) -> Recorded:
    """The method of a run, from the balls it began with, or as certificates state its answers."""
    search, begun = search_of(options["search"]), options["memory"]
    before = begun["balls"]
    if given.images is not None and (before == 0 or given.memory is not None):
        memory = Memory.as_begun(given.memory if before else None, begun)
        trusted = f"{before} balls from before (audit the runs that made them)" if before else ""
        return Recorded.at(MemorySmoothing(bundle, search, memory), given.images, trusted)
    method = MemorySmoothing(bundle, search, _RecordedMemory(None, begun))
    nothing = np.zeros((1, 1, 1), np.float32)

    def of(certificate: Certificate) -> MemoryAt:
        return replace(method, memory=_RecordedMemory(certificate, begun)).at(nothing)

    files = "--data, --memory" if before else "--data"
    return Recorded(method.name, of, f"what the memory answered and where it ends ({files})")


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
        return Ball(c.predicted, c.radius, positive("sigma", c.sigma), c.alpha.total)

    def room(self, predicted: int) -> float:
        """The recorded region."""
        assert self.certificate is not None
        return inf if self.certificate.region is None else self.certificate.region

    def remember(self, predicted: int, radius: float, sigma: float, alpha: float) -> None:
        """Nothing: the answer is in the memory already."""
