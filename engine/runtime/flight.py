"""One procedure in flight: feeds it votes, checks them, and keeps the record."""

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from dualsmooth.engine.draws import Counts, Draw, DrawRecord
from dualsmooth.engine.errors import SamplerError
from dualsmooth.engine.runtime.known import RecordedVotes, Tally
from dualsmooth.engine.runtime.returned import check_disjoint

Result = TypeVar("Result")


@dataclass
class Flight(Generic[Result]):
    """A procedure certifying one image, the draw it waits for, and the votes drawn so far.

    Votes that ``book`` knows already are not asked for. The result is what the procedure returned.
    """

    image_id: int
    procedure: Generator[Draw, Counts, Result]
    book: RecordedVotes | None = None
    slot: int = -1
    seconds: float = 0.0
    records: list[DrawRecord] = field(default_factory=list)
    draw: Draw | None = None
    asked: int = 0
    result: Result = field(init=False, repr=False)
    _tally: Tally = field(default_factory=Tally)
    early: dict[Draw, Tally] = field(default_factory=dict)

    def start(self) -> None:
        """Run the procedure up to its first draw."""
        self._advance(None)

    @property
    def remaining(self) -> int:
        """Samples of the current draw not yet handed to a sampler."""
        return self.draw.count - self.asked if self.draw else 0

    @property
    def unread(self) -> int:
        """Samples that voted early and that nothing has asked for."""
        return sum(tally.counted for tally in self.early.values())

    def add(self, votes: NDArray[np.int64], count: int) -> bool:
        """Add the votes of ``count`` samples; True if that completed the draw.

        Votes that are negative or do not sum to ``count`` are a `SamplerError`.
        """
        self._check(votes, count)
        self._tally.add(votes, count)
        draw = self.draw
        if draw is None or self._tally.counted < draw.count:
            return False
        self.records.append(DrawRecord.of(draw, self._tally.votes))
        self._advance(self._tally.votes)
        return True

    def add_early(self, draw: Draw, votes: NDArray[np.int64], count: int) -> None:
        """Keep votes of a draw that may follow, until the procedure asks for it; raises as `add`.

        Whether it asks depends on the votes of earlier samples alone, so these change no answer.
        """
        self._check(votes, count)
        self.early.setdefault(draw, Tally()).add(votes, count)

    def _check(self, votes: NDArray[np.int64], count: int) -> None:
        if votes.min() < 0 or int(votes.sum()) != count:
            rule = f"votes must be >= 0 and sum to {count}"
            raise SamplerError(f"image {self.image_id}: {rule}; received {votes.tolist()}")

    def _advance(self, votes: Counts | None) -> None:
        """Run the procedure up to a draw whose votes are not known."""
        try:
            while True:
                draw = next(self.procedure) if votes is None else self.procedure.send(votes)
                known = self.book.find(self.image_id, draw) if self.book else Tally()
                early = self.early.pop(draw, known)
                self._tally = max(known, early, key=lambda tally: tally.counted)
                if self._tally.counted < draw.count:
                    self.draw, self.asked = draw, self._tally.counted
                    return
                votes = self._tally.votes
                self.records.append(DrawRecord.of(draw, votes))
        except StopIteration as stop:
            check_disjoint(self.records)
            self.draw, self.asked, self.result = None, 0, stop.value
