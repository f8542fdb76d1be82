"""Workers that are Ray actors, on this machine or on a cluster (extra ``cluster``)."""

import ipaddress
import os
import secrets
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from dualsmooth.engine.backends import recorded_backend
from dualsmooth.engine.cluster import heartbeat
from dualsmooth.engine.cluster.conductor import Certified, Done, Event, Lost, Ready, Refused
from dualsmooth.engine.cluster.heartbeat import ActorDeadlines
from dualsmooth.engine.cluster.job import Cut, Job, LeaseImages, facts_of
from dualsmooth.engine.errors import ArgumentError, DualSmoothError, StoppedError, reason_of
from dualsmooth.engine.machine import install_command, installed_version
from dualsmooth.engine.printable import printable

LOCAL = "local"
LOOPBACK = "127.0.0.2" if sys.platform == "linux" else "127.0.0.1"
"""Where a local Ray says it is; for 127.0.0.1 it would put the address of the machine."""

PATIENCE = 0.5
KNOCK = 10.0
"""Seconds for one connection to a cluster."""

ANSWER = 60.0
"""Seconds to fetch an answer that is there."""

OLDEST = (2, 52)
"""First Ray that asks for a token."""

SILENT = "the actor was there and did nothing for too long"


class Actor:
    """One worker: a warm session. Runs inside Ray, on two threads: one certifies, one answers."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def facts(self) -> dict[str, Any]:
        """Load the networks; what its votes depend on."""
        from dualsmooth.engine.runtime.session import Session

        self._session = Session.open(self._job.method, self._job.settings, self._job.make)
        return facts_of(self._session)

    def progress(self) -> int:
        """A number that changes when a batch has been run."""
        return self._session.occupancy.run

    def certify(self, lease: LeaseImages) -> tuple[list[str], int, int]:
        """Lines of a lease's certificates, rows that carried a sample, rows run."""
        work = (lease.images, lease.image_ids, lease.labels, lease.book)
        lines = [certificate.to_json() for certificate in self._session.certify(*work)]
        return lines, self._session.occupancy.used, self._session.occupancy.run


class RayPool:
    """A pool of Ray actors. On CUDA devices the first chooses backends; the others follow.

    The address ``local`` starts Ray on this machine, behind a token; else it is ``HOST:PORT`` or
    ``auto``.
    """

    def __init__(self, job: Job, count: int, address: str) -> None:
        self.cut: Cut
        self._ray = _connect(address)
        self._given, self._job = job, self._ray.put(job)
        gpus = 1 if job.settings.device == "cuda" else 0
        cpus = 0 if gpus else job.settings.threads or 1
        self._make = self._ray.remote(Actor).options(
            num_cpus=cpus, num_gpus=gpus, max_concurrency=2
        )
        self._tell_of_small_nodes({"CPU": cpus, "GPU": gpus})
        self._actors: dict[int, Any] = {}
        self._pending: dict[Any, tuple[int, int | None]] = {}
        self._deadlines = ActorDeadlines(self._ray)
        self._next, self._missing = 0, count
        self._start_missing(1 if gpus else count)

    def give(self, worker: int, lease: int, image_ids: list[int]) -> None:
        """Send a lease."""
        answer = self._actors[worker].certify.remote(self.cut(lease, image_ids))
        self._pending[answer] = worker, lease
        self._deadlines.start(worker, self._actors[worker])

    def events(self) -> list[Event]:
        """Answers of the actors; actors that are lost or silent are replaced."""
        waiting = list(self._pending)
        ready, _ = self._ray.wait(waiting, num_returns=len(waiting), timeout=0)
        if not ready:
            ready, _ = self._ray.wait(waiting, num_returns=1, timeout=PATIENCE)
        if not (ready or any(node["Alive"] for node in self._ray.nodes())):
            raise StoppedError("Ray has lost all its nodes")
        events = [event for answer in ready for event in self._answer(answer)]
        return events + [self._replace(worker, SILENT) for worker in self._deadlines.overdue()]

    def close(self) -> None:
        """Stop the actors and leave Ray."""
        for actor in self._actors.values():
            self._ray.kill(actor)
        self._actors, self._pending = {}, {}
        self._ray.shutdown()

    def _answer(self, answer: Any) -> list[Event]:
        worker, lease = self._pending.pop(answer)
        try:
            value = self._ray.get(answer, timeout=ANSWER)
        except self._ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None)
            if isinstance(cause, DualSmoothError):
                return [Refused(worker, str(cause))]
            if lease is None and isinstance(error, self._ray.exceptions.RayTaskError):
                return [Refused(worker, f"{type(cause).__name__}: {cause}")]
            return [self._replace(worker, reason_of(error))]
        self._deadlines.rest(worker)
        if lease is None:
            self._follow(value)
            return [Ready(worker, value)]
        lines, used, run = value
        done = Done(worker, lease, used, run)
        return [*(Certified(worker, lease, line) for line in lines), done]

    def _replace(self, worker: int, reason: str) -> Lost:
        """Kill an actor and start another; what the old one may still answer is not waited for."""
        self._deadlines.rest(worker)
        self._pending = {a: of for a, of in self._pending.items() if of[0] != worker}
        self._ray.kill(self._actors.pop(worker))
        self._start()
        return Lost(worker, reason)

    def _tell_of_small_nodes(self, needs: dict[str, int]) -> None:
        """Ray waits until a node is there that is large enough; say so, for it may never be."""
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        most = {kind: max((node.get(kind, 0) for node in nodes), default=0) for kind in needs}
        small = [kind for kind in needs if most[kind] < needs[kind]]
        for kind in small:
            hint = " (fewer: --threads)" if kind == "CPU" else ""
            print(
                f"dualsmooth: waiting for a node of Ray with {needs[kind]} {kind} for a worker; "
                f"the largest has {most[kind]:g}{hint}",
                file=sys.stderr,
            )

    def _follow(self, facts: dict[str, Any]) -> None:
        """Start the other actors once the first has said which backend it chose."""
        if self._missing:
            backend = recorded_backend(facts["sampler"])
            settings = replace(self._given.settings, backend=backend)
            self._job = self._ray.put(replace(self._given, settings=settings))
            self._start_missing(self._missing)

    def _start_missing(self, count: int) -> None:
        self._missing -= count
        for _ in range(count):
            self._start()

    def _start(self) -> None:
        number, self._next = self._next, self._next + 1
        self._actors[number] = self._make.remote(self._job)
        self._pending[self._actors[number].facts.remote()] = number, None
        self._deadlines.expect(number, heartbeat.STARTING)


