"""Processes of a device pass: what is timed in one after the other, all else side by side."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dualsmooth.benchmarks.gpu.items import FAILED, Item
from dualsmooth.benchmarks.gpu.report import Report

CHILD = ("-m", "dualsmooth.benchmarks.gpu.child")
POLL = 0.2
GRACE = 5.0
"""Seconds that an item may take beyond its limit, or the pass beyond its time, to be written."""

COMPILERS = "4"
"""Processes that a compiler of a peer may start for itself, beside others."""


@dataclass(frozen=True)
class Plan:
    """One part of a pass."""

    part: int
    device: str  # cuda or cpu
    tiny: bool  # rehearsal sizes
    work: Path  # what later commands may go on with
    options: dict[str, str]
    deadline: float  # on the monotonic clock


class Process:
    """A process that runs one item, or all that are not known yet, and tells the report."""

    def __init__(self, plan: Plan, report: Report, alone: str = "") -> None:
        self._plan, self._report, self._alone = plan, report, alone
        self._folder = tempfile.TemporaryDirectory(prefix="device-pass-")
        path, events = (Path(self._folder.name) / name for name in ("plan.json", "events.jsonl"))
        events.touch()
        told = asdict(plan) | {"known": report.ended(), "events": events, "alone": alone}
        path.write_text(json.dumps(told, default=str))
        self._lines, self._rest = events.open(encoding="utf-8"), ""
        self._met = {alone} if alone else set[str]()
        found = os.environ | {"PYTHONUNBUFFERED": "1"}
        if plan.device == "cpu":
            found["TRITON_INTERPRET"] = "1"
        if alone:
            found |= {"OMP_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": COMPILERS}
        with report.log.open("ab") as log:
            self._child = subprocess.Popen(
                [sys.executable, *CHILD, str(path)],
                env=found,
                process_group=0,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def ended(self) -> bool:
        """Read what it has told; end it, and everything it started, when it is overdue."""
        over = self._child.poll() is not None
        self._follow()
        why = self._report.overdue(self._met, self._plan.deadline, GRACE)
        if not (over or why):
            return False
        try:
            os.killpg(self._child.pid, signal.SIGKILL)
        except ProcessLookupError:  # all gone
            pass
        self.code = self._child.wait() or (1 if why else 0)
        self._follow()
        self._report.cut_off(self._met, why or f"the process ended with code {self.code}")
        if self._alone and self._alone not in self._report.items:
            self._fail(self._alone)
        self._lines.close()
        self._folder.cleanup()
        return True

    def _fail(self, name: str) -> None:
        self._report.tell({"item": name, "event": FAILED, "reason": f"ended with {self.code}"})

    def _follow(self) -> None:
        self._rest += self._lines.read()
        *whole, self._rest = self._rest.split("\n")
        for line in whole:
            event: dict[str, Any] = json.loads(line)
            self._met.add(event["item"])
            self._report.tell(event)


def side_by_side(cores: int) -> int:
    """Processes of what is not timed: three of four cores."""
    return max(1, cores * 3 // 4)


def latest(items: Sequence[Item], cores: int, took: Mapping[str, float]) -> list[tuple[str, float]]:
    """When each item begins, in seconds, if all before it take what they ``took``, or else the
    whole of their limits.
    """
    free, found = [0.0] * side_by_side(cores), list[tuple[str, float]]()
    for item in [item for item in items if item.beside]:
        begins = min(free)
        free[free.index(begins)] = begins + took.get(item.name, item.limit)
        found.append((item.name, begins))
    clock = max(free)
    for item in [item for item in items if not item.beside and not item.unless]:
        found.append((item.name, clock))
        clock += took.get(item.name, item.limit)
    return [*found, ("the end", clock)]


def conduct(plan: Plan, report: Report, beside: Sequence[str] = ()) -> None:
    """Run a part to its end, in as many processes as it takes; first the items named beside.

    Those run side by side, in the order given.
    """
    plan.work.mkdir(parents=True, exist_ok=True)
    waiting, running = list(beside), list[Process]()
    while running or (waiting and time.monotonic() < plan.deadline):
        while waiting and len(running) < side_by_side(os.cpu_count() or 1):
            running.append(Process(plan, report, waiting.pop(0)))
        time.sleep(POLL)
        running = [process for process in running if not process.ended()]
    while time.monotonic() < plan.deadline:
        before, process = len(report.items), Process(plan, report)
        while not process.ended():
            time.sleep(POLL)
        if process.code == 0:
            return
        if len(report.items) == before:
            report.tell(
                {"item": "process", "event": FAILED, "reason": f"ended with {process.code}"}
            )
            return
