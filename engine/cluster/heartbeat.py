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


class Voice:
    """A worker's end of a pipe: sends its messages and, in between, that it gets on.

    Parameters
    ----------
    pipe : Connection
        To the driver.
    worker : int
        Number of the worker.
    progress : callable
        Any number that changes when a batch has been run.
    interval : float
        Seconds between two looks at it.
    """

    def __init__(
        self, pipe: Any, worker: int, progress: Callable[[], int], interval: float
    ) -> None:
        self._pipe, self._worker, self._progress = pipe, worker, progress
        self._lock, self._closed = Lock(), Event()
        Thread(target=self._beat, args=(interval,), name="beats", daemon=True).start()

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


class Watch:
    """Which workers have been silent for too long.

    Parameters
    ----------
    clock : callable
        Seconds, from any origin.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until: dict[int, float] = {}

    def expect(self, worker: int, seconds: float) -> None:
        """The worker must be heard of within so many seconds."""
        self._until[worker] = self._clock() + seconds

    def rest(self, worker: int) -> None:
        """The worker has nothing to do, or is gone: nothing is expected of it."""
        self._until.pop(worker, None)

    def overdue(self) -> list[int]:
        """Workers that should have been heard of by now."""
        now = self._clock()
        return [worker for worker, until in self._until.items() if now > until]
