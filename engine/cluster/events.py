"""What a pool of workers tells its conductor."""

from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias


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
