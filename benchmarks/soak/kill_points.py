"""Kill a run of several workers at random points.

    python benchmarks/soak/kill_points.py --kills 200

A run of a tiny bundle with a fake sampler is started, its driver or a worker is killed with
SIGKILL, or a worker is stopped with SIGSTOP, and the run is resumed until it is finished. Then its
four files must be those of the undisturbed run, byte for byte (the clock is stopped, so times are
equal), no certificate may ever have left the disk, and nothing may stand still for long. Processes
are real; they are forked from this warm one, because a fresh interpreter takes seconds to import
PyTorch. Not so with ``--fresh-workers``, which starts workers as users do and is needed to kill
them in their first second (``--faults start``), and with ``--ray``.
"""

import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from dualsmooth.benchmarks.soak.fuzz.seeds import make_bundle
from dualsmooth.benchmarks.soak.fuzz.tell import arguments, tell
from dualsmooth.benchmarks.soak.kill_strikes import revive, strike, strike_new
from dualsmooth.engine.budget import Budget
from dualsmooth.engine.cluster import heartbeat as beats
from dualsmooth.engine.cluster import processes
from dualsmooth.engine.data.spec import load_images
from dualsmooth.engine.errors import StoppedError
from dualsmooth.engine.methods.dual import DualSmoothing
from dualsmooth.engine.models.sources.folder import read_bundle
from dualsmooth.engine.runs.certify import certify_run
from dualsmooth.engine.runs.log import LOG, SUMMARY, TABLE
from dualsmooth.engine.runs.run_checks import RUN
from dualsmooth.engine.runtime import scheduler
from dualsmooth.engine.samplers.null import FakeSampler
from dualsmooth.engine.settings import Settings

IMAGES = 24
FAULTS = {
    "start": ("kill starting worker",),
    "worker": ("kill worker",),
    "driver": ("kill driver",),
    "all": ("kill driver", "kill driver", "kill worker", "stop worker"),
}
LONGEST = 120.0
"""Seconds that a run may go without a certificate, a fault, or its end; a start may be slow."""

FILES = (LOG, TABLE, SUMMARY, RUN)
FORK = get_context("fork")
Certify = Callable[[Path], object]


def certify(
    bundle: Any, data: Any, folder: Path, workers: int = 2, fresh: bool = False, ray: bool = False
) -> None:
    """The run, resumed if it was begun; ends the process with 3 if it has to stop."""
    if not (fresh or ray):
        beats.INTERVAL, beats.SILENCE, beats.STARTING = 0.1, 2.0, 5.0
        vars(processes).update(get_context=lambda _: FORK, work=_work)
    vars(scheduler).update(perf_counter=lambda: 0.0)
    settings = Settings(Budget.fixed(10, 200), precision="fp32", device="cpu", slots=2, threads=1)
    try:
        run = (DualSmoothing(bundle), data, list(range(IMAGES)), settings, folder)
        make, cluster = partial(Timeless, pause=0.002), "local" if ray else None
        certify_run(*run, resume=True, make=make, workers=workers, ray=cluster)
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


class Timeless(FakeSampler):
    """A fake sampler whose fresh process stops the clock, too."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        vars(scheduler).update(perf_counter=lambda: 0.0)
        super().__init__(*arguments, **options)


class Silence:
    """The longest time without a new certificate, a fault, a start or an end of a driver."""

    since: float

    def __init__(self) -> None:
        self.longest = 0.0

    def broken(self) -> None:
        """Something has happened."""
        now = time.monotonic()
        self.since, self.longest = now, max(self.longest, now - self.since)

    @contextmanager
    def watch(self, folder: Path, driver: BaseProcess) -> Iterator[None]:
        """Look at a driver's log until it ends; kill a driver that stands still."""
        over = threading.Event()

        def look() -> None:
            seen = -1
            while not over.wait(0.1):
                if (now := len(lines_of(folder))) != seen:
                    seen = now
                    self.broken()
                elif time.monotonic() - self.since > LONGEST:
                    driver.kill()

        thread = threading.Thread(target=look)
        self.since = time.monotonic()
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            self.broken()
        assert self.longest < LONGEST, f"nothing happened for {LONGEST:g} s"


SILENCE = Silence()


def disturbed(
    run: Certify, folder: Path, rng: random.Random, most: int, faults: Sequence[str] = FAULTS["all"]
) -> Counter[str]:
    """Finish a run with up to ``most`` faults on the way; returns what was done to it.

    Raises
    ------
    AssertionError
        If a certificate that was on disk is not there later, or a driver fails.
    """
    done: Counter[str] = Counter()
    before: list[bytes] = []
    stopped: list[int] = []
    seen: set[int] = set()
    while True:
        driver = FORK.Process(target=run, args=(folder,))
        driver.start()
        with SILENCE.watch(folder, driver):
            while driver.is_alive() and done.total() < most:
                kind = rng.choice(faults)
                if kind == "kill starting worker":
                    struck = strike_new(driver, rng, seen, LONGEST)
                else:
                    _wait_for_a_point(driver, folder, rng)
                    struck = strike(driver, kind, rng, stopped)
                done[kind] += struck
                if struck:
                    SILENCE.broken()
                before = _grown(folder, before)
            driver.join()
        _grown(folder, before)
        assert driver.exitcode in (0, 3, -signal.SIGKILL), f"exit code {driver.exitcode}"
        if driver.exitcode == 0:
            revive(stopped)
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


def _grown(folder: Path, before: list[bytes]) -> list[bytes]:
    """Lines now; those from before must be among them, and none twice."""
    now = lines_of(folder)
    assert set(before) <= set(now), "a certificate has left the disk"
    assert len(set(now)) == len(now), "a certificate is there twice"
    return now


def main() -> None:
    """Run until enough was killed, and write what became of it."""
    parser = arguments(__doc__, kills=200, per_run=8)
    parser.add_argument("--faults", choices=FAULTS, default="all")
    parser.add_argument("--workers", type=int, nargs="+", default=[2], help="in turn")
    parser.add_argument("--fresh-workers", action="store_true", help="not forked ones")
    parser.add_argument("--ray", action="store_true", help="workers of a local Ray")
    options = parser.parse_args()
    rng, total, runs, start = random.Random(options.seed), Counter[str](), 0, time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        make_bundle(Path(place) / "bundle")
        run = partial(certify, read_bundle(Path(place) / "bundle"), load_images("digits"))
        whole = Path(place) / "whole"
        disturbed(run, whole, rng, 0)
        run = partial(run, fresh=options.fresh_workers, ray=options.ray)
        while total.total() - total["stopped by itself"] - total["stop worker"] < options.kills:
            folder = Path(place) / str(runs)
            workers = options.workers[runs % len(options.workers)]
            total += disturbed(
                partial(run, workers=workers), folder, rng, options.per_run, FAULTS[options.faults]
            )
            runs += 1
            for name in FILES:
                assert (folder / name).read_bytes() == (whole / name).read_bytes(), name
            print(f"{runs} runs, {dict(total)}", flush=True)
    result = {
        "command": " ".join(sys.argv),
        "runs": runs,
        "images_per_run": IMAGES,
        "workers": options.workers,
        "faults": dict(total),
        "lost": 0,
        "duplicated": 0,
        "longest_without_progress": round(SILENCE.longest, 1),
        "load": os.getloadavg()[2],
        "equal_to_the_undisturbed_run": runs,
    }
    tell(result, options.out, start)
    print(result)


if __name__ == "__main__":
    main()
