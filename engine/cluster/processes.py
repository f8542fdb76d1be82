"""Workers that are processes of this machine, each with a warm sampler of its own."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from multiprocessing.resource_tracker import ensure_running
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any

from dualsmooth.engine.backends import recorded_backend
from dualsmooth.engine.cluster import heartbeat
from dualsmooth.engine.cluster.conductor import Alive, Certified, Done, Event, Lost, Ready, Refused
from dualsmooth.engine.cluster.heartbeat import Deadlines, Heartbeat
from dualsmooth.engine.cluster.job import Cut, Job, facts_of
from dualsmooth.engine.errors import DualSmoothError, reason_of

if TYPE_CHECKING:
    from dualsmooth.engine.runtime.session import Session

PATIENCE = 0.5
"""Seconds to wait for news, and for a worker that was asked to stop."""

SILENT = "worker process was there and did nothing for too long"


def work(pipe: "Connection[Any, Any]", number: int, environment: dict[str, str]) -> None:
    """Certify leases until there is none or the driver is gone. Runs in a process of its own.

    The job is the first message: what a process is started with must fit into the pipe that
    starts it, for nobody reads from that if the process is killed at once.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the driver, which stops us
    os.environ.update(environment)  # before torch makes use of it
    end: type[Lost | Refused] = Refused  # another worker would not start, either
    try:
        from tqdm import tqdm

        from dualsmooth.engine.runtime.session import Session

        tqdm.set_lock(threading.RLock())  # torch.fx makes bars; killed, theirs would be left over
        job = pipe.recv()
        with Session.open(job.method, job.settings, job.make) as session:
            beat = Heartbeat(pipe, number, lambda: session.occupancy.run, heartbeat.INTERVAL)
            with closing(beat):
                beat.send(Ready(number, facts_of(session)))
                end = Lost
                _serve(pipe, beat, number, session)
    except BaseException as error:
        line = reason_of(error)
        with suppress(OSError):  # the driver is gone
            if isinstance(error, DualSmoothError):
                pipe.send(Refused(number, str(error)))
            else:
                pipe.send(end(number, line))


def _serve(pipe: "Connection[Any, Any]", beat: Heartbeat, number: int, session: "Session") -> None:
    while (lease := pipe.recv()) is not None:
        for certificate in session.certify(lease.images, lease.image_ids, lease.labels, lease.book):
            beat.send(Certified(number, lease.number, certificate.to_json()))
        share = session.occupancy
        beat.send(Done(number, lease.number, share.used, share.run))


