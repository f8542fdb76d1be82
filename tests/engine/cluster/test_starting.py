"""Workers that die while they start, or cannot: the driver never waits for good."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing import Pipe
from pathlib import Path
from threading import Thread

import pytest

from dualsmooth.engine.budget import Budget
from dualsmooth.engine.cluster.conductor import Conductor, Lost, Refused
from dualsmooth.engine.cluster.job import Job
from dualsmooth.engine.cluster.processes import Processes, undisturbed, work
from dualsmooth.engine.errors import SamplerError
from dualsmooth.engine.methods.dual import DualSmoothing
from dualsmooth.engine.models.sources.load import load_bundle
from dualsmooth.engine.samplers.null import FakeSampler
from dualsmooth.engine.samplers.sampler import MakeSampler
from dualsmooth.engine.settings import Settings
from tests.engine.conftest import at_most


@pytest.fixture(autouse=True)
def limit() -> Iterator[None]:
    """A driver that hangs is a failure, not a suite that never ends."""
    with at_most(60):
        yield


def job(make: MakeSampler = FakeSampler) -> Job:
    """A job that is larger than a pipe, as every one with networks is."""
    bundle = load_bundle("digits-dual")
    assert sum(len(n.weights) for n in bundle.networks.values() if isinstance(n.weights, bytes)) > (
        1 << 16
    )
    settings = Settings(Budget.fixed(10, 100), device="cpu", threads=1)
    return Job.of(DualSmoothing(bundle), settings, 1, make)


def workers() -> list[int]:
    """Process ids of the worker processes of this one."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):
            for pid in map(int, (task / "children").read_text().split()):
                if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(pid)
    return found


@contextmanager
def killer(count: int) -> Iterator[set[int]]:
    """Kill the first ``count`` workers as soon as they appear."""
    killed: set[int] = set()
    over = threading.Event()

    def kill() -> None:
        while len(killed) < count and not over.is_set():
            for pid in set(workers()) - killed:
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)

    thread = Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux")
@pytest.mark.parametrize("kills", [1, 3])
def test_workers_killed_as_they_appear_are_replaced(kills: int) -> None:
    with killer(kills) as killed:
        pool = Processes(job(), 2)
        lost = 0
        while lost < kills:
            lost += sum(isinstance(event, Lost) for event in pool.events())
        pool.close()
    assert len(killed) == kills


class Broken(FakeSampler):
    def __init__(self, *arguments: object, **options: object) -> None:
        raise RuntimeError("no such device\n\x1b[31mtoday")


def exits(*arguments: object, **options: object) -> FakeSampler:
    raise SystemExit(7)


def dies(*arguments: object, **options: object) -> FakeSampler:
    os._exit(5)


@pytest.mark.parametrize(
    ("make", "line"),
    [(Broken, "RuntimeError: no such device \x1b[31mtoday"), (exits, "SystemExit: 7")],
)
def test_a_worker_says_why_it_cannot_start(make: MakeSampler, line: str) -> None:
    ours, theirs = Pipe()
    Thread(target=ours.send, args=(job(make),)).start()
    before = signal.getsignal(signal.SIGINT)
    work(theirs, 4, {})
    signal.signal(signal.SIGINT, before)
    assert ours.recv() == Refused(4, line)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "line"),
    [
        (Broken, r"worker 0: RuntimeError: no such device \\x1b"),
        (dies, "worker 0: worker process ended with code 5 before it was ready"),
    ],
)
def test_a_worker_that_cannot_start_ends_the_run_at_once(make: MakeSampler, line: str) -> None:
    pool = Processes(job(make), 2)
    with pytest.raises(SamplerError, match=line):
        Conductor(pool).facts()
    pool.close()


def test_a_job_that_no_process_can_be_sent_is_an_error_at_once() -> None:
    with pytest.raises((AttributeError, TypeError), match=r"[Pp]ickle|local"):
        Processes(job(lambda *_, **__: FakeSampler(*_, **__)), 1)


def test_a_stopped_worker_does_not_stop_the_driver() -> None:
    pool = Processes(job(partial(FakeSampler, pause=0.01)), 1)
    time.sleep(0.1)
    for pid in workers():
        os.kill(pid, signal.SIGSTOP)
    start = time.monotonic()
    assert pool.events() == []
    pool.close()
    assert time.monotonic() - start < 4.0


def test_an_interrupt_waits_for_the_end_of_a_start() -> None:
    done = False
    with pytest.raises(KeyboardInterrupt), undisturbed():  # noqa: PT012
        signal.raise_signal(signal.SIGINT)
        done = True
    assert done
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
