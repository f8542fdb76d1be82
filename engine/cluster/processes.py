"""Workers that are processes of this machine, each with a warm sampler of its own."""

import os
import signal
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import replace
from multiprocessing import connection, get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from threading import Thread
from typing import TYPE_CHECKING, Any

from dualsmooth.engine.cluster import heartbeat as beats
from dualsmooth.engine.cluster.conductor import Alive, Certified, Done, Event, Lost, Ready, Refused
from dualsmooth.engine.cluster.heartbeat import Voice, Watch
from dualsmooth.engine.cluster.job import Job, Parcel, facts_of
from dualsmooth.engine.errors import DualSmoothError
from dualsmooth.engine.settings import recorded_backend

if TYPE_CHECKING:
    from dualsmooth.engine.runtime.session import Session

PATIENCE = 0.5
"""Seconds to wait for news, and for a worker that was asked to stop."""


def work(pipe: "Connection[Any, Any]", number: int, job: Job, environment: dict[str, str]) -> None:
    """Certify parcels until there is none or the driver is gone. Runs in a process of its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the driver, which stops us
    os.environ.update(environment)  # before torch is imported
    from dualsmooth.engine.runtime.session import Session

    try:
        with Session(job.method, job.settings, job.make) as session:
            voice = Voice(pipe, number, lambda: session.occupancy.run, beats.INTERVAL)
            with closing(voice):
                _serve(pipe, voice, number, session)
    except DualSmoothError as error:
        pipe.send(Refused(number, str(error)))
    except (EOFError, ConnectionError):  # the driver is gone
        pass


def _serve(pipe: "Connection[Any, Any]", voice: Voice, number: int, session: "Session") -> None:
    voice.send(Ready(number, facts_of(session)))
    while (parcel := pipe.recv()) is not None:
        for certificate in session.certify(
            parcel.images, parcel.image_ids, parcel.labels, parcel.book
        ):
            voice.send(Certified(number, parcel.lease, certificate.to_json()))
        share = session.occupancy
        voice.send(Done(number, parcel.lease, share.used, share.run))


class Processes:
    """A pool of processes. The first one chooses a backend if ``auto`` does; the others follow.

    Parameters
    ----------
    job : Job
        What they do.
    count : int
        Processes, >= 1.
    cut : callable
        Gives the parcel of (lease, image ids).
    """

    def __init__(self, job: Job, count: int) -> None:
        self.cut: Callable[[int, list[int]], Parcel]
        self._job, self._count = job, count
        self._context = get_context("spawn")
        self._workers: dict[int, tuple[BaseProcess, Connection[Any, Any]]] = {}
        self._places: dict[int, int] = {}
        self._sending: dict[int, Thread] = {}
        self._watch = Watch()
        self._next = 0
        self._start(0)

    def give(self, worker: int, lease: int, image_ids: list[int]) -> None:
        """Send a parcel; a worker that is gone is reported by `events`."""
        if worker not in self._workers:
            return
        # On a thread: a worker that was stopped reads nothing, and its pipe fills.
        arguments = (self._workers[worker][1], self.cut(lease, image_ids))
        self._sending[worker] = Thread(target=_send, args=arguments, daemon=True)
        self._sending[worker].start()
        self._watch.expect(worker, beats.SILENCE)

    def events(self) -> list[Event]:
        """Messages of the workers; workers that are lost or silent are replaced."""
        pipes = {pipe: number for number, (_, pipe) in self._workers.items()}
        events: list[Event] = []
        for ready in connection.wait(list(pipes), PATIENCE):
            number = pipes[ready]  # type: ignore[index]
            try:
                event = self._workers[number][1].recv()
            except (EOFError, OSError):
                events.append(self._replace(number))
                continue
            self._heard(event)
            if not isinstance(event, Alive):
                events.append(event)
        return events + [self._replace(number, silent=True) for number in self._watch.overdue()]

    def close(self) -> None:
        """Ask, then kill."""
        for number, (_, pipe) in self._workers.items():
            if number not in self._sending or not self._sending[number].is_alive():
                _send(pipe, None)
        for number, (process, _) in list(self._workers.items()):
            process.join(PATIENCE)
            self._end(number)

    def _heard(self, event: Event | Alive) -> None:
        if isinstance(event, Ready):
            self._follow(event)
        if isinstance(event, Alive | Certified):
            self._watch.expect(event.worker, beats.SILENCE)
        else:
            self._watch.rest(event.worker)

    def _follow(self, event: Ready) -> None:
        """Start the other workers once the first has said which backend it chose."""
        if len(self._places) == self._count:
            return
        backend = recorded_backend(event.facts["sampler"])
        self._job = replace(self._job, settings=replace(self._job.settings, backend=backend))
        for place in range(1, self._count):
            self._start(place)

    def _replace(self, number: int, *, silent: bool = False) -> Lost:
        process, _ = self._workers[number]
        if not silent:
            process.join(PATIENCE)
        self._end(number)
        self._start(self._places.pop(number))
        if silent:
            return Lost(number, "worker process was there and did nothing for too long")
        return Lost(number, f"worker process ended with code {process.exitcode}")

    def _end(self, number: int) -> None:
        """Kill a worker and forget it."""
        process, pipe = self._workers.pop(number)
        self._watch.rest(number)
        process.kill()
        process.join()
        if number in self._sending:
            self._sending.pop(number).join()  # nobody reads what it sends: it fails and ends
        pipe.close()

    def _start(self, place: int) -> None:
        ours, theirs = self._context.Pipe()
        number, self._next = self._next, self._next + 1
        arguments = (theirs, number, self._job, _environment(self._job, place))
        process = self._context.Process(target=work, args=arguments, daemon=True)
        process.start()
        theirs.close()
        self._workers[number] = process, ours
        self._places[number] = place
        self._watch.expect(number, beats.STARTING)


def _send(pipe: "Connection[Any, Any]", message: Parcel | None) -> None:
    with suppress(OSError):
        pipe.send(message)


def _environment(job: Job, place: int) -> dict[str, str]:
    """Each worker sees one CUDA device, in turn."""
    if job.settings.device != "cuda":
        return {}
    import torch

    listed = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = listed.split(",") if listed else list(map(str, range(torch.cuda.device_count())))
    return {"CUDA_VISIBLE_DEVICES": names[place % len(names)]}
