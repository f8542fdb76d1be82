"""Kills and stops for `dualsmooth.benchmarks.soak.kill_points`: whom, when and how."""

import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path


def children(pid: int | None) -> Iterator[int]:
    """Process ids below a process."""
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                yield child
                yield from children(child)


def workers_of(driver: BaseProcess) -> list[int]:
    """Process ids of a driver's workers: forked ones, fresh ones, or Ray's."""
    found = []
    for pid in children(driver.pid):
        with suppress(OSError):
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            actors = (b"ray::IDLE", b"ray::Actor")  # not its agents
            if b"spawn_main" in command or b"kill_p" in command or command.startswith(actors):
                found.append(pid)
    return found


def strike_new(driver: BaseProcess, rng: random.Random, seen: set[int], patience: float) -> bool:
    """Kill a worker that has just appeared, at once or within its first second."""
    until = time.monotonic() + patience
    while driver.is_alive():
        new = [pid for pid in workers_of(driver) if pid not in seen]
        if new:
            seen.add(new[0])
            time.sleep(rng.choice((0.0, 0.0, rng.random())))
            with suppress(ProcessLookupError):
                os.kill(new[0], signal.SIGKILL)
                return True
        if len(seen) and time.monotonic() > until:
            return False
    return False


def revive(stopped: list[int]) -> None:
    """Let workers that were stopped go on, their drivers long gone: they must end by themselves."""
    for pid in stopped:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    until = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in stopped):
        assert time.monotonic() < until, "a revived worker does not end"
        time.sleep(0.01)


def strike(driver: BaseProcess, kind: str, rng: random.Random, stopped: list[int]) -> bool:
    """Do what ``kind`` says; False if there was nobody left to do it to."""
    if kind == "kill driver":
        driver.kill()
        driver.join()
        return driver.exitcode == -signal.SIGKILL
    workers = workers_of(driver)
    if not workers:
        return False
    number = signal.SIGKILL if kind == "kill worker" else signal.SIGSTOP
    victim = rng.choice(workers)
    try:
        os.kill(victim, number)
    except ProcessLookupError:
        return False
    if number == signal.SIGSTOP:
        stopped.append(victim)
    return True
