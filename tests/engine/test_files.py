"""Appends are whole or absent, replaced files are old or new, and one process writes at a time."""

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest

from dualsmooth.engine.errors import FileError
from dualsmooth.engine.files import LOCK, AppendFile, FolderLock, new_folder, write_whole
from dualsmooth.engine.methods.regions.memory import Memory


def full_after(monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    """Writes succeed, in pieces of seven bytes, until ``room`` bytes are used; then ENOSPC."""
    write, used = os.write, [0]

    def limited(file: int, data: bytes) -> int:
        piece = bytes(data[: min(7, room - used[0])])
        if not piece:
            raise OSError(errno.ENOSPC, "No space left on device")
        used[0] += len(piece)
        return write(file, piece)

    monkeypatch.setattr(os, "write", limited)


@pytest.mark.parametrize("room", range(0, 24))
def test_a_full_disk_leaves_whole_pieces_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    file = AppendFile(tmp_path / "log")
    with monkeypatch.context() as patch:
        full_after(patch, room)
        written = room // 8
        for _ in range(written):
            file.append(b"12345678")
        with pytest.raises(OSError, match="No space left"):
            file.append(b"12345678")
    assert (tmp_path / "log").read_bytes() == b"12345678" * written
    file.append(b"more")
    assert (tmp_path / "log").read_bytes() == b"12345678" * written + b"more"
    file.close()
    file.close()


def test_a_failed_fsync_is_a_failed_append(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = AppendFile(tmp_path / "log")

    def broken(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", broken)
        with pytest.raises(OSError, match="Input/output"):
            file.append(b"lost")
    assert (tmp_path / "log").read_bytes() == b""


def test_a_file_is_replaced_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "table"
    write_whole(path, "old")

    def broken(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", broken)
        with pytest.raises(OSError, match="No space"):
            write_whole(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["table"]
    write_whole(path, "new")
    assert path.read_text() == "new"


HOLD = """
import sys, time
from pathlib import Path
from dualsmooth.engine.files import FolderLock
lock = FolderLock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def test_one_process_at_a_time_and_a_killed_one_gives_way(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(FileError, match=f"another process; received process {holder.pid} on "):
            FolderLock(tmp_path)
        holder.kill()
    lock = FolderLock(tmp_path)  # the file of the killed process is still there
    with pytest.raises(FileError, match=f"process {os.getpid()}"):
        FolderLock(tmp_path)
    lock.release()
    lock.release()
    assert not (tmp_path / LOCK).exists()
    FolderLock(tmp_path).release()


def no_locks(number: int) -> Callable[..., None]:
    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return flock


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL])
def test_a_disk_without_locks_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """As NFS without its lock service, and Lustre mounted without them."""
    monkeypatch.setattr("fcntl.flock", no_locks(number))
    (tmp_path / "memory").touch()
    for opens, path in ((FolderLock, tmp_path), (Memory, tmp_path / "memory")):
        with pytest.raises(FileError, match=rf"{path.name}: must be on a disk that can lock files"):
            opens(path)
    for name in ("one", "two", "two"):
        with suppress(FileError), new_folder(tmp_path / name) as draft:
            write_whole(draft / "file", "new")
    assert (tmp_path / "two" / "file").read_text() == "new"
    assert not [*tmp_path.glob(".*")]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EOPNOTSUPP, errno.EIO])
def test_a_disk_that_cannot_sync_folders_holds_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """As one of Windows does not; an error of the disk is told."""
    fsync = os.fsync

    def on_files_only(file: int) -> None:
        if stat.S_ISDIR(os.fstat(file).st_mode):
            raise OSError(number, os.strerror(number))
        fsync(file)

    monkeypatch.setattr(os, "fsync", on_files_only)
    told = pytest.raises(OSError, match="Input/output") if number == errno.EIO else nullcontext()
    with told:
        write_whole(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "new"
