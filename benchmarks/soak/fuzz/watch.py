"""Attempts in a process that may die or hang, counted by one that does not."""

import ctypes
import json
import resource
import signal
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

SECONDS_PER_INPUT = 20
"""Seconds of the processor that one input may take; other programs do not count."""

STILL = 600
"""Seconds on the clock after which an input hangs, though it may use no processor at all."""

_MEMORY = 8 << 30
Attempt = Callable[[int], tuple[str, str]]
"""Number of an input to what became of it, and the error."""


@dataclass
class Tally:
    """What became of the inputs of one parser."""

    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)  # number and error of each
    seconds: float = 0.0  # on the clock, for all inputs
    slowest: float = 0.0  # of the processor, for the slowest input

    def line(self) -> str:
        """One line of a table."""
        found = self.outcomes
        return (
            f"{found.total():>9} inputs {found['accepted']:>8} accepted {len(self.failures):>4} "
            f"broken {self.seconds:>7.0f} s, slowest {self.slowest:.2f} s"
        ) + "".join(f"\n    {failure[:300]}" for failure in self.failures[:5])


def watched(attempt: Attempt, numbers: range) -> Tally:
    """Attempt all numbers; a process that dies or hangs is replaced and goes on after that one."""
    tally, start, first = Tally(), time.perf_counter(), numbers.start
    context = get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        while first < numbers.stop:
            report = Path(folder) / str(first)
            at = context.Value(ctypes.c_int64, first)
            arguments = (attempt, first, numbers.stop, at, report)
            process = context.Process(target=_attempts, args=arguments)
            process.start()
            hung = _wait(process, at)
            _add(tally, report)
            first = at.value
            if hung or process.exitcode != 0:
                kind = "hung" if hung else "died"
                tally.outcomes[kind] += 1
                tally.failures.append(f"{first}: {kind}, exit code {process.exitcode}")
                first += 1
    tally.seconds = round(time.perf_counter() - start, 1)
    return tally


def _wait(process: BaseProcess, at: Any) -> bool:
    """Wait for a process to end; kill it and return True if it stays at one number for too long."""
    last, since = at.value, time.monotonic()
    while True:
        process.join(0.2)
        if not process.is_alive():
            return False
        if at.value != last:
            last, since = at.value, time.monotonic()
        elif time.monotonic() - since > STILL:
            process.kill()
            process.join()
            return True


def _add(tally: Tally, report: Path) -> None:
    for line in report.read_text().splitlines() if report.exists() else []:
        entry = json.loads(line)
        tally.outcomes.update(entry["outcomes"])
        tally.failures += entry["failures"]
        tally.slowest = max(tally.slowest, entry["slowest"])


def _attempts(attempt: Attempt, first: int, stop: int, at: Any, report: Path) -> None:
    """Attempt numbers from ``first``; ``at`` tells how far, the report what became of them."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    signal.signal(signal.SIGPROF, _too_slow)
    warnings.simplefilter("ignore")  # Pillow's, about damaged files
    with report.open("a", buffering=1) as file:
        for number in range(first, stop):
            start = time.process_time()
            signal.setitimer(signal.ITIMER_PROF, SECONDS_PER_INPUT)
            try:
                kind, error = attempt(number)
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
            slowest = round(time.process_time() - start, 3)
            failures = [f"{number}: {kind}, {error}"] if error else []
            entry = {"outcomes": {kind: 1}, "failures": failures, "slowest": slowest}
            file.write(json.dumps(entry) + "\n")
            at.value = number + 1


def _too_slow(*_: object) -> None:
    raise TimeoutError(f"more than {SECONDS_PER_INPUT} s on one input")
