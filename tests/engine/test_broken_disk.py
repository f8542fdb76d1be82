"""Errors of the disk at every call of a run: one line, an exit code, and a run that goes on."""

import errno
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest

from dualsmooth.engine.budget import Budget
from dualsmooth.engine.cli import app as cli
from dualsmooth.engine.data.image_set import ImageSet
from dualsmooth.engine.errors import FileError, StoppedError
from dualsmooth.engine.methods.fixed import FixedSmoothing
from dualsmooth.engine.models.bundle import Bundle
from dualsmooth.engine.runs.certify import certify_run
from dualsmooth.engine.runs.log import RunLog
from dualsmooth.engine.samplers.null import FakeSampler
from dualsmooth.engine.settings import Settings
from tests.conftest import Command

FILES = ("certificates.jsonl", "certificates.tsv", "run.json", "summary.json")


def certify(folder: Path, bundle: Bundle, data: ImageSet) -> list[bytes]:
    """The files of the run, times aside."""
    method = FixedSmoothing(bundle, 0.25)
    settings = Settings(Budget.fixed(10, 100), precision="fp32", device="cpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dualsmooth.engine.runtime.scheduler.perf_counter", lambda: 0.0)
        certify_run(method, data, [0, 1, 2], settings, folder, resume=True, make=FakeSampler)
    return [(folder / name).read_bytes() for name in FILES]


def broken(owner: object, name: str, at: int, seen: list[int]) -> Callable[..., object]:
    """A call that fails the ``at``-th time within a run folder."""
    honest = getattr(owner, name)

    def call(*arguments: object, **options: object) -> object:
        seen[0] += 1
        result = honest(*arguments, **options) if name == "close" or seen[0] != at else None
        if seen[0] == at:
            raise OSError(errno.EIO, "Input/output error")
        return result

    return call


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (os, "fsync"),
        (os, "close"),
        (os, "open"),
        (os, "write"),
        (os, "ftruncate"),
        (Path, "unlink"),
        (Path, "replace"),
        (Path, "mkdir"),
    ],
)
def test_an_error_at_any_call_stops_the_run_and_it_resumes(
    bundle: Bundle, data: ImageSet, tmp_path: Path, owner: object, name: str
) -> None:
    whole = certify(tmp_path / "whole", bundle, data)
    for at in range(1, 12):
        folder, seen = tmp_path / str(at), [0]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(owner, name, broken(owner, name, at, seen))
            with suppress(StoppedError, FileError):
                certify(folder, bundle, data)
        assert certify(folder, bundle, data) == whole
        if seen[0] < at:
            break


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (OSError(errno.ENAMETOOLONG, "File name too long", "x"), 2, "x: must be readable"),
        (OSError(errno.EIO, "Input/output error", "x\x1b"), 3, "x\\x1b: Input/output error"),
        (MemoryError(), 3, "out of memory"),
        (BrokenPipeError(), 3, ""),
        (KeyboardInterrupt(), 130, "interrupted"),
        (StoppedError("a\nb"), 3, "a\\nb"),
        (FileError("a\u202eb", "must be"), 2, "a\\u202eb: must be"),
    ],
)
def test_whatever_ends_a_command_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    line: str,
) -> None:
    def fails(**_: object) -> int:
        raise error

    monkeypatch.setattr(cli, "app", fails)
    monkeypatch.setattr(cli, "watch", nullcontext)
    monkeypatch.setattr(os, "dup2", lambda *_: None)
    monkeypatch.setattr(sys.stdout, "fileno", lambda: 1, raising=False)
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == code
    shown = capfd.readouterr().err
    assert line in shown
    assert len(shown.splitlines()) == (1 if line else 0)
    assert all(c == "\n" or c.isprintable() for c in shown)


def test_a_folder_deleted_while_running_is_one_line(
    bundle: Bundle, data: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = RunLog.append

    def deleting(log: RunLog, *certificates: object) -> None:
        append(log, *certificates)  # type: ignore[arg-type]
        shutil.rmtree(log.folder, ignore_errors=True)

    monkeypatch.setattr(RunLog, "append", deleting)
    with pytest.raises(StoppedError, match=r"cannot be written.* 0 certificates"):
        certify(tmp_path / "run", bundle, data)


@pytest.mark.parametrize("name", ["x" * 300, "ü" * 200, "a/" * 3000])
def test_a_name_that_no_system_holds_is_one_line(
    tmp_path: Path, command: Command, name: str
) -> None:
    long = str(tmp_path / name)
    with pytest.raises(FileError, match="File name too long"):
        RunLog(Path(long), {})
    assert [command(verb, long)[0] for verb in ("report", "audit")] == [2, 2]


def test_names_of_many_scripts_hold_a_run(bundle: Bundle, data: ImageSet, tmp_path: Path) -> None:
    whole = certify(tmp_path / "run", bundle, data)
    assert certify(tmp_path / "läufe 运行 \U0001f600" / ("x" * 200), bundle, data) == whole
