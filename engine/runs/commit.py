"""Certificates written in groups: one fsync for all that came in while the last one ran.

A disk takes milliseconds for an fsync, a fast sampler less than that for a certificate. So a thread
writes, and takes everything that waits each time. Nothing waits longer than the write before it.
"""

import threading
from collections.abc import Callable

from dualsmooth.engine.certificate import Certificate
from dualsmooth.engine.runs.log import RunLog


class GroupCommit:
    """A thread that appends to a run log. Use it as a context; leaving it waits for the disk.

    Nobody else may append meanwhile. ``acknowledge`` is called on that thread with the certificates
    that have just reached the disk.
    """

    def __init__(self, log: RunLog, acknowledge: Callable[[list[Certificate]], object]) -> None:
        self._log, self._acknowledge = log, acknowledge
        self._waiting: list[Certificate] = []
        self._changed = threading.Condition()
        self._closed = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._write, name="run log", daemon=True)

    def put(self, certificate: Certificate) -> None:
        """Hand a certificate over; raises what kept an earlier one from being written."""
        with self._changed:
            if self._error is not None:
                raise self._error
            self._waiting.append(certificate)
            self._changed.notify()

    def _write(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                group, self._waiting = self._waiting, []
            if not group:
                return
            try:
                self._log.append(*group)
                self._acknowledge(group)
            except BaseException as error:
                with self._changed:
                    self._error = error
                return

    def __enter__(self) -> "GroupCommit":
        self._thread.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()
        if self._error is not None and error is None:
            raise self._error
