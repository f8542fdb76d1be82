"""Everything there is to do on a GPU, in three commands of ten minutes at most.

    python benchmarks/gpu 1            # correctness, then the ceilings of this device
    python benchmarks/gpu 2            # speeds beside other loops, and where time goes
    python benchmarks/gpu 3 --data DIR # CIFAR-10: train a dual model, then certify

Without a number it is 2. ``--minutes 9`` is the time each takes at most; no new item begins after
it. Figures go to ``device_N.json`` and ``device_N.txt`` in $OUT or benchmarks/results/ whenever an
item ends, the tracebacks of what failed to ``device_N_failures.txt``, what was printed to
``device_N.log``. Nothing is timed before its checks have passed in the same command. Items run in a
process of their own: one that fails, hangs or breaks the device costs the others nothing.

``--only TEXT`` runs items whose name holds the text, and what they need. ``--rehearse`` runs
everything on the processor at tiny sizes. Part 3 also takes ``--work DIR``, a folder to go on
with (`cifar.py`), and ``--network``. The exit code is 1 if anything failed. Without a device
it says so and exits with 0.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from dualsmooth.benchmarks.gpu.items import FAILED
from dualsmooth.benchmarks.gpu.report import Report

CHILD = ("-m", "dualsmooth.benchmarks.gpu.child")
POLL = 0.2
GRACE = 5.0
"""Seconds that an item may take beyond its limit, or the pass beyond its time, to be written."""


@dataclass(frozen=True)
class Plan:
    """One part of a pass."""

    part: int
    device: str  # cuda or cpu
    tiny: bool  # rehearsal sizes
    work: Path  # what later commands may go on with
    options: dict[str, str]
    deadline: float  # on the monotonic clock


def conduct(plan: Plan, report: Report) -> None:
    """Run a part to its end in as many processes as it takes."""
    plan.work.mkdir(parents=True, exist_ok=True)
    while time.monotonic() < plan.deadline:
        before = len(report.items)
        code = _process(plan, report)
        if code == 0:
            return
        if len(report.items) == before:
            report.tell({"item": "process", "event": FAILED, "reason": f"ended with {code}"})
            return


def _process(plan: Plan, report: Report) -> int:
    """One process, watched until it ends; returns its exit code."""
    with tempfile.TemporaryDirectory(prefix="device-pass-") as folder:
        path, events = Path(folder) / "plan.json", Path(folder) / "events.jsonl"
        events.touch()
        told = asdict(plan) | {"known": report.ended(), "events": events}
        path.write_text(json.dumps(told, default=str))
        command = [sys.executable, *CHILD, str(path)]
        with report.log.open("ab") as log, events.open(encoding="utf-8") as lines:
            streams: dict[str, Any] = {"stdout": log, "stderr": subprocess.STDOUT}
            child = subprocess.Popen(command, env=_environment(plan), process_group=0, **streams)
            why = ""
            while child.poll() is None:
                report.follow(lines)
                if why := report.overdue(plan.deadline, GRACE):
                    break
                time.sleep(POLL)
            _end(child)
            report.follow(lines)
        report.cut_off(why or f"the process ended with code {child.returncode}")
        return child.returncode or (1 if why else 0)


def _environment(plan: Plan) -> dict[str, str]:
    found = os.environ | {"PYTHONUNBUFFERED": "1"}
    if plan.device == "cpu":
        found["TRITON_INTERPRET"] = "1"
    return found


def _end(child: subprocess.Popen[bytes]) -> None:
    """End the process and everything that it started."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:  # all gone
        pass
    child.wait()


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("part", type=int, nargs="?", default=2, choices=(1, 2, 3))
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--only", default="")
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--data", default="", help="folder of CIFAR-10 files for part 3")
    parser.add_argument("--network", default="cifar_resnet110")
    parser.add_argument("--work", type=Path, default=None)
    chosen = parser.parse_args(arguments)
    deadline = time.monotonic() + 60 * chosen.minutes
    if not (chosen.rehearse or torch.cuda.is_available()):
        print("no CUDA device: nothing checked, nothing timed")
        return 0
    out = Path(os.environ.get("OUT") or Path(__file__).parents[1] / "results")
    work = chosen.work or Path("build") / "device"
    options = {"data": chosen.data, "network": chosen.network, "only": chosen.only, "out": str(out)}
    device = "cpu" if chosen.rehearse else "cuda"
    report = Report(out, f"device_{chosen.part}", chosen.minutes)
    conduct(Plan(chosen.part, device, chosen.rehearse, work, options, deadline), report)
    report.write()
    print(report.text(), end="")
    return 0 if report.items and all(e["state"] != FAILED for e in report.items.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
