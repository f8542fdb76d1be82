"""Continuous batching: many procedures in flight, their draws packed into full batches.

Each network has a queue of flights waiting for votes, oldest first. A step serves the network with
the longest queue (ties: the one that has waited longest) and packs samples of as many flights as
fit into whole batches; what is left over waits for the next step. A decided image leaves its slot
at once and the next image takes it.

A batch is padded only if no network can fill one and nothing runs that could lead to more votes
being asked for; and then rows to spare look ahead (`dualsmooth.engine.runtime.look_ahead`). A
sampler with ``depth`` above 1 gets another step while earlier ones run, so a device is kept busy
without batches being padded for it.

Slots bound the number of images in memory. No queue starves: one that was passed over PATIENCE
times in a row is served next, full or not.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Generic

from dualsmooth.engine.runtime.flight import Flight, Result
from dualsmooth.engine.runtime.look_ahead import Part, look_ahead
from dualsmooth.engine.samplers.sampler import Pending, Sampler, Segment

PATIENCE = 256


@dataclass
class Occupancy:
    """How full the batches were: rows whose votes were asked for, of all rows run.

    Padding is not used, and neither are early votes of draws that no procedure came to.
    """

    used: int = 0
    run: int = 0

    @property
    def share(self) -> float:
        """Used / run; 1.0 before the first batch."""
        return self.used / self.run if self.run else 1.0


@dataclass
class _Step(Generic[Result]):
    """Segments handed to the sampler, and how to get their votes."""

    parts: list[Part[Result]]
    pending: Pending
    submitted: float


class Scheduler(Generic[Result]):
    """Runs procedures of many images on one sampler, ``slots`` of them at once."""

    def __init__(self, sampler: Sampler, slots: int) -> None:
        self.sampler, self.slots = sampler, slots
        self.occupancy = Occupancy()
        self._queues: dict[str, deque[Flight[Result]]] = {}  # longest unserved first
        self._since: dict[str, int] = {}
        self._submitted = 0
        self._steps: deque[_Step[Result]] = deque()
        self._collected = 0.0

    def run(
        self, jobs: Iterable[tuple[Flight[Result], Callable[[], Any]]]
    ) -> Iterator[Flight[Result]]:
        """Yield flights as they finish.

        Jobs are flights not yet started and how to get their image, shape (height, width,
        channels); they are consumed only as slots become free.
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
            self.occupancy.used -= flight.unread
            yield flight
        else:
            self._queue(flight.draw.model).append(flight)

    def _queue(self, model: str) -> deque[Flight[Result]]:
        if model not in self._queues:
            self._queues[model] = deque()
            self._since[model] = self._submitted
        return self._queues[model]

    def _submit(self) -> bool:
        """Hand the sampler a step; False if none is worth one now."""
        if not self._queues:
            return False
        model = next(iter(self._queues))
        overdue = self._submitted - self._since[model] >= PATIENCE
        if not overdue:
            model = max(self._queues, key=self._rows)
        rows, batch = self._rows(model), self.sampler.batch_size
        whole = rows - rows % batch
        if not whole and self._steps and not overdue:
            return False
        start, parts = perf_counter(), self._pack(model, whole or rows)
        if not whole:
            parts += look_ahead([part.flight for part in parts], batch - rows)
        pending = self.sampler.submit(model, [part.segment for part in parts])
        self._steps.append(_Step(parts, pending, start))
        self._submitted += 1
        self.occupancy.used += sum(part.segment.count for part in parts)
        self.occupancy.run += -(-sum(self._room(p.segment.count) for p in parts) // batch) * batch
        return True

    def _pack(self, model: str, room: int) -> list[Part[Result]]:
        queue = self._queues.pop(model)
        parts: list[Part[Result]] = []
        while queue and room:
            flight = queue[0]
            assert flight.draw is not None
            count = min(flight.remaining, room)
            segment = Segment.of(flight.draw, flight.slot, flight.image_id, flight.asked, count)
            parts.append(Part(flight, segment))
            flight.asked += count
            room -= self._room(count)
            if not flight.remaining:
                queue.popleft()
        if queue:
            self._queue(model).extend(queue)
        return parts

    def _room(self, count: int) -> int:
        """Rows that a segment of so many samples takes up."""
        return -(-count // self.sampler.grain) * self.sampler.grain

    def _rows(self, model: str) -> int:
        """Rows waiting for a network, as far as one step can take them."""
        rows = 0
        for flight in self._queues[model]:
            rows += self._room(flight.remaining)
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
        rows = sum(part.segment.count for part in step.parts)
        for part, row in zip(step.parts, votes, strict=True):
            part.flight.seconds += seconds * part.segment.count / rows
            if part.early is not None:
                part.flight.add_early(part.early, row, part.segment.count)
        return [
            part.flight
            for part, row in zip(step.parts, votes, strict=True)
            if part.early is None and part.flight.add(row, part.segment.count)
        ]
