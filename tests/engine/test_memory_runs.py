"""Runs with a memory: killed at any moment and resumed, they end as if nothing had happened."""

import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from dualsmooth.engine.budget import Budget
from dualsmooth.engine.data.image_set import ImageSet
from dualsmooth.engine.data.spec import load_images
from dualsmooth.engine.errors import ArgumentError, FileError
from dualsmooth.engine.methods.insta_memory import MemorySmoothing
from dualsmooth.engine.methods.options import Given
from dualsmooth.engine.methods.regions.memory import Memory
from dualsmooth.engine.methods.search import GridSearch
from dualsmooth.engine.models.bundle import Bundle
from dualsmooth.engine.runs.audit import audit
from dualsmooth.engine.runs.certify import certify_run
from dualsmooth.engine.runs.log import read_log
from dualsmooth.engine.samplers.null import FakeSampler
from dualsmooth.engine.settings import Settings
from tests.engine.conftest import timeless

IMAGES = 8


@pytest.fixture(scope="module")
def data() -> ImageSet:
    """Digits, each followed by one a little away: half of the answers come from the memory."""
    digits = load_images("digits")
    images = np.repeat(np.asarray(digits.images[: IMAGES // 2], np.uint8), 2, axis=0)
    images[1::2, 0, 0, 0] += 1
    return ImageSet(images, np.repeat(digits.labels[: IMAGES // 2], 2), "pairs", digits.classes)


def certify(
    folder: Path, bundle: Bundle, data: ImageSet, file: Path | None, *,
    alpha: float = 0.01, resume: bool = True, precision: str = "fp32",
) -> None:  # fmt: skip
    memory = Memory(file)
    method = MemorySmoothing(bundle, GridSearch((0.12, 0.25), 20), memory)
    settings = Settings(Budget.fixed(10, 100), alpha, device="cpu", precision=precision)
    try:
        certify_run(method, data, list(range(IMAGES)), settings, folder, resume=resume,
                    make=FakeSampler)  # fmt: skip
    finally:
        memory.close()


class Killed(BaseException):
    """Stands for a kill: nothing in the engine catches it."""


def killed_at(point: int, run: Callable[[], None]) -> bool:
    """Whether a run was killed at its n-th write to a disk."""
    calls = 0
    with pytest.MonkeyPatch.context() as patch:
        fsync = os.fsync

        def count(file: int) -> None:
            nonlocal calls
            calls += 1
            if calls >= point:
                raise Killed
            fsync(file)

        patch.setattr(os, "fsync", count)
        try:
            run()
        except Killed:
            return True
    return False


@pytest.mark.parametrize("with_file", [True, False])
def test_a_killed_run_ends_as_an_undisturbed_one(
    bundle: Bundle, data: ImageSet, tmp_path: Path, with_file: bool
) -> None:
    file = tmp_path / "balls" if with_file else None
    certify(tmp_path / "whole", bundle, data, file)
    expected, balls = timeless(tmp_path / "whole"), file.read_bytes() if file else b""
    answered = [bool(c.counts) for c in read_log(tmp_path / "whole")]
    assert set(answered) == {True, False}
    kills = 0
    for point in range(1, 30, 2):
        for path in (tmp_path / "run", *([file] if file else [])):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        run = partial(certify, tmp_path / "run", bundle, data, file)
        kills += killed_at(point, run)
        run()
        assert timeless(tmp_path / "run") == expected
        assert not file or file.read_bytes() == balls
    assert kills >= 5
    assert audit(tmp_path / "run", data).findings == []


def test_a_run_begins_with_the_balls_of_the_one_before(
    bundle: Bundle, data: ImageSet, tmp_path: Path
) -> None:
    file = tmp_path / "balls"
    certify(tmp_path / "first", bundle, data, file)
    before = file.read_bytes()
    certify(tmp_path / "second", bundle, data, file)
    assert all(not c.counts for c in read_log(tmp_path / "second") if c.predicted is not None)
    assert file.read_bytes() == before
    seen = audit(tmp_path / "second", data, Given(memory=file))
    assert seen.findings == []
    assert "balls from before" in seen.trusted[0]
    other = tmp_path / "other"
    other.write_bytes(b"".join(before.splitlines(keepends=True)[:-1]))
    assert (
        "must begin with the balls"
        in audit(tmp_path / "second", data, Given(memory=other)).findings[0]
    )
    assert audit(tmp_path / "second", data).trusted != []


def test_a_run_is_not_resumed_on_a_memory_that_others_have_used(
    bundle: Bundle, data: ImageSet, tmp_path: Path
) -> None:
    file = tmp_path / "balls"
    certify(tmp_path / "first", bundle, data, file)
    log = tmp_path / "first" / "certificates.jsonl"
    for kept in (1, 0):
        log.write_text("".join(log.read_text().splitlines(keepends=True)[:kept]))
        with pytest.raises(ArgumentError, match="must not have grown since the run stopped"):
            certify(tmp_path / "first", bundle, data, file)
    file.write_bytes(file.read_bytes().replace(b'"image_id": ', b'"image_id": 1'))
    with pytest.raises(FileError, match="must be a ball"):
        certify(tmp_path / "first", bundle, data, file)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"precision": "bf16"}, "precision"),
        ({"bundle": "other"}, "bundle"),
        ({"search": GridSearch((0.12,), 20)}, "search"),
        ({"noise": "integer"}, "noise"),
    ],
)
def test_balls_of_another_classifier_are_refused(
    bundle: Bundle, data: ImageSet, tmp_path: Path, change: dict[str, object], named: str
) -> None:
    file = tmp_path / "balls"
    certify(tmp_path / "first", bundle, data, file)
    before = file.read_bytes()
    about = {"bundle": bundle.digest, "noise": "gaussian", "precision": "fp32", "device": "cpu",
             "sampler": "fake", "batch_size": 1024}  # fmt: skip
    memory = Memory(file)
    search = change.get("search", GridSearch((0.12, 0.25), 20))
    method = MemorySmoothing(bundle, search, memory)  # type: ignore[arg-type]
    rest = {key: value for key, value in change.items() if key != "search"}
    with pytest.raises(ArgumentError, match=f"same .*{named}"):
        method.bind(about | rest)
    memory.close()
    assert file.read_bytes() == before


def test_a_ball_serves_its_own_alpha_and_larger_ones(
    bundle: Bundle, data: ImageSet, tmp_path: Path
) -> None:
    file = tmp_path / "balls"
    certify(tmp_path / "first", bundle, data, file, alpha=0.01)
    certify(tmp_path / "looser", bundle, data, file, alpha=0.05)
    served = [c for c in read_log(tmp_path / "looser") if not c.counts]
    assert served
    assert {(c.alpha.budget, c.alpha.total) for c in served} == {(0.05, 0.01)}
    assert audit(tmp_path / "looser", data, Given(memory=file)).findings == []
    certify(tmp_path / "stricter", bundle, data, file, alpha=0.001)
    first = read_log(tmp_path / "stricter")[0]
    assert first.counts
    assert first.alpha.total == 0.001
