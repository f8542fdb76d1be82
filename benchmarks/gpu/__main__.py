"""Everything there is to do on a GPU: three commands for a quarter of an hour, two for more.

    python benchmarks/gpu 1            # the whole verdict on correctness, the newest kernels first
    python benchmarks/gpu 2            # the table of goals: speeds beside other loops
    python benchmarks/gpu 3            # contests of variants, and the ceilings of this device
    python benchmarks/gpu 4            # where time goes, batch sizes, a compiler that measures
    python benchmarks/gpu 5 --data DIR # CIFAR-10: train a dual model, then certify

Without a number it is 2. ``--minutes M`` is the time it takes at most (4, 5.5, 4, 8, 5); no new
item begins after it, and 1 to 3 end in it even if every item takes the whole of its limit. Checks,
and what fills the caches of compilers, run side by side before anything is timed. Figures go to
``device_N.json`` and ``device_N.txt`` in $OUT or benchmarks/results/ whenever an item ends, the
tracebacks of what failed to ``device_N_failures.txt``, what was printed to ``device_N.log``.

Items run in a process of their own: one that fails, hangs or breaks the device costs the others
nothing. Nothing is timed before its checks have passed, in this command or in an earlier one of
the same sources, device and PyTorch, whose ``device_N.json`` lies in the work folder. What is done
there is not run again, so that a command that was cut off goes on, unless ``--fresh`` is given.

``--only TEXT`` runs items whose name holds the text, and what they need. ``--rehearse`` runs
everything on the processor at tiny sizes, in four times the time. ``--plan`` runs nothing: it says
when each item begins on 16 cores, by what ``device_N.json`` says that items took, else at the
latest. ``--work DIR`` is the work folder (build/device); part 5 also takes ``--network``.
The exit code is 1 if anything failed. Without a device it says so and exits with 0.
"""

import argparse
import os
import sys
import time
from pathlib import Path

import torch

from dualsmooth.benchmarks.gpu.child import PARTS, PATIENCE, items_of
from dualsmooth.benchmarks.gpu.items import FAILED, Place
from dualsmooth.benchmarks.gpu.processes import Plan, conduct, latest
from dualsmooth.benchmarks.gpu.report import Report, done_before, seconds_of, stamp_of

MINUTES = {1: 4.0, 2: 5.5, 3: 4.0, 4: 8.0, 5: 5.0}
"""Time of each part: the first three fit into fifteen minutes on a borrowed card."""

CORES = 16
"""Of a borrowed card's machine."""


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("part", type=int, nargs="?", default=2, choices=PARTS)
    parser.add_argument("--minutes", type=float, default=None)
    parser.add_argument("--only", default="")
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--plan", action="store_true")
    parser.add_argument("--fresh", action="store_true")
    parser.add_argument("--data", default="", help="folder of CIFAR-10 files for part 5")
    parser.add_argument("--network", default="cifar_resnet110")
    parser.add_argument("--work", type=Path, default=None)
    chosen = parser.parse_args(arguments)
    minutes = chosen.minutes or MINUTES[chosen.part] * (PATIENCE if chosen.rehearse else 1)
    deadline = time.monotonic() + 60 * minutes
    out = Path(os.environ.get("OUT") or Path(__file__).parents[1] / "results")
    if chosen.plan:
        place = Place(torch.device("cuda"), False, Path(), {"only": chosen.only})
        for name, begins in latest(
            items_of(chosen.part, place), CORES, seconds_of(out, chosen.part)
        ):
            print(f"{begins:6.0f} s  {name}{'' if begins < 60 * minutes else '  (may not begin)'}")
        return 0
    if not (chosen.rehearse or torch.cuda.is_available()):
        print("no CUDA device: nothing checked, nothing timed")
        return 0
    work, device = chosen.work or Path("build") / "device", "cpu" if chosen.rehearse else "cuda"
    stamp = stamp_of(device, chosen.rehearse)
    earlier = {} if chosen.fresh else done_before(work, stamp)
    options = {"data": chosen.data, "network": chosen.network, "only": chosen.only, "out": str(out)}
    report = Report(out, f"device_{chosen.part}", minutes, stamp, earlier, work)
    plan = Plan(chosen.part, device, chosen.rehearse, work, options, deadline)
    place = Place(torch.device(device), chosen.rehearse, work, options)
    items = items_of(chosen.part, place)
    report.items |= {item.name: earlier[item.name] for item in items if item.name in earlier}
    beside = [item.name for item in items if item.beside and item.name not in earlier]
    conduct(plan, report, beside)
    report.write()
    print(report.text(), end="")
    return 0 if report.items and all(e["state"] != FAILED for e in report.items.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
