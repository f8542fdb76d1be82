"""One procedure in flight: feeds it votes, checks them, and keeps the record."""

from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from dualsmooth.engine.draws import Counts, Draw, DrawRecord
from dualsmooth.engine.errors import SamplerError
from dualsmooth.engine.samplers.sampler import Sampler, Segment

Result = TypeVar("Result")


def _key(draw: Draw) -> tuple[str, float, str, int, int, int]:
    return draw.model, draw.sigma, draw.phase.name, draw.level, draw.first, draw.count


@dataclass
class Tally:
    """Votes of the first samples of a draw."""

    votes: Counts = field(default_factory=lambda: np.zeros((), np.int64))
    counted: int = 0

    def add(self, votes: NDArray[np.int64], count: int) -> None:
        """Add the votes of the next ``count`` samples."""
        self.votes = self.votes + votes
        self.counted += count


class RecordedVotes:
    """Draws that earlier runs recorded, by image."""

    def __init__(self) -> None:
        self._votes: dict[int, dict[tuple[object, ...], dict[int, tuple[int, ...]]]] = {}

    def add(self, image_id: int, record: DrawRecord) -> None:
        """Take in the votes of one draw."""
        part = (record.model, record.sigma, record.phase, record.level, record.first)
        self._votes.setdefault(image_id, {}).setdefault(part, {})[record.count] = record.votes

    def part(self, image_ids: Iterable[int]) -> "RecordedVotes":
        """The votes of some images."""
        book = RecordedVotes()
        book._votes = {i: self._votes[i] for i in image_ids if i in self._votes}
        return book

    def find(self, image_id: int, draw: Draw) -> Tally:
        """Votes of the first samples of a draw that runs recorded: of all, some or none."""
        found, known = Tally(), self._votes.get(image_id, {})
        while found.counted < draw.count:
            *part, _ = _key(replace(draw, first=draw.first + found.counted))
            pieces = known.get(tuple(part), {})
            counts = [count for count in pieces if count <= draw.count - found.counted]
            if not counts:
                break
            found.add(np.array(pieces[max(counts)], np.int64), max(counts))
        return found


@dataclass
class Flight(Generic[Result]):
    """A procedure certifying one image, the draw it waits for, and the votes drawn so far.

    Votes that ``book`` knows already are not asked for.
    """

    image_id: int
    procedure: Generator[Draw, Counts, Result]
    book: RecordedVotes | None = None
    slot: int = -1
    seconds: float = 0.0
    records: list[DrawRecord] = field(default_factory=list)
    draw: Draw | None = None
    asked: int = 0
    _result: Result | None = None
    _tally: Tally = field(default_factory=Tally)
    _early: dict[Draw, Tally] = field(default_factory=dict)

    def start(self) -> None:
        """Run the procedure up to its first draw."""
        self._advance(None)

    @property
    def result(self) -> Result:
        """What the procedure, which has ended, returned."""
        assert self._result is not None
        return self._result

    @property
    def remaining(self) -> int:
        """Samples of the current draw not yet handed to a sampler."""
        return self.draw.count - self.asked if self.draw else 0

    @property
    def unread(self) -> int:
        """Samples that voted early and that nothing has asked for."""
        return sum(tally.counted for tally in self._early.values())

    def following(self) -> Iterator[tuple[Draw, int]]:
        """Draws that continue the current one, and how many samples of each have voted early."""
        if self.draw is None:
            return
        first = self.draw.first + self.draw.count
        for count in self.draw.ahead:
            draw = replace(self.draw, first=first, count=count, ahead=())
            yield draw, self._early[draw].counted if draw in self._early else 0
            first += count

    def add(self, votes: NDArray[np.int64], count: int) -> bool:
        """Add the votes of ``count`` samples; True if that completed the draw.

        Votes that are negative or do not sum to ``count`` are a `SamplerError`.
        """
        self._check(votes, count)
        self._tally.add(votes, count)
        draw = self.draw
        if draw is None or self._tally.counted < draw.count:
            return False
        self._record(draw, self._tally.votes)
        self._advance(self._tally.votes)
        return True

    def add_early(self, draw: Draw, votes: NDArray[np.int64], count: int) -> None:
        """Keep votes of a draw that may follow, until the procedure asks for it; raises as `add`.

        Whether it asks depends on the votes of earlier samples alone, so these change no answer.
        """
        self._check(votes, count)
        self._early.setdefault(draw, Tally()).add(votes, count)

    def _check(self, votes: NDArray[np.int64], count: int) -> None:
        if votes.min() < 0 or int(votes.sum()) != count:
            raise SamplerError(
                f"image {self.image_id}: votes must be >= 0 and sum to {count}; received "
                f"{votes.tolist()}"
            )

    def _record(self, draw: Draw, votes: Counts) -> None:
        self.records.append(DrawRecord(*_key(draw), tuple(votes.tolist())))

    def _advance(self, votes: Counts | None) -> None:
        """Run the procedure up to a draw whose votes are not known."""
        try:
            while True:
                draw = next(self.procedure) if votes is None else self.procedure.send(votes)
                known = self.book.find(self.image_id, draw) if self.book else Tally()
                early = self._early.pop(draw, known)
                self._tally = max(known, early, key=lambda tally: tally.counted)
                if self._tally.counted < draw.count:
                    self.draw, self.asked = draw, self._tally.counted
                    return
                votes = self._tally.votes
                self._record(draw, votes)
        except StopIteration as stop:
            self.draw, self.asked, self._result = None, 0, stop.value


def drive(flight: Flight[Result], sampler: Sampler) -> Flight[Result]:
    """Run a procedure to its end on an image already loaded into ``flight.slot``; returns it."""
    flight.start()
    while draw := flight.draw:
        count = min(flight.remaining, sampler.capacity)
        segment = Segment.of(draw, flight.slot, flight.image_id, flight.asked, count)
        flight.asked += count
        flight.add(sampler.count(draw.model, [segment])[0], count)
    return flight
