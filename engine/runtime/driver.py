"""Reference driver: one image, one draw at a time. The scheduler must give the same answers."""

from dualsmooth.engine.runtime.flight import Flight, Result
from dualsmooth.engine.runtime.segments import Sampler, Segment


def drive(flight: Flight[Result], sampler: Sampler) -> Flight[Result]:
    """Run one procedure to its end on an image already loaded into ``flight.slot``.

    Parameters
    ----------
    flight : Flight
        Not yet started.
    sampler : Sampler
        Holds the image.

    Returns
    -------
    Flight
        The same, with ``result`` and ``records`` filled.
    """
    flight.start()
    while draw := flight.draw:
        count = min(flight.remaining, sampler.capacity)
        segment = Segment.of(draw, flight.slot, flight.image_id, flight.asked, count)
        flight.asked += count
        flight.add(sampler.count(draw.model, [segment])[0], count)
    return flight
