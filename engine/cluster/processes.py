"""Workers that are processes of this machine, each with a warm sampler of its own."""

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from multiprocessing import connection, get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from dualsmooth.engine.cluster.events import Certified, Done, Event, Lost, Ready, Refused
from dualsmooth.engine.cluster.job import Job, Parcel, facts_of
from dualsmooth.engine.errors import DualSmoothError
from dualsmooth.engine.runtime.backends import recorded_backend

PATIENCE = 0.5
"""Seconds to wait for news, and for a worker that was asked to stop."""


def work(pipe: "Connection[Any, Any]", number: int, job: Job, environment: dict[str, str]) -> None:
    """Certify parcels until there is none or the driver is gone. Runs in a process of its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the driver, which stops us
    os.environ.update(environment)  # before torch is imported
    from dualsmooth.engine.runtime.session import Session

    try:
        with Session(job.method, job.settings, job.make) as session:
            pipe.send(Ready(number, facts_of(session)))
            while (parcel := pipe.recv()) is not None:
                for certificate in session.certify(
                    parcel.images, parcel.image_ids, parcel.labels, parcel.book
                ):
                    pipe.send(Certified(number, parcel.lease, certificate.to_json()))
                share = session.occupancy
                pipe.send(Done(number, parcel.lease, share.used, share.run))
    except DualSmoothError as error:
        pipe.send(Refused(number, str(error)))
    except (EOFError, BrokenPipeError):
        pass


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
        self._next = 0
        self._start(0)

    def give(self, worker: int, lease: int, image_ids: list[int]) -> None:
        """Send a parcel; a worker that is gone is reported by `events`."""
        with suppress(OSError, KeyError):
            self._workers[worker][1].send(self.cut(lease, image_ids))

    def events(self) -> list[Event]:
        """Messages of the workers; lost workers are replaced."""
        pipes = {pipe: number for number, (_, pipe) in self._workers.items()}
        events: list[Event] = []
        for ready in connection.wait(list(pipes), PATIENCE):
            number = pipes[ready]  # type: ignore[index]
            try:
                event = self._workers[number][1].recv()
            except (EOFError, OSError):
                event = self._replace(number)
            if isinstance(event, Ready):
                self._follow(event)
            events.append(event)
        return events

    def close(self) -> None:
        """Ask, then kill."""
        for _, pipe in self._workers.values():
            with suppress(OSError):
                pipe.send(None)
        for process, pipe in self._workers.values():
            process.join(PATIENCE)
            process.kill()
            process.join()
            pipe.close()
        self._workers = {}

    def _follow(self, event: Ready) -> None:
        """Start the other workers once the first has said which backend it chose."""
        if len(self._places) == self._count:
            return
        backend = recorded_backend(event.facts["sampler"])
        self._job = replace(self._job, settings=replace(self._job.settings, backend=backend))
        for place in range(1, self._count):
            self._start(place)

    def _replace(self, number: int) -> Lost:
        process, pipe = self._workers.pop(number)
        pipe.close()
        process.join(PATIENCE)
        process.kill()
        process.join()
        self._start(self._places.pop(number))
        return Lost(number, f"worker process ended with code {process.exitcode}")

    def _start(self, place: int) -> None:
        ours, theirs = self._context.Pipe()
        number, self._next = self._next, self._next + 1
        arguments = (theirs, number, self._job, _environment(self._job, place))
        process = self._context.Process(target=work, args=arguments, daemon=True)
        process.start()
        theirs.close()
        self._workers[number] = process, ours
        self._places[number] = place


def _environment(job: Job, place: int) -> dict[str, str]:
    """Each worker sees one CUDA device, in turn."""
    if job.settings.device != "cuda":
        return {}
    import torch

    listed = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = listed.split(",") if listed else list(map(str, range(torch.cuda.device_count())))
    return {"CUDA_VISIBLE_DEVICES": names[place % len(names)]}
