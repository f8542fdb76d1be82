"""Kills, full disks and signals: a run that is resumed ends as one that was never disturbed."""

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dualsmooth.engine import files as durable
from dualsmooth.engine.budget import Budget
from dualsmooth.engine.certificate import Certificate
from dualsmooth.engine.data.image_set import ImageSet
from dualsmooth.engine.errors import ArgumentError, SamplerError, StoppedError
from dualsmooth.engine.methods.fixed import FixedSmoothing
from dualsmooth.engine.models.bundle import Bundle
from dualsmooth.engine.runs.audit import audit
from dualsmooth.engine.runs.certify import certify_run
from dualsmooth.engine.runs.log import RunLog, read_log
from dualsmooth.engine.runs.record import read_configuration
from dualsmooth.engine.samplers.null import FakeSampler
from dualsmooth.engine.samplers.sampler import MakeSampler, Segment
from dualsmooth.engine.settings import Settings
from tests.engine.conftest import timeless

IMAGES = 24


def certify(
    folder: Path, bundle: Bundle, data: ImageSet, make: MakeSampler = FakeSampler, slots: int = 16
) -> None:
    settings = Settings(Budget.fixed(10, 200), precision="fp32", device="cpu", slots=slots)
    ids = list(range(IMAGES))
    certify_run(
        FixedSmoothing(bundle, 0.25), data, ids, settings, folder, resume=True, make=make
    )  # fmt: skip


def results(folder: Path) -> dict[str, list[str]]:
    """All files of a finished run, times aside."""
    assert sorted(p.name for p in folder.iterdir()) == [
        "certificates.jsonl", "certificates.tsv", "run.json", "summary.json",
    ]  # fmt: skip
    table = (folder / "certificates.tsv").read_text().splitlines()
    return {
        "log": timeless(folder),
        "table": [line.rpartition("\t")[0] for line in table],
        "summary": (folder / "summary.json").read_text().splitlines(),
        "run": (folder / "run.json").read_text().splitlines(),
    }


@pytest.fixture(scope="module")
def whole(
    bundle: Bundle, data: ImageSet, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[str]]:
    folder = tmp_path_factory.mktemp("whole") / "run"
    certify(folder, bundle, data)
    return results(folder)


class Killed(BaseException):
    """Stands for a kill: nothing in the engine catches it."""


class Disk:
    """Counts what reaches the disk and kills the process at one of those points.

    Every write, truncation, fsync, rename and removal of the run log passes here. A kill in a write
    leaves a random part of it.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, kill_at: int, rng: random.Random) -> None:
        self.calls, self.kill_at, self.rng, self.dead = 0, kill_at, rng, False
        for name in ("write", "fsync", "ftruncate"):
            monkeypatch.setattr(os, name, self._guard(getattr(os, name), name == "write"))
        for name in ("replace", "unlink", "mkdir"):
            monkeypatch.setattr(Path, name, self._guard(getattr(Path, name), False))

    def _guard(self, call: Callable[..., object], writes: bool) -> Callable[..., object]:
        def guarded(*arguments: object, **options: object) -> object:
            if self.dead:
                raise Killed
            self.calls += 1
            if self.calls == self.kill_at:
                self.dead = True
                if writes:
                    data = bytes(arguments[1])  # type: ignore[call-overload]
                    call(arguments[0], data[: self.rng.randrange(len(data) + 1)])
                raise Killed
            return call(*arguments, **options)

        return guarded


def kill_points(bundle: Bundle, data: ImageSet, folder: Path) -> int:
    """Calls that a run makes; every certificate has its own write and fsync."""
    with pytest.MonkeyPatch.context() as patch:
        disk = Disk(patch, -1, random.Random(0))
        certify(folder, bundle, data, slow_sampler, slots=1)
    return disk.calls


def killed_at(bundle: Bundle, data: ImageSet, folder: Path, point: int, rng: random.Random) -> bool:
    """Start or resume a run and kill it; False if it was finished before."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fcntl.flock", lambda *_: None)  # a dead process holds no lock
        Disk(patch, point, rng)
        try:
            certify(folder, bundle, data, slow_sampler, slots=1)
        except Killed:
            return True
    return False


