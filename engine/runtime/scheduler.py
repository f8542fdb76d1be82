"""Continuous batching: many procedures in flight, their draws packed into full batches.

Each network has a queue of flights waiting for votes, oldest first. A step serves the network whose
queue fills its batch best (ties: the one that has waited longest) and packs samples of as many
flights as fit. A decided image leaves its slot at once and the next image takes it.

A sampler with ``depth`` above 1 gets another step while earlier ones run, as long as that step
needs no padding; otherwise the votes of the oldest step are awaited first. So a device is kept busy
without batches being padded for it.

Slots bound the number of images in memory, so no queue starves: images waiting elsewhere keep their
slots until the starved network is the only one with work.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from time import perf_counter
from typing import Generic

import numpy as np
from numpy.typing import NDArray

from dualsmooth.engine.runtime.flight import Flight, Result
from dualsmooth.engine.runtime.segments import Pending, Sampler, Segment


@dataclass
class Occupancy:
    """How full the batches were: rows that carried a sample, of all rows run."""

    used: int = 0
    run: int = 0

    @property
    def share(self) -> float:
        """Used / run; 1.0 before the first batch."""
        return self.used / self.run if self.run else 1.0


@dataclass
class _Step(Generic[Result]):
    """Segments handed to the sampler, and how to get their votes."""

    parts: list[tuple[Flight[Result], Segment]]
    pending: Pending
    submitted: float


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
        self._steps: deque[_Step[Result]] = deque()
        self._collected = 0.0

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
            if len(self._steps) < self.sampler.depth and self._submit():
                continue
            if not self._steps:
                return
            for flight in self._collect():
                yield from self._requeue(flight, free)

    def _requeue(self, flight: Flight[Result], free: list[int]) -> Iterator[Flight[Result]]:
        if flight.draw is None:
            free.append(flight.slot)
            yield flight
        else:
            self._queues.setdefault(flight.draw.model, deque()).append(flight)

    def _submit(self) -> bool:
        """Hand the sampler a step; False if none is worth one now."""
        model = max(self._queues, key=self._fill, default=None)
        room = 0 if model is None else self._fill(model)
        if self._steps:  # something runs already: no padding
            room -= room % self.sampler.batch_size
        if model is None or not room:
            return False
        start = perf_counter()
        parts = self._pack(model, room)
        pending = self.sampler.submit(model, [segment for _, segment in parts])
        self._steps.append(_Step(parts, pending, start))
        rows = sum(segment.count for _, segment in parts)
        self.occupancy.used += rows
        self.occupancy.run += -(-rows // self.sampler.batch_size) * self.sampler.batch_size
        return True

    def _pack(self, model: str, room: int) -> list[tuple[Flight[Result], Segment]]:
        queue = self._queues.pop(model)
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
        return parts

    def _fill(self, model: str) -> int:
        rows = 0
        for flight in self._queues[model]:
            rows += flight.remaining
            if rows >= self.sampler.capacity:
                return self.sampler.capacity
        return rows

    def _collect(self) -> list[Flight[Result]]:
        """Wait for the oldest step; return the flights whose draw it completed."""
        step = self._steps.popleft()
        votes = step.pending()
        now = perf_counter()
        # Steps run one after another, so a step's own time starts when the one before it ended.
        seconds = now - max(step.submitted, self._collected)
        self._collected = now
        rows = sum(segment.count for _, segment in step.parts)
        finished = []
        for (flight, segment), row in zip(step.parts, votes, strict=True):
            flight.seconds += seconds * segment.count / rows
            if flight.add(row, segment.count):
                finished.append(flight)
        return finished
