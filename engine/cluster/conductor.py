"""The conductor: gives leases to workers and takes their certificates, whatever happens to them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias

from dualsmooth.engine.backends import Tried
from dualsmooth.engine.certificate import Certificate
from dualsmooth.engine.cluster.leases import Leases
from dualsmooth.engine.errors import SamplerError, StoppedError
from dualsmooth.engine.records import unlike
from dualsmooth.engine.runtime.scheduler import Occupancy

TRIED_HERE = "tried"
"""Among the facts of a worker: what ``auto`` tried. The first worker chooses for all."""


@dataclass(frozen=True, slots=True)
class Ready:
    """A worker has its networks loaded; ``facts`` are what its votes depend on."""

    worker: int
    facts: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Certified:
    """A certificate, as a line of the run log."""

    worker: int
    lease: int
    line: str


@dataclass(frozen=True, slots=True)
class Alive:
    """A worker gets on with its lease. Its pool keeps that to itself."""

    worker: int


@dataclass(frozen=True, slots=True)
class Done:
    """A lease is finished; rows that carried a sample, and rows run."""

    worker: int
    lease: int
    used: int
    run: int


@dataclass(frozen=True, slots=True)
class Lost:
    """A worker is gone. Another may take its place, under another number."""

    worker: int
    reason: str


@dataclass(frozen=True, slots=True)
class Refused:
    """A worker met an error that another worker would meet as well."""

    worker: int
    message: str


Event: TypeAlias = Ready | Certified | Done | Lost | Refused


class Pool(Protocol):
    """Workers, wherever they are."""

    def give(self, worker: int, lease: int, image_ids: list[int]) -> None:
        """Hand images to a worker that waits for some."""

    def events(self) -> list[Event]:
        """What has happened; waits for a while, so the list may be empty."""

    def close(self) -> None:
        """Stop all workers, those that do not listen as well."""


MOST_LOSSES_IN_A_ROW = 12
"""Workers lost without a single certificate in between before the run is stopped."""


class Conductor:
    """Runs leases on a pool of workers that are starting.

    Raises StoppedError if workers die faster than they certify, and SamplerError if two workers
    disagree about a vote, or a worker would draw others than the first.
    """

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.occupancy = Occupancy()
        self.tried: dict[str, Tried] = {}
        self._facts: dict[str, Any] = {}
        self._idle: dict[int, None] = {}
        self._losses = 0

    def facts(self) -> dict[str, Any]:
        """What the votes of all workers depend on; waits for the first of them."""
        while not self._facts:
            for event in self.pool.events():
                self._note(event, Leases([], 1))
        return self._facts

    def run(self, leases: Leases) -> Iterator[Certificate]:
        """Yield the certificates of all images, each once; StoppedError if some were given up."""
        seen: dict[int, Certificate] = {}
        while leases.missing:
            self._give(leases)
            for event in self.pool.events():
                if not isinstance(event, Certified):
                    self._note(event, leases)
                    continue
                certificate = Certificate.from_json(event.line)
                self._losses = 0
                if leases.certified(certificate.image_id):
                    seen[certificate.image_id] = certificate
                    yield certificate
                else:
                    _check_same(seen.get(certificate.image_id), certificate)
        if failed := leases.failed:
            names = ", ".join(map(str, failed[:10])) + (", .." if len(failed) > 10 else "")
            raise StoppedError(
                f"{len(failed)} images were given up, because workers died of them: {names}; all "
                "others are on disk"
            )

    def _give(self, leases: Leases) -> None:
        for worker in list(self._idle):
            lease = leases.give(worker)
            if lease is None:
                return
            del self._idle[worker]
            self.pool.give(worker, lease.number, leases.left(lease.number))

    def _note(self, event: Ready | Done | Lost | Refused | Certified, leases: Leases) -> None:
        if isinstance(event, Ready):
            self._check_facts(event)
            self._idle[event.worker] = None
        elif isinstance(event, Done):
            leases.done(event.lease)
            self.occupancy.used += event.used
            self.occupancy.run += event.run
            self._idle[event.worker] = None
        elif isinstance(event, Lost):
            self._idle.pop(event.worker, None)
            leases.lost(event.worker)
            self._losses += 1
            if self._losses >= MOST_LOSSES_IN_A_ROW:
                raise StoppedError(f"workers keep dying, the last of them: {event.reason}")
        elif isinstance(event, Refused):
            raise SamplerError(f"worker {event.worker}: {event.message}")

    def _check_facts(self, event: Ready) -> None:
        facts = dict(event.facts)
        tried = facts.pop(TRIED_HERE, {})
        if not self._facts:
            self._facts, self.tried = facts, tried
        check_alike(self._facts, facts, f"worker {event.worker}", "the first")


def check_alike(ours: Mapping[str, Any], theirs: Mapping[str, Any], who: str, whom: str) -> None:
    """Raise SamplerError if somebody would certify otherwise than somebody else."""
    if names := unlike(ours, theirs):
        changed = "; ".join(f"{n} {ours.get(n)!r}, there {theirs.get(n)!r}" for n in names)
        raise SamplerError(f"{who} would draw other votes than {whom}: {changed}")


def _check_same(first: Certificate | None, second: Certificate) -> None:
    """Two workers may have certified an image; a vote does not depend on who casts it."""
    if first is not None and replace(first, seconds=0.0) != replace(second, seconds=0.0):
        raise SamplerError(
            f"image {second.image_id}: two workers drew different votes; run "
            "dualsmooth doctor on both machines"
        )
