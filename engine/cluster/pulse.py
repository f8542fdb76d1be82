"""Whether Ray actors that certify get on: each is asked now and then, and must run batches."""

import time
from typing import Any

from dualsmooth.engine.cluster import heartbeat as beats
from dualsmooth.engine.cluster.heartbeat import Watch


class Pulse:
    """Asks the actors that are at work for their progress.

    Parameters
    ----------
    ray : module
        Ray, connected.
    """

    def __init__(self, ray: Any) -> None:
        self._ray = ray
        self._watch = Watch()
        self._actors: dict[int, Any] = {}
        self._asked: dict[int, Any] = {}
        self._seen: dict[int, int] = {}
        self._next = 0.0

    def wait_for(self, worker: int) -> None:
        """An actor has been asked to load its networks."""
        self._watch.expect(worker, beats.STARTING)

    def start(self, worker: int, actor: Any) -> None:
        """An actor has been given a lease."""
        self._actors[worker] = actor
        self._watch.expect(worker, beats.SILENCE)

    def stop(self, worker: int) -> None:
        """It has answered, or is gone."""
        self._watch.rest(worker)
        for known in (self._actors, self._asked, self._seen):
            known.pop(worker, None)

    def silent(self) -> list[int]:
        """Actors that have run no batch for too long."""
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + beats.INTERVAL
            for worker, actor in self._actors.items():
                self._look(worker)
                if worker not in self._asked:
                    self._asked[worker] = actor.progress.remote()
        return self._watch.overdue()

    def _look(self, worker: int) -> None:
        """Take the last answer, if it has come."""
        asked = self._asked.get(worker)
        if asked is None or not self._ray.wait([asked], timeout=0)[0]:
            return
        del self._asked[worker]
        try:
            progress = self._ray.get(asked, timeout=beats.INTERVAL)
        except self._ray.exceptions.RayError:  # the lease it works on fails, too
            return
        if progress != self._seen.get(worker):
            self._seen[worker] = progress
            self._watch.expect(worker, beats.SILENCE)
