"""Insta-RS with a memory: search at the input, and never contradict an earlier answer.

After Alfarra et al. (2020). The memory comes first: an input inside a stored ball gets the ball's
class. Otherwise the noise level is searched, the class certified with it (Cohen et al., 2019), and
the ball stored, cut back until it touches no ball of another class. The claim is about the stateful
system: every later input inside the ball gets the same answer from this memory. It depends on the
order of the queries, and the first to come owns the region.

Assumptions and failure budget: those of `dualsmooth.engine.methods.insta`.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

from dualsmooth.engine.budget import Budget
from dualsmooth.engine.certificate import Certificate
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.images import Image
from dualsmooth.engine.ledger import AlphaLedger
from dualsmooth.engine.methods.fixed import FixedSmoothing
from dualsmooth.engine.methods.insta import within
from dualsmooth.engine.methods.method import Networks, PredictProcedure, Procedure
from dualsmooth.engine.methods.regions.balls import Ball
from dualsmooth.engine.methods.regions.memory import Memory
from dualsmooth.engine.methods.search import Search


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
class MemorySmoothing:
    """Certify by a search at the input, and remember the ball.

    Parameters
    ----------
    networks : Networks
        A bundle.
    search : Search
        How the noise level is found.
    memory : Memory
        Balls answered so far (`methods.regions.memory`): one process at a time, one image at a
        time.
    """

    networks: Networks
    search: Search
    memory: Asked
    serial = True

    @property
    def name(self) -> str:
        """Method and options as written into certificates."""
        return f"insta(memory, {self.search.name}, stateful)"

    @property
    def roles(self) -> tuple[str, ...]:
        """Names of the networks it draws from."""
        roles = (self.networks.classifier_at(sigma) for sigma in self.networks.sigmas or (1.0,))
        return tuple(dict.fromkeys(roles))

    @property
    def record(self) -> dict[str, Any]:
        """What the run configuration keeps of the method."""
        return {"method": "insta", "region": "memory", "search": self._searched,
                "memory": self.memory.state}  # fmt: skip

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
        """The method at one image."""
        return MemoryAt(self, image)


@dataclass(frozen=True, eq=False)
class MemoryAt:
    """The procedures of `MemorySmoothing` for one image."""

    method: MemorySmoothing
    image: Image

    @property
    def name(self) -> str:
        """Method and options as written into certificates."""
        return self.method.name

    @property
    def networks(self) -> Networks:
        """The networks it votes with."""
        return self.method.networks

    @property
    def roles(self) -> tuple[str, ...]:
        """Names of the networks it draws from."""
        return self.method.roles

    def certify(self, budget: Budget, alpha: float) -> Procedure:
        """CERTIFY: the memory first, then a search and a certificate that is remembered."""
        some_sigma = (*self.networks.sigmas, 1.0)[0]
        empty = FixedSmoothing(self.networks, some_sigma).certify(budget, alpha)
        empty.close()  # it has checked the budget
        return self._certify(budget, alpha)

    def _certify(self, budget: Budget, alpha: float) -> Procedure:
        memory = self.method.memory
        with memory.query(self.image) as query:
            found = query.find(alpha)
            if found:
                return self._remembered(found, alpha)
            sigma = yield from self.method.search.run(self.networks)
            procedure = FixedSmoothing(self.networks, sigma).certify(budget, alpha)
            certificate = replace((yield from procedure), method=self.name)
            if certificate.predicted is None:
                return certificate
            certificate = within(certificate, query.room(certificate.predicted))
            if certificate.predicted is not None:
                query.remember(certificate.predicted, certificate.radius, sigma, alpha)
            return certificate

    def _remembered(self, found: Ball, alpha: float) -> Certificate:
        return Certificate(
            predicted=found.predicted,
            radius=found.radius,
            sigma=found.sigma,
            method=self.name,
            abstained_at=None,
            alpha=AlphaLedger("single", alpha, {"classifier": found.alpha}),
            bounds=(),
            region=found.radius,
        )

    def predict(self, n: int, alpha: float) -> PredictProcedure:
        """Refused: an answer outside the memory would have to be remembered with a radius.

        Raises
        ------
        ArgumentError
            Always; CERTIFY answers and remembers.
        """
        raise ArgumentError("region", "must not be memory to predict", "memory",
                            "certify answers and remembers")  # fmt: skip