class Processes:
    """A pool of processes. The first one chooses a backend if ``auto`` does; the others follow."""

    def __init__(self, job: Job, count: int) -> None:
        self.cut: Cut
        self._job, self._count = job, count
        self._context = get_context("spawn")
        self._workers: dict[int, tuple[BaseProcess, Connection[Any, Any]]] = {}
        self._places: dict[int, int] = {}
        self._sending: dict[int, Thread] = {}
        self._unready: set[int] = set()
        self._news: SimpleQueue[Event | Alive] = SimpleQueue()
        self._deadlines = Deadlines()
        self._next = 0
        self._start(0)

    def give(self, worker: int, lease: int, image_ids: list[int]) -> None:
        """Send a lease; a worker that is gone is reported by `events`."""
        if worker in self._workers:
            self._send(worker, bytes(ForkingPickler.dumps(self.cut(lease, image_ids))))
            self._deadlines.expect(worker, heartbeat.SILENCE)

    def events(self) -> list[Event]:
        """Messages of the workers; workers that are lost or silent are replaced."""
        events: list[Event] = []
        with suppress(Empty):
            events += self._heard(self._news.get(timeout=PATIENCE))
            while True:
                events += self._heard(self._news.get_nowait())
        return events + [self._replace(number, SILENT) for number in self._deadlines.overdue()]

    def close(self) -> None:
        """Ask, then kill."""
        for number in self._workers:
            if not self._sending[number].is_alive():
                self._send(number, bytes(ForkingPickler.dumps(None)))
        until = time.monotonic() + PATIENCE
        for process, _ in self._workers.values():
            process.join(max(0.0, until - time.monotonic()))
        for number in list(self._workers):
            self._end(number)

    def _heard(self, event: Event | Alive) -> list[Event]:
        """What the conductor is to know of a message; nothing of workers that were replaced."""
        if event.worker not in self._workers:
            return []
        if isinstance(event, Lost):
            return [self._lost(event)]
        if isinstance(event, Ready):
            self._unready.discard(event.worker)
            self._follow(event)
        if isinstance(event, Alive | Certified):
            self._deadlines.expect(event.worker, heartbeat.SILENCE)
        else:
            self._deadlines.rest(event.worker)
        return [] if isinstance(event, Alive) else [event]

    def _follow(self, event: Ready) -> None:
        """Start the other workers once the first has said which backend it chose."""
        if len(self._places) == self._count:
            return
        backend = recorded_backend(event.facts["sampler"])
        self._job = replace(self._job, settings=replace(self._job.settings, backend=backend))
        for place in range(1, self._count):
            self._start(place)

    def _lost(self, event: Lost) -> Lost | Refused:
        """Replace a worker, unless it ended by itself before it was ready: so would the next."""
        process, _ = self._workers[event.worker]
        process.join(PATIENCE)
        reason = event.reason or f"worker process ended with code {process.exitcode}"
        if event.worker in self._unready and (process.exitcode or 0) > 0:
            self._end(event.worker)
            return Refused(event.worker, f"{reason} before it was ready")
        return self._replace(event.worker, reason)

    def _replace(self, number: int, reason: str) -> Lost:
        self._end(number)
        self._start(self._places.pop(number))
        return Lost(number, reason)

    def _end(self, number: int) -> None:
        """Kill a worker and forget it."""
        process, _ = self._workers.pop(number)  # the pipe closes when both its threads have ended
        self._deadlines.rest(number)
        self._unready.discard(number)
        process.kill()
        process.join(PATIENCE)

    def _start(self, place: int) -> None:
        number, self._next = self._next, self._next + 1
        job = bytes(ForkingPickler.dumps(self._job))
        with undisturbed():
            ours, theirs = self._context.Pipe()
            arguments = (theirs, number, _environment(self._job, place))
            process = self._context.Process(target=work, args=arguments, daemon=True)
            process.start()
            theirs.close()
            self._workers[number] = process, ours
            self._places[number] = place
            self._unready.add(number)
            self._deadlines.expect(number, heartbeat.STARTING)
            self._send(number, job)
            Thread(target=_listen, args=(number, ours, self._news), daemon=True).start()

    def _send(self, number: int, message: bytes) -> None:
        # On a thread: a worker that was stopped reads nothing, and its pipe fills.
        arguments = (self._workers[number][1], message)
        self._sending[number] = Thread(target=_send, args=arguments, daemon=True)
        self._sending[number].start()


def _send(pipe: "Connection[Any, Any]", message: bytes) -> None:
    with suppress(OSError):
        pipe.send_bytes(message)


def _listen(number: int, pipe: "Connection[Any, Any]", news: "SimpleQueue[Any]") -> None:
    """Take a worker's messages; on a thread, for it may be stopped in the middle of one."""
    with suppress(EOFError, OSError):
        while True:
            news.put(pipe.recv())
    news.put(Lost(number, ""))


@contextmanager
def undisturbed() -> Iterator[None]:
    """Ctrl-C waits for the end of the block, and does not reach a process started in it.

    Half started, a process would be lost to us, and Python's start prints a traceback.
    """
    if threading.current_thread() is not threading.main_thread() or os.name != "posix":
        yield
        return
    ensure_running()  # it changes the mask
    signals = (signal.SIGINT, signal.SIGTERM)
    caught: list[int] = []
    before = [signal.signal(number, lambda found, _: caught.append(found)) for number in signals]
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signals[:1])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
    if caught:
        signal.raise_signal(caught[0])


def _environment(job: Job, place: int) -> dict[str, str]:
    """Each worker sees one CUDA device, in turn."""
    if job.settings.device != "cuda":
        return {}
    import torch

    listed = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = listed.split(",") if listed else list(map(str, range(torch.cuda.device_count())))
    return {"CUDA_VISIBLE_DEVICES": names[place % len(names)]}
