"""Kill a run of two workers at random points.

    python benchmarks/soak/kill_points.py --kills 200

A run of a tiny bundle with a fake sampler is started, its driver or a worker is killed with
SIGKILL, or a worker is stopped with SIGSTOP, and the run is resumed until it is finished. Then its
four files must be those of the undisturbed run, byte for byte (the clock is stopped, so times are
equal), and no certificate may ever have left the disk. Processes are real; they are forked from
this warm one, because a fresh interpreter takes seconds to import PyTorch.
"""

import argparse
import os
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from dualsmooth.benchmarks.soak.fuzz.seeds import make_bundle
from dualsmooth.engine.budget import Budget
from dualsmooth.engine.cluster import heartbeat as beats
from dualsmooth.engine.cluster import processes
from dualsmooth.engine.data.spec import load_images
from dualsmooth.engine.errors import StoppedError
from dualsmooth.engine.files import write_json
from dualsmooth.engine.machine import machine
from dualsmooth.engine.methods.dual import DualSmoothing
from dualsmooth.engine.models.sources.folder import read_bundle
from dualsmooth.engine.runs.certify import certify_run
from dualsmooth.engine.runs.log import LOG, SUMMARY, TABLE
from dualsmooth.engine.runs.run_checks import RUN
from dualsmooth.engine.runtime import scheduler
from dualsmooth.engine.samplers.null import FakeSampler
from dualsmooth.engine.settings import Settings

IMAGES, WORKERS = 24, 2
FAULTS = ("kill driver", "kill driver", "kill worker", "stop worker")
FILES = (LOG, TABLE, SUMMARY, RUN)
FORK = get_context("fork")
Certify = Callable[[Path], object]


def certify(bundle: Any, data: Any, folder: Path) -> None:
    """The run, resumed if it was begun; ends the process with 3 if it has to stop."""
    beats.INTERVAL, beats.SILENCE, beats.STARTING = 0.1, 2.0, 5.0
    for module, name, value in (
        (scheduler, "perf_counter", lambda: 0.0), (processes, "get_context", lambda _: FORK),
        (processes, "work", _work),
    ):  # fmt: skip
        setattr(module, name, value)
    settings = Settings(Budget.fixed(10, 200), precision="fp32", device="cpu", slots=2, threads=1)
    try:
        certify_run(
            DualSmoothing(bundle), data, list(range(IMAGES)), settings, folder, resume=True,
            make=partial(FakeSampler, pause=0.002), workers=WORKERS,
        )  # fmt: skip
    except StoppedError:
        raise SystemExit(3) from None


_honest_work = processes.work


def _work(pipe: Any, *rest: Any) -> None:
    """A worker with the files of a fresh process: no lock, no log, no pipe of another worker."""
    for name in set(os.listdir("/proc/self/fd")) - {"0", "1", "2", str(pipe.fileno())}:
        with suppress(OSError):  # the listing's own is closed already
            if not os.readlink(f"/proc/self/fd/{name}").startswith("pipe:"):  # multiprocessing's
                os.close(int(name))
    _honest_work(pipe, *rest)


def lines_of(folder: Path) -> list[bytes]:
    """Whole lines of the log."""
    path = folder / LOG
    return path.read_bytes().split(b"\n")[:-1] if path.exists() else []


def workers_of(driver: BaseProcess) -> list[int]:
    """Process ids of a driver's workers."""
    path = Path(f"/proc/{driver.pid}/task/{driver.pid}/children")
    try:
        return [int(pid) for pid in path.read_text().split()]
    except OSError:
        return []


def disturbed(run: Certify, folder: Path, rng: random.Random, most: int) -> Counter[str]:
    """Finish a run with up to ``most`` faults on the way; returns what was done to it.

    Raises
    ------
    AssertionError
        If a certificate that was on disk is not there later, or a driver fails.
    """
    done: Counter[str] = Counter()
    before: list[bytes] = []
    stopped: list[int] = []
    while True:
        driver = FORK.Process(target=run, args=(folder,))
        driver.start()
        while driver.is_alive() and done.total() < most:
            kind = rng.choice(FAULTS)
            _wait_for_a_point(driver, folder, rng)
            if _strike(driver, kind, rng, stopped):
                done[kind] += 1
            before = _grown(folder, before)
        driver.join()
        _grown(folder, before)
        assert driver.exitcode in (0, 3, -signal.SIGKILL), f"exit code {driver.exitcode}"
        if driver.exitcode == 0:
            _revive(stopped)
            return done
        done["stopped by itself"] += driver.exitcode == 3


def _wait_for_a_point(driver: BaseProcess, folder: Path, rng: random.Random) -> None:
    """Wait for some time, or for some certificates and a few milliseconds."""
    if rng.random() < 0.5:
        driver.join(rng.random() * 0.3)
        return
    wanted = len(lines_of(folder)) + rng.randrange(1, 8)
    while driver.is_alive() and len(lines_of(folder)) < wanted:
        time.sleep(0.001)
    time.sleep(rng.random() * 0.01)


def _revive(stopped: list[int]) -> None:
    """Let workers that were stopped go on, their drivers long gone: they must end by themselves."""
    for pid in stopped:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    until = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in stopped):
        assert time.monotonic() < until, "a revived worker does not end"
        time.sleep(0.01)


def _strike(driver: BaseProcess, kind: str, rng: random.Random, stopped: list[int]) -> bool:
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


def _grown(folder: Path, before: list[bytes]) -> list[bytes]:
    """Lines now; those from before must be among them, and none twice."""
    now = lines_of(folder)
    assert set(before) <= set(now), "a certificate has left the disk"
    assert len(set(now)) == len(now), "a certificate is there twice"
    return now


def main() -> None:
    """Run until enough was killed, and write what became of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--kills", type=int, default=200, help="SIGKILLs; stops come on top")
    parser.add_argument("--per-run", type=int, default=8, help="faults per run, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args()
    rng, total, runs, start = random.Random(options.seed), Counter[str](), 0, time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        make_bundle(Path(place) / "bundle")
        run = partial(certify, read_bundle(Path(place) / "bundle"), load_images("digits"))
        whole = Path(place) / "whole"
        disturbed(run, whole, rng, 0)
        while total["kill driver"] + total["kill worker"] < options.kills:
            folder = Path(place) / str(runs)
            total += disturbed(run, folder, rng, options.per_run)
            runs += 1
            for name in FILES:
                assert (folder / name).read_bytes() == (whole / name).read_bytes(), name
            print(f"{runs} runs, {dict(total)}", flush=True)
    result = {
        "runs": runs, "images_per_run": IMAGES, "faults": dict(total), "lost": 0, "duplicated": 0,
        "equal_to_the_undisturbed_run": runs, "seconds": round(time.perf_counter() - start),
        "machine": machine(),
    }  # fmt: skip
    if options.out is not None:
        write_json(options.out, result)
    print(result)


if __name__ == "__main__":
    main()
