"""Worker processes: the bytes of one process, also with workers killed, stopped and poisoned."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from dualsmooth.engine.budget import Budget
from dualsmooth.engine.certificate import Certificate
from dualsmooth.engine.cluster import heartbeat as beats
from dualsmooth.engine.data.image_set import ImageSet
from dualsmooth.engine.errors import ArgumentError, SamplerError, StoppedError
from dualsmooth.engine.methods.dual import DualSmoothing
from dualsmooth.engine.models.bundle import Bundle
from dualsmooth.engine.runs.certify import certify_run
from dualsmooth.engine.runs.log import RunLog
from dualsmooth.engine.samplers.null import FakeSampler
from dualsmooth.engine.samplers.sampler import MakeSampler, Segment
from dualsmooth.engine.settings import Settings
from tests.engine.conftest import timeless

IMAGES = 32
slow_sampler = partial(FakeSampler, pause=0.01)


def certify(
    folder: Path, bundle: Bundle, data: ImageSet, make: MakeSampler | None, workers: int,
    reuse: Sequence[Path] = (), batch_size: int | None = None,
) -> list[str]:  # fmt: skip
    """Lines of the run's log, times aside."""
    settings = Settings(
        Budget.fixed(10, 200), precision="fp32", device="cpu", slots=2, batch_size=batch_size
    )
    ids = list(range(IMAGES))
    certify_run(
        DualSmoothing(bundle), data, ids, settings, folder, resume=True, make=make,
        workers=workers, reuse=reuse,
    )  # fmt: skip
    return timeless(folder)


@pytest.fixture(scope="module")
def alone(bundle: Bundle, data: ImageSet, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return certify(tmp_path_factory.mktemp("alone") / "run", bundle, data, FakeSampler, 1)


def signal_workers(
    monkeypatch: pytest.MonkeyPatch, number: signal.Signals, times: int
) -> list[int]:
    """Send a signal to some worker whenever certificates reach the disk; returns their ids."""
    append, hit = RunLog.append, []  # type: ignore[var-annotated]

    def appended(log: RunLog, *certificates: Certificate) -> None:
        append(log, *certificates)
        alive = [child.pid for child in active_children() if child.pid not in hit]
        if len(hit) < times and alive and alive[0] is not None:
            os.kill(alive[0], number)
            hit.append(alive[0])

    monkeypatch.setattr(RunLog, "append", appended)
    return hit


@pytest.mark.slow
def test_workers_give_the_bytes_of_one_process(
    bundle: Bundle, data: ImageSet, tmp_path: Path
) -> None:
    """With real networks, and with votes reused for some images."""
    alone = certify(tmp_path / "alone", bundle, data, None, 1)
    assert certify(tmp_path / "two", bundle, data, None, 2) == alone
    assert certify(tmp_path / "three", bundle, data, None, 3, [tmp_path / "two"]) == alone
    for name in ("run.json", "summary.json"):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()


@pytest.mark.parametrize(
    ("number", "times"),
    [
        (signal.SIGKILL, 1),
        pytest.param(signal.SIGKILL, 6, marks=pytest.mark.slow),
        pytest.param(signal.SIGSTOP, 1, marks=pytest.mark.slow),
    ],
)
def test_killed_and_cut_off_workers_change_nothing(
    bundle: Bundle, data: ImageSet, tmp_path: Path, alone: list[str],
    monkeypatch: pytest.MonkeyPatch, number: signal.Signals, times: int,
) -> None:  # fmt: skip
    hit = signal_workers(monkeypatch, number, times)
    assert certify(tmp_path / "run", bundle, data, slow_sampler, 2) == alone
    assert min(times, 2) <= len(hit) <= times
    assert active_children() == []


@pytest.mark.slow
def test_workers_that_are_all_stopped_are_replaced(
    bundle: Bundle, data: ImageSet, tmp_path: Path, alone: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Both workers are there and do nothing: nobody is left to take over their leases."""
    monkeypatch.setattr(beats, "SILENCE", 3.0)
    hit = signal_workers(monkeypatch, signal.SIGSTOP, 2)
    assert certify(tmp_path / "run", bundle, data, slow_sampler, 2) == alone
    assert len(hit) == 2
    assert active_children() == []


class Poisoned(FakeSampler):
    """The process dies of image 7."""

    def count(self, model: str, segments: Sequence[Segment]) -> NDArray[np.int64]:
        if any(segment.image_id == 7 for segment in segments):
            os._exit(11)
        return super().count(model, segments)


@pytest.mark.slow
def test_images_that_kill_workers_are_given_up_and_all_others_certified(
    bundle: Bundle, data: ImageSet, tmp_path: Path, alone: list[str]
) -> None:
    folder = tmp_path / "run"
    with pytest.raises(StoppedError, match="images were given up, because workers died of them"):
        certify(folder, bundle, data, Poisoned, 2)
    lines = (folder / "certificates.jsonl").read_text().splitlines()
    assert IMAGES - 2 <= len(lines) < IMAGES
    assert certify(folder, bundle, data, FakeSampler, 2) == alone


class WrongTotals(FakeSampler):
    def count(self, model: str, segments: Sequence[Segment]) -> NDArray[np.int64]:
        return super().count(model, segments) + 1


@pytest.mark.slow
def test_a_workers_error_is_the_runs_error(bundle: Bundle, data: ImageSet, tmp_path: Path) -> None:
    with pytest.raises(SamplerError, match=r"worker 0: image .* votes must be >= 0 and sum to"):
        certify(tmp_path / "run", bundle, data, WrongTotals, 2)
    assert active_children() == []


def test_a_bad_number_of_workers(bundle: Bundle, data: ImageSet, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="workers must be an integer >= 1"):
        certify(tmp_path / "run", bundle, data, FakeSampler, 0)
    assert not (tmp_path / "run").exists()


def test_a_killed_worker_leaves_nothing_to_clean_up() -> None:
    """Python warned of a semaphore of a bar that torch.fx makes, below the line of Ctrl-C."""
    code = (
        "import multiprocessing, os\nfrom dualsmooth.engine.cluster.processes import work\n"
        "multiprocessing.set_start_method('spawn')\nours, theirs = multiprocessing.Pipe()\n"
        "ours.close()\nwork(theirs, 0, {})\nfrom tqdm.auto import tqdm\n"
        "tqdm(disable=True)\nos._exit(0)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stderr == ""
