"""The reference drivers: one procedure, one image, one draw after another. They know no batches."""

from collections.abc import Callable, Generator
from contextlib import closing

from dualsmooth.engine.draws import Counts, Draw
from dualsmooth.engine.runtime.flight import Flight, Result
from dualsmooth.engine.samplers.sampler import Sampler, Segment


def drive(flight: Flight[Result], sampler: Sampler) -> Flight[Result]:
    """Run a procedure to its end on an image already loaded into ``flight.slot``; returns it."""
    flight.start()
    while draw := flight.draw:
        count = min(flight.remaining, sampler.capacity)
        segment = Segment.of(draw, flight.slot, flight.image_id, flight.asked, count)
        flight.asked += count
        flight.add(sampler.count(draw.model, [segment])[0], count)
    return flight


def answered(
    procedure: Generator[Draw, Counts, Result], answer: Callable[[Draw], Counts]
) -> Result:
    """What a procedure returns if a function answers its draws: from recorded or made-up votes."""
    votes: Counts | None = None
    with closing(procedure):
        while True:
            try:
                draw = next(procedure) if votes is None else procedure.send(votes)
            except StopIteration as stop:
                result: Result = stop.value
                return result
            votes = answer(draw)
