"""Continuous batching: many procedures in flight, their draws packed into full batches.

Each network has a queue of flights waiting for votes, oldest first. A step serves the network whose
queue fills its batch best (ties: the one that has waited longest), packs samples of as many flights
as fit, and hands the votes back. A decided image leaves its slot at once and the next image takes
it. Slots bound the number of images in memory, so no queue starves: images waiting elsewhere keep
their slots until the starved network is the only one with work.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from time import perf_counter
from typing import Generic

import numpy as np
from numpy.typing import NDArray

from dualsmooth.engine.runtime.flight import Flight, Result
from dualsmooth.engine.runtime.segments import Sampler, Segment


@dataclass
class Occupancy:
    """How full the batches were: rows that carried a sample, of all rows run."""

    used: int = 0
    run: int = 0

    @property
    def share(self) -> float:
        """Used / run; 1.0 before the first batch."""
        return self.used / self.run if self.run else 1.0


class Scheduler(Generic[Result]):
    """Runs procedures of many images on one sampler.

    Parameters
    ----------
    sampler : Sampler
        Answers the draws.
    slots : int
        Images in flight at once, >= 1.
    """

    def __init__(self, sampler: Sampler, slots: int) -> None:
        self.sampler, self.slots = sampler, slots
        self.occupancy = Occupancy()
        self._queues: dict[str, deque[Flight[Result]]] = {}

    def run(
        self, jobs: Iterable[tuple[Flight[Result], Callable[[], NDArray[np.float32]]]]
    ) -> Iterator[Flight[Result]]:
        """Yield flights as they finish.

        Parameters
        ----------
        jobs : iterable of (Flight, callable)
            Flights not yet started, and how to get their image, shape (height, width, channels);
            consumed only as slots become free.
        """
        waiting, free = iter(jobs), list(range(self.slots))
        while True:
            while free and (job := next(waiting, None)) is not None:
                flight, image = job
                flight.slot = free.pop()
                self.sampler.load(flight.slot, image())
                flight.start()
                yield from self._requeue(flight, free)
            if not any(self._queues.values()):
                return
            for flight in self._step():
                yield from self._requeue(flight, free)

    def _requeue(self, flight: Flight[Result], free: list[int]) -> Iterator[Flight[Result]]:
        if flight.draw is None:
            free.append(flight.slot)
            yield flight
        else:
            self._queues.setdefault(flight.draw.model, deque()).append(flight)

    def _step(self) -> list[Flight[Result]]:
        """Run one batch; return the flights whose draw it completed."""
        model = max(self._queues, key=self._fill)
        queue, room = self._queues.pop(model), self.sampler.capacity
        parts: list[tuple[Flight[Result], Segment]] = []
        while queue and room:
            flight = queue[0]
            assert flight.draw is not None
            count = min(flight.remaining, room)
            segment = Segment.of(flight.draw, flight.slot, flight.image_id, flight.asked, count)
            parts.append((flight, segment))
            flight.asked += count
            room -= count
            if not flight.remaining:
                queue.popleft()
        if queue:
            self._queues[model] = queue
        return self._count(model, parts)

    def _fill(self, model: str) -> int:
        rows = 0
        for flight in self._queues[model]:
            rows += flight.remaining
            if rows >= self.sampler.capacity:
                return self.sampler.capacity
        return rows

    def _count(
        self, model: str, parts: list[tuple[Flight[Result], Segment]]
    ) -> list[Flight[Result]]:
        start = perf_counter()
        votes = self.sampler.count(model, [segment for _, segment in parts])
        seconds = perf_counter() - start
        rows = sum(segment.count for _, segment in parts)
        self.occupancy.used += rows
        self.occupancy.run += -(-rows // self.sampler.batch_size) * self.sampler.batch_size
        finished = []
        for (flight, segment), row in zip(parts, votes, strict=True):
            flight.seconds += seconds * segment.count / rows
            if flight.add(row, segment.count):
                finished.append(flight)
        return finished