def kill_and_resume(
    bundle: Bundle, data: ImageSet, folder: Path, point: int, rng: random.Random
) -> bool:
    """Whether the run was killed before its end; afterwards it is finished."""
    killed = killed_at(bundle, data, folder, point, rng)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fcntl.flock", lambda *_: None)
        certify(folder, bundle, data)
    return killed


@pytest.mark.parametrize("least", [8, pytest.param(200, marks=pytest.mark.slow)])
def test_simulated_kills_at_random_points(
    bundle: Bundle, data: ImageSet, tmp_path: Path, whole: dict[str, list[str]], least: int
) -> None:
    """Up to three in a row on the same run."""
    rng = random.Random(least)
    points, kills = kill_points(bundle, data, tmp_path / "count"), 0
    assert points > 2 * IMAGES
    while kills < least:
        folder = tmp_path / "run"
        for _ in range(rng.randrange(3)):
            kills += killed_at(bundle, data, folder, rng.randrange(1, points), rng)
        kills += kill_and_resume(bundle, data, folder, rng.randrange(1, points), rng)
        assert results(folder) == whole
        assert audit(folder, data).findings == []
        shutil.rmtree(folder)


def test_a_log_cut_at_every_byte_resumes_to_the_same_files(
    bundle: Bundle, data: ImageSet, tmp_path: Path
) -> None:
    """What a kill or power cut may leave of a line: every prefix, and zeros after it."""
    folder = tmp_path / "run"
    certify(folder, bundle, data)
    configuration = read_configuration(folder)
    finished = (folder / "certificates.jsonl").read_bytes()
    lines = finished.splitlines(keepends=True)
    start = len(lines[0]) + len(lines[1])
    end = start + len(lines[2])
    for cut in range(start, end + 1):
        for tail in (b"", b"\0" * 7) if cut % 50 == 0 else (b"",):
            (folder / "certificates.jsonl").write_bytes(finished[:cut] + tail)
            kept = 3 if cut == end else 2
            assert [c.image_id for c in read_log(folder, repair=True)] == list(range(kept))
            assert (folder / "certificates.jsonl").read_bytes() == b"".join(lines[:kept])
    for cut in (start, start + 1, end - 1, end):
        (folder / "certificates.jsonl").write_bytes(finished[:cut])
        log = RunLog(folder, configuration, resume=True)
        log.append(*(Certificate.from_json(line.decode()) for line in lines[len(log.done) :]))
        log.close()
        assert (folder / "certificates.jsonl").read_bytes() == finished


