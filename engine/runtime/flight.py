"""One procedure in flight: feeds it votes, checks them, and keeps the record."""

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from dualsmooth.engine.certificate import DrawRecord
from dualsmooth.engine.draws import Counts, Draw
from dualsmooth.engine.errors import SamplerError
from dualsmooth.engine.votebook import Votebook

Result = TypeVar("Result")


@dataclass
class Flight(Generic[Result]):
    """A procedure, the draw it waits for, and the votes drawn so far.

    Parameters
    ----------
    image_id : int
        Which image it certifies.
    procedure : Generator
        Yields `Draw`, receives counts, returns its result.
    book : Votebook, optional
        Votes known already; they are not asked for.
    """

    image_id: int
    procedure: Generator[Draw, Counts, Result]
    book: Votebook | None = None
    slot: int = -1
    seconds: float = 0.0
    records: list[DrawRecord] = field(default_factory=list)
    draw: Draw | None = None
    asked: int = 0
    result: Result | None = None
    _votes: NDArray[np.int64] | None = None
    _counted: int = 0

    def start(self) -> None:
        """Run the procedure up to its first draw."""
        self._advance(None)

    @property
    def remaining(self) -> int:
        """Samples of the current draw not yet handed to a sampler."""
        return self.draw.count - self.asked if self.draw else 0

    def add(self, votes: NDArray[np.int64], count: int) -> bool:
        """Add the votes of ``count`` samples; True if that completed the draw.

        Raises
        ------
        SamplerError
            If votes are negative or do not sum to ``count``.
        """
        if votes.min() < 0 or int(votes.sum()) != count:
            raise SamplerError(
                f"image {self.image_id}: votes must be >= 0 and sum to {count}; received "
                f"{votes.tolist()}"
            )
        self._votes = votes.copy() if self._votes is None else self._votes + votes
        self._counted += count
        draw = self.draw
        if draw is None or self._counted < draw.count:
            return False
        votes, self._votes, self._counted, self.asked = self._votes, None, 0, 0
        self._record(draw, votes)
        self._advance(votes)
        return True

    def _record(self, draw: Draw, votes: Counts) -> None:
        self.records.append(
            DrawRecord(
                draw.model, draw.sigma, draw.phase.name, draw.level, draw.first, draw.count,
                tuple(votes.tolist()),
            )
        )  # fmt: skip

    def _advance(self, votes: Counts | None) -> None:
        """Run the procedure up to a draw whose votes are not known."""
        try:
            while True:
                draw = next(self.procedure) if votes is None else self.procedure.send(votes)
                votes = self.book.find(self.image_id, draw) if self.book else None
                if votes is None:
                    self.draw = draw
                    return
                self._record(draw, votes)
        except StopIteration as stop:
            self.draw, self.result = None, stop.value