def _connect(address: str) -> Any:
    if address == LOCAL:
        _require_token()
    try:
        import ray
    except ImportError:
        hint = install_command("cluster")
        raise ArgumentError("ray", "needs Ray, which is not installed", address, hint) from None
    if address == LOCAL:
        with _sigterm_kept():  # Ray takes it
            quiet: dict[str, Any] = {"log_to_driver": False, "include_dashboard": False}
            try:
                ray.init(address=LOCAL, _node_ip_address=LOOPBACK, **quiet)
            except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
                reason = reason_of(error)
                raise StoppedError(f"Ray cannot be started on this machine: {reason}") from error
        return ray
    warn_if_reachable(address)
    try:
        _knock(address)
        ray.init(address=address, log_to_driver=False)
    except (OSError, ValueError, RuntimeError) as error:
        hint = "start one with ray start --head"
        received = f"{address}: {error}"
        raise ArgumentError("ray", "must be the address of a cluster", received, hint) from error
    return ray


def _require_token() -> None:
    """Let nobody in who does not know a secret of this run: Ray listens on every interface."""
    version = installed_version("ray")
    if version and tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
        rule = f"must be Ray {OLDEST[0]}.{OLDEST[1]} or newer, which can ask for a token"
        hint = install_command("cluster")
        raise ArgumentError("ray", rule, version, hint)
    if "ray" not in sys.modules:  # it reads these when it is imported
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
    elif os.environ.get("RAY_AUTH_MODE") != "token":
        rule = "local must have a token: set RAY_AUTH_MODE=token before Ray is imported"
        raise ArgumentError("ray", rule, f"RAY_AUTH_MODE={os.environ.get('RAY_AUTH_MODE')}")


@contextmanager
def _sigterm_kept() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    with suppress(ValueError, TypeError):  # not the main thread, or not a handler of Python's
        signal.signal(signal.SIGTERM, before)


def _knock(address: str) -> None:
    """Ray tries for minutes where nothing answers; one attempt to connect tells at once."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdigit():
        socket.create_connection((host, int(port)), KNOCK).close()


def warn_if_reachable(address: str) -> None:
    """Say on stderr that Ray runs code for everybody who reaches it, unless it is loopback."""
    host = address.removeprefix("ray://").rpartition(":")[0]
    try:
        safe = ipaddress.ip_address(host).is_loopback
    except ValueError:
        safe = host in ("localhost", "")
    if not safe:
        print(
            f"dualsmooth: Ray at {printable(address)} has no authentication unless it was started "
            "with RAY_AUTH_MODE=token: everybody who reaches that port can run code there. Keep it "
            "inside a private network.",
            file=sys.stderr,
        )