def test_a_full_disk_stops_cleanly_and_resumes(
    bundle: Bundle, data: ImageSet, tmp_path: Path, whole: dict[str, list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    folder = tmp_path / "run"
    append = durable.AppendFile.append
    acknowledged: list[bytes] = []

    def full(file: durable.AppendFile, data: bytes) -> None:
        if len(acknowledged) >= 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        acknowledged.extend(data.splitlines())
        append(file, data)

    with monkeypatch.context() as patch:
        patch.setattr(durable.AppendFile, "append", full)
        with pytest.raises(StoppedError, match=r"on disk; make room$") as stopped:
            certify(folder, bundle, data, slow_sampler, slots=1)
    assert f"{len(acknowledged)} certificates are on disk" in str(stopped.value)
    assert (folder / "certificates.jsonl").read_bytes().splitlines() == acknowledged
    certify(folder, bundle, data)
    assert results(folder) == whole


@pytest.mark.parametrize("file", ["certificates.jsonl", "certificates.tsv", "summary.json"])
def test_a_disk_full_at_the_end_loses_nothing(
    bundle: Bundle, data: ImageSet, tmp_path: Path, whole: dict[str, list[str]],
    monkeypatch: pytest.MonkeyPatch, file: str,
) -> None:  # fmt: skip
    folder = tmp_path / "run"
    replace = Path.replace

    def full(path: Path, target: Path) -> Path:
        if target.name == file:
            raise OSError(errno.ENOSPC, "No space left on device")
        return replace(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        with pytest.raises(StoppedError, match="24 certificates are on disk"):
            certify(folder, bundle, data)
    certify(folder, bundle, data)
    assert results(folder) == whole


slow_sampler = partial(FakeSampler, pause=0.004)


class WrongTotals(FakeSampler):
    def count(self, model: str, segments: Sequence[Segment]) -> NDArray[np.int64]:
        votes = super().count(model, segments)
        for row, segment in zip(votes, segments, strict=True):
            row[0] += segment.image_id == 7 and segment.count > 10
        return votes


def test_wrong_totals_stop_the_run_and_spoil_nothing(
    bundle: Bundle, data: ImageSet, tmp_path: Path, whole: dict[str, list[str]]
) -> None:
    folder = tmp_path / "run"
    with pytest.raises(SamplerError, match="image 7: votes must be >= 0 and sum to"):
        certify(folder, bundle, data, make=WrongTotals)
    certify(folder, bundle, data)
    assert results(folder) == whole


class NotANumber(torch.nn.Module):
    """Logits that are NaN for about half of the noisy copies."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        good = torch.nn.functional.one_hot(torch.zeros(len(x), dtype=torch.long), 10).float()
        return torch.where(x[:, 0, 0, :1] > 0.0, good, torch.nan)


def test_nan_logits_abstain_and_the_run_is_clean(data: ImageSet, tmp_path: Path) -> None:
    bundle = Bundle.from_classifier(NotANumber().eval(), num_classes=10, input_shape=(8, 8, 1))
    settings = Settings(Budget.fixed(10, 200), precision="fp32", device="cpu")
    certify_run(FixedSmoothing(bundle, 0.25), data, [0, 1, 2], settings, tmp_path / "run")
    for certificate in read_log(tmp_path / "run"):
        assert certificate.predicted is None
        estimate = certificate.counts[-1]
        assert sum(estimate.votes) == estimate.count == 200
        assert estimate.votes[-1] > 0
    assert audit(tmp_path / "run", data).findings == []


class Cramped(FakeSampler):
    """Has no memory for batches above 100 rows."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        if self.batch_size > 100:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")


def test_the_batch_halves_before_the_first_certificate_and_then_stays(
    bundle: Bundle, data: ImageSet, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    certify(folder, bundle, data, Cramped)
    assert read_configuration(folder)["batch_size"] == 64
    log = folder / "certificates.jsonl"
    finished = log.read_bytes()
    log.write_bytes(b"".join(finished.splitlines(keepends=True)[:9]))
    certify(folder, bundle, data)  # memory for 1024 rows now: the recorded shape is kept
    assert read_configuration(folder)["batch_size"] == 64
    assert {c.batch_size for c in read_log(folder)} == {64}
    settings = Settings(Budget.fixed(10, 200), device="cpu", batch_size=128)
    method = FixedSmoothing(bundle, 0.25)
    with pytest.raises(ArgumentError, match="batch_size must fit into memory; received 128"):
        certify_run(method, data, [0], settings, tmp_path / "given", make=Cramped)
    assert not (tmp_path / "given").exists()


class Leaky(FakeSampler):
    """Runs out of memory after a while."""

    def count(self, model: str, segments: Sequence[Segment]) -> NDArray[np.int64]:
        if self.drawn > 4000:
            raise MemoryError
        return super().count(model, segments)


def test_out_of_memory_later_stops_cleanly_and_resumes(
    bundle: Bundle, data: ImageSet, tmp_path: Path, whole: dict[str, list[str]]
) -> None:
    folder = tmp_path / "run"
    with pytest.raises(StoppedError, match=r"out of memory; [1-9][0-9]* certificates are on disk"):
        certify(folder, bundle, data, Leaky, slots=1)
    assert 0 < lines_of(folder) < IMAGES
    certify(folder, bundle, data)
    assert results(folder) == whole


DRIVER = """
import sys
from functools import partial
from pathlib import Path

from dualsmooth.engine.samplers.null import FakeSampler
from dualsmooth.engine import Budget, FixedSmoothing, load_bundle
from dualsmooth.engine.runs.certify import certify_run
from dualsmooth.engine.data.spec import load_images
from dualsmooth.engine.settings import Settings

if __name__ == "__main__":
    folder, bundle, workers = sys.argv[1:]
    settings = Settings(Budget.fixed(10, 200), precision="fp32", device="cpu", slots=2)
    certify_run(
        FixedSmoothing(load_bundle(bundle), 0.25), load_images("digits"), list(range(24)),
        settings, Path(folder), resume=True, make=partial(FakeSampler, pause=0.03),
        workers=int(workers),
    )
"""


def lines_of(folder: Path) -> int:
    log = folder / "certificates.jsonl"
    return log.read_bytes().count(b"\n") if log.exists() else 0


def kill_until_finished(tmp_path: Path, bundle: Path, workers: int, seed: int) -> int:
    """Start the run again and again, SIGKILL it soon after it gets somewhere; returns kills."""
    script, folder, rng = tmp_path / "driver.py", tmp_path / "run", random.Random(seed)
    script.write_text(DRIVER)
    command = [sys.executable, str(script), str(folder), str(bundle), str(workers)]
    kills = 0
    while True:
        before = lines_of(folder)
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        while process.poll() is None and (lines_of(folder) <= before or before == IMAGES):
            time.sleep(0.002)
        if process.poll() is not None:
            assert process.returncode == 0
            return kills
        time.sleep(rng.random() * 0.04)
        process.kill()
        process.wait()
        kills += 1


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "runs", "least"), [(1, 4, 20), (2, 1, 5)])
def test_real_kills_of_the_driver(
    bundle: Bundle, tiny_bundle: Path, tmp_path: Path, data: ImageSet,
    whole: dict[str, list[str]], workers: int, runs: int, least: int,
) -> None:  # fmt: skip
    """SIGKILL at random moments while the log grows."""
    kills = 0
    for trial in range(runs):
        place = tmp_path / str(trial)
        place.mkdir()
        kills += kill_until_finished(place, tiny_bundle, workers, trial)
        finished = results(place / "run")
        # The driver has 2 slots, and cores of its own: neither is part of a run.
        assert finished == whole
        assert audit(place / "run", data).findings == []
    assert kills >= least


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("workers", [1, 2])
def test_signals_end_with_130_and_resume(
    tiny_bundle: Path, tmp_path: Path, number: signal.Signals, workers: int
) -> None:
    command = [
        sys.executable, "-m", "dualsmooth", "certify", str(tiny_bundle), "--data",
        "digits", "--n", "20000", "--max", "40", "--slots", "2", "--workers", str(workers),
        "--out", str(tmp_path / "run"), "--resume",
    ]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while lines_of(tmp_path / "run") < 3 and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.splitlines()[-1].startswith("dualsmooth: interrupted; what was reached")
    reached = (tmp_path / "run" / "certificates.jsonl").read_bytes().splitlines()
    assert 3 <= len(reached) < 40
    assert subprocess.run(command, check=False, capture_output=True).returncode == 0
    finished = (tmp_path / "run" / "certificates.jsonl").read_bytes().splitlines()
    assert set(reached) < set(finished)
    assert len(finished) == 40


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 32 kB; skips where this user may not mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this user may not mount a small file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
def test_a_disk_that_is_really_full(
    bundle: Bundle, data: ImageSet, tiny_disk: Path, whole: dict[str, list[str]]
) -> None:
    with pytest.raises(StoppedError, match="No space left on device") as stopped:
        certify(tiny_disk / "run", bundle, data)
    reached = lines_of(tiny_disk / "run")
    assert f"; {reached} certificates are on disk; make room" in str(stopped.value)
    subprocess.run(["mount", "-o", "remount,size=1m", str(tiny_disk)], check=True)
    certify(tiny_disk / "run", bundle, data)
    assert results(tiny_disk / "run") == whole
