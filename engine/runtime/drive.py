"""The reference driver: one procedure, one image, one draw after another. It knows no batches."""

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
