"""Folders and files written whole or not at all, whatever stops the writer."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dualsmooth.engine.errors import FileError
from dualsmooth.engine.files import check_own, check_target, new_folder
from dualsmooth.engine.methods.regions.anchors import Anchors, read_anchors
from dualsmooth.engine.runs.log import RunLog


def test_a_killed_writer_leaves_a_draft_that_the_next_one_removes(tmp_path: Path) -> None:
    alive = new_folder(tmp_path / "model")
    draft = alive.__enter__()
    (draft / "part").write_text("half")
    with new_folder(tmp_path / "model") as other:  # the first one lives: its draft stays
        assert draft.is_dir()
        (other / "whole").write_text("all")
    left = tmp_path / ".other-12345678"
    left.mkdir()
    (left / "part").write_text("half")
    (tmp_path / ".other-notes").mkdir()
    with new_folder(tmp_path / "other"):
        assert not left.exists()
    names = {path.name for path in tmp_path.iterdir()}
    assert {"model", "other", ".other-notes"} <= names


@pytest.mark.parametrize("name", ["n" * 300, "a\0b"])
def test_names_that_no_folder_can_have_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(FileError, match="must be a name that a folder can have"):
        check_target(tmp_path / name)


def test_what_is_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("nothing")
    taken = {"file": "a file", "link": "a link to nothing", ".": "a folder"}
    for name, what in taken.items():
        with pytest.raises(FileError, match=f"must not exist yet; received {what}"):
            check_target(tmp_path / name)
    for name in ("file", "link"):
        rule = f"must be writable; received {tmp_path / name}, which is {taken[name]}"
        with pytest.raises(FileError, match=rule), new_folder(tmp_path / name / "deep" / "model"):
            pass
        with pytest.raises(FileError, match=rule):
            RunLog(tmp_path / name / "run", {})


@pytest.mark.parametrize("check", [check_target, check_own])
def test_a_place_where_nothing_may_be_written_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, check: Callable[[Path], None]
) -> None:
    check(tmp_path / "a" / "b")
    monkeypatch.setattr(os, "access", lambda place, _: place != tmp_path)
    with pytest.raises(FileError, match=rf"must be writable; received {tmp_path}, where nothing"):
        check(tmp_path / "a" / "b")


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_a_full_disk_leaves_no_anchors_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    anchors = Anchors(np.zeros((2, 2, 2, 1), np.uint8), [0.12, 0.25])

    def full(file: int) -> None:
        raise OSError(error, os.strerror(error))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(FileError, match="must be writable"):
            anchors.save(tmp_path / "anchors.npz")
    assert list(tmp_path.iterdir()) == []
    anchors.save(tmp_path / "anchors.npz")
    assert read_anchors(tmp_path / "anchors.npz").digest == anchors.digest
    with pytest.raises(FileError, match="must not exist yet"):
        anchors.save(tmp_path / "anchors.npz")
