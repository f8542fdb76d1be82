"""Files that survive kills and full disks: appended whole or not at all, replaced whole or not."""

import errno
import fcntl
import glob
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from dualsmooth.engine.errors import ArgumentError, FileError
from dualsmooth.engine.limits import plain_descriptor

LOCK = "run.lock"
PART = ".part"
_IN_THE_WAY = (FileExistsError, NotADirectoryError)


class AppendFile:
    """A file that only grows, by pieces on disk when `append` returns; made if there is none."""

    def __init__(self, path: Path) -> None:
        self._file = plain_descriptor(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._size = os.fstat(self._file).st_size
        sync_folder(path.parent)

    def append(self, data: bytes) -> None:
        """Write and fsync; the OSError of either goes on, the file cut back to what it was."""
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._file, rest) :]
            os.fsync(self._file)
        except BaseException:
            with suppress(OSError):
                self.cut(self._size)
            raise
        self._size += len(data)

    def cut(self, size: int) -> None:
        """Leave the first bytes only."""
        os.ftruncate(self._file, size)
        self._size = size

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)


class FolderLock:
    """One process at a time writes to a folder; FileError names it. A killed one holds nothing."""

    def __init__(self, folder: Path) -> None:
        self._path, self._file = folder / LOCK, -1
        while self._file < 0:
            file = plain_descriptor(self._path, os.O_RDWR | os.O_CREAT)
            try:
                self._hold(file)
            finally:
                if self._file < 0:
                    os.close(file)

    def _hold(self, file: int) -> None:
        if not lock(file, self._path.parent):
            holder = os.read(file, 300).decode("ascii", "replace").strip()
            rule = "is being written by another process"
            raise FileError(self._path.parent, rule, f"process {holder}")
        # The holder may have deleted the file between our open and our lock.
        if self._path.exists() and os.path.samestat(os.fstat(file), self._path.stat()):
            os.ftruncate(file, 0)
            os.write(file, f"{os.getpid()} on {platform.node()}\n".encode())
            self._file = file

    def release(self) -> None:
        """Give the folder back; a second call does nothing."""
        file, self._file = self._file, -1
        if file >= 0:
            try:
                self._path.unlink(missing_ok=True)
            finally:
                os.close(file)


def lock(file: int | BinaryIO, path: Path) -> bool:
    """Keep other processes from an open file; False if one holds it, FileError if none can."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        rule, hint = "must be on a disk that can lock files", "name one on another disk"
        raise FileError(path, rule, error.strerror or error, hint) from error
    return True


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes its place if the block ends well; else the old one stays."""
    temporary = path.with_name(path.name + PART)
    temporary.unlink(missing_ok=True)  # left by a kill, or a link to a file of the user
    try:
        with open(temporary, "xb", opener=partial(plain_descriptor, mode=0o666)) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file as `whole_file` does; text as UTF-8."""
    with whole_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def write_files(folder: Path, files: Mapping[str, str | bytes]) -> None:
    """Write files by name into a folder, made if there is none; FileError if one cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            write_whole(folder / name, content)
    except OSError as error:
        raise unwritable(folder, error) from error


def sync_folder(folder: Path) -> None:
    """Make new names in a folder durable, where the disk can: some for Windows cannot."""
    with _opened(folder) as file:
        try:
            os.fsync(file)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise


@contextmanager
def _opened(folder: Path, flags: int = 0) -> Iterator[int]:
    file = os.open(folder, os.O_RDONLY | flags)
    try:
        yield file
    finally:
        os.close(file)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write JSON so that the file is either the old one or the new one, never half of it."""
    write_whole(path, json_text(value))


def json_text(value: dict[str, Any]) -> str:
    """What `write_json` writes."""
    return json.dumps(value, indent=1, allow_nan=False) + "\n"


def check_target(folder: Path) -> None:
    """Refuse a folder that exists already, or whose name no folder can have, with a FileError."""
    try:
        taken = bool(os.lstat(folder))
    except (FileNotFoundError, NotADirectoryError):
        taken = False
    except (OSError, ValueError) as error:  # too long a name, a zero byte
        raise FileError(folder, "must be a name that a folder can have", error) from error
    if taken:
        raise FileError(folder, "must not exist yet", _kind(folder), "remove it or name another")
    _check_place(folder)


def at_home(text: str | Path, argument: str = "path") -> Path:
    """A path, with the home folder for a ``~`` that no shell replaces, as behind ``npz:``."""
    if not isinstance(text, str | os.PathLike) or text == "":
        raise ArgumentError(argument, "must be a path", text and type(text).__name__)
    return Path(text if os.path.exists(text) else os.path.expanduser(text))


def check_own(folder: Path, *marks: str) -> None:
    """Refuse a folder that holds something, but nothing that fits a pattern of what we leave."""
    try:
        ours = next(folder.iterdir(), None) is None or any(map(any, map(folder.glob, marks)))
    except FileNotFoundError:
        ours = True
    except OSError as error:
        raise unwritable(folder, error) from error
    _check_place(folder)
    if not ours:
        rule = "must be new, empty or what this command wrote"
        raise FileError(folder, rule, "other files in it", "name another folder")


def _check_place(path: Path) -> None:
    """Refuse to work for minutes on what cannot be written in the end."""
    place = next(filter(os.path.isdir, (path, *path.parents)), path)
    if not os.access(place, os.W_OK):
        raise FileError(path, "must be writable", f"{place}, where nothing may be written")


def unwritable(path: str | Path, error: OSError) -> FileError:
    """The error about what cannot be written; a file above it, or a link to nothing, is named."""
    named = Path(path)
    for place in (named, *named.parents):
        if os.path.lexists(place) and not place.is_dir() and isinstance(error, _IN_THE_WAY):
            what = f"{place}, which is {_kind(place)}"
            return FileError(path, "must be writable", what, "remove it or name another place")
    return FileError(path, "must be writable", error.strerror or error)


def _kind(path: Path) -> str:
    if path.is_symlink() and not path.exists():
        return "a link to nothing"
    return "a folder" if path.is_dir() else "a file"


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A draft to write files into: the folder itself if the block ends well, else it is gone."""
    check_target(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_drafts(folder)
        draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            with _opened(draft) as file:
                with suppress(FileError):  # without locks, drafts of killed processes stay there
                    lock(file, draft)
                yield draft
                draft.chmod(0o755)  # mkdtemp makes it private
                draft.rename(folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    except OSError as error:
        raise unwritable(folder, error) from error


def _remove_drafts(folder: Path) -> None:
    """Drafts of this folder whose process was killed: nobody holds their lock."""
    for draft in folder.parent.glob(f".{glob.escape(folder.name)}-????????"):
        with suppress(OSError, FileError), _opened(draft, os.O_DIRECTORY | os.O_NOFOLLOW) as file:
            if lock(file, draft):
                shutil.rmtree(draft, ignore_errors=True)
