"""Signs of life: a worker that gets on says so, and one that has said nothing for long is given up.

A worker may be stopped, cut off, or hang in a driver of its device, and its process still be there.
What counts is progress: batches that were run, not a thread that is alive.
"""

import time
from collections.abc import Callable
from threading import Event, Lock, Thread
from typing import Any

from dualsmooth.engine.cluster.conductor import Alive

INTERVAL = 5.0
"""Seconds between two looks at a worker's progress."""

SILENCE = 600.0
"""Seconds without a batch after which a worker at work is given up."""

STARTING = 1800.0
"""Seconds a worker may take to load its networks; compilers may be part of it."""

AWAY = 5.0
"""Seconds between two looks at the deadlines after which it was we who were stopped."""


class Heartbeat:
    """A worker's end of a pipe: sends its messages and, in between, that it gets on.

    `progress` gives any number that changes when a batch has been run; it is looked at every
    `interval` seconds.
    """

    def __init__(
        self, pipe: Any, worker: int, progress: Callable[[], int], interval: float
    ) -> None:
        self._pipe, self._worker, self._progress = pipe, worker, progress
        self._lock, self._closed = Lock(), Event()
        Thread(target=self._beat, args=(interval,), name="heartbeat", daemon=True).start()

    def send(self, message: object) -> None:
        """Send a message whole."""
        with self._lock:
            if not self._closed.is_set():
                self._pipe.send(message)

    def close(self) -> None:
        """Say no more."""
        with self._lock:
            self._closed.set()

    def _beat(self, interval: float) -> None:
        before = self._progress()
        while not self._closed.wait(interval):
            now = self._progress()
            if now == before:
                continue
            before = now
            try:
                self.send(Alive(self._worker))
            except OSError:  # the driver is gone
                return


class Deadlines:
    """By when each worker must be heard of, in seconds of a clock.

    While nobody looks, because this process was stopped or its machine slept, nobody is late.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._looked = clock, clock()
        self._until: dict[int, float] = {}

    def expect(self, worker: int, seconds: float) -> None:
        """The worker must be heard of within so many seconds."""
        self._until[worker] = self._clock() + seconds

    def rest(self, worker: int) -> None:
        """The worker has nothing to do, or is gone: nothing is expected of it."""
        self._until.pop(worker, None)

    def overdue(self) -> list[int]:
        """Workers that should have been heard of by now."""
        now, before = self._clock(), self._looked
        self._looked = now
        if now - before > AWAY:
            self._until = {worker: until + now - before for worker, until in self._until.items()}
        return [worker for worker, until in self._until.items() if now > until]


class ActorDeadlines(Deadlines):
    """Deadlines of Ray actors: those at work are asked for their progress now and then."""

    def __init__(self, ray: Any, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock)
        self._ray = ray
        self._actors: dict[int, Any] = {}
        self._asked: dict[int, Any] = {}
        self._seen: dict[int, int] = {}
        self._next = 0.0

    def start(self, worker: int, actor: Any) -> None:
        """An actor has been given a lease."""
        self._actors[worker] = actor
        self.expect(worker, SILENCE)

    def rest(self, worker: int) -> None:
        """It has answered, or is gone."""
        super().rest(worker)
        for known in (self._actors, self._asked, self._seen):
            known.pop(worker, None)

    def overdue(self) -> list[int]:
        """Actors that have run no batch for too long."""
        if self._clock() >= self._next:
            self._next = self._clock() + INTERVAL
            for worker, actor in self._actors.items():
                self._look(worker)
                if worker not in self._asked:
                    self._asked[worker] = actor.progress.remote()
        return super().overdue()

    def _look(self, worker: int) -> None:
        """Take the last answer, if it has come."""
        asked = self._asked.get(worker)
        if asked is None or not self._ray.wait([asked], timeout=0)[0]:
            return
        del self._asked[worker]
        try:
            progress = self._ray.get(asked, timeout=INTERVAL)
        except self._ray.exceptions.RayError:  # the lease it works on fails, too
            return
        if progress != self._seen.get(worker):
            self._seen[worker] = progress
            self.expect(worker, SILENCE)
