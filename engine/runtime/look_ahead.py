"""Look-ahead: rows that would be padding vote on draws that may follow.

A draw that says how it would go on (`Draw.ahead`) can be voted on early. The votes are those it
would get later, so no answer changes; if the procedure stops before, they are not read.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from typing import Generic

from dualsmooth.engine.draws import Draw
from dualsmooth.engine.runtime.flight import Flight, Result
from dualsmooth.engine.samplers.sampler import Segment


@dataclass(frozen=True, slots=True)
class Part(Generic[Result]):
    """A segment of a step, the flight it is for, and the draw if that has not been asked for."""

    flight: Flight[Result]
    segment: Segment
    early: Draw | None = None


def look_ahead(flights: Sequence[Flight[Result]], room: int) -> list[Part[Result]]:
    """Segments for at most ``room`` rows to spare, of draws that follow those of the flights.

    A test undecided after m votes goes on beyond e > m votes with a chance of about m / e, so the
    next samples go to the flight with the largest m / e, and first to draws that follow as a rule.
    The flights' current draws have all been handed to the sampler.
    """
    parts: list[Part[Result]] = []
    waiting: list[tuple[float, int, Draw, int]] = []
    following = [_following(flight) for flight in flights]

    def push(index: int) -> None:
        if (step := next(following[index], None)) is not None:
            current = flights[index].draw
            assert current is not None
            chance = 1.0 if step[0] == current.then else current.first / step[0].first
            heappush(waiting, (-chance, index, *step))

    for index in range(len(flights)):
        push(index)
    while waiting and room:
        _, index, draw, done = heappop(waiting)
        push(index)
        if count := min(draw.count - done, room):
            flight = flights[index]
            segment = Segment.of(draw, flight.slot, flight.image_id, done, count)
            parts.append(Part(flight, segment, draw))
            room -= count
    return parts


def _following(flight: Flight[Result]) -> Iterator[tuple[Draw, int]]:
    """Draws that follow a flight's current one, and how many samples of each have voted early."""
    if flight.draw is None:
        return
    draws = [] if flight.draw.then is None else [flight.draw.then]
    first = flight.draw.first + flight.draw.count
    for count in flight.draw.ahead:
        draws.append(replace(flight.draw, first=first, count=count, ahead=(), then=None))
        first += count
    for draw in draws:
        yield draw, flight.early[draw].counted if draw in flight.early else 0
