"""How files of unknown origin are opened, and sizes beyond which they are refused."""

import errno
import os
import stat
import zipfile
from collections.abc import Iterator
from functools import partial
from io import BufferedReader
from itertools import count
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from dualsmooth.engine.errors import FileError, reason_of

LARGEST_DATA = 1 << 36
"""Bytes of all images of a data set."""

LARGEST_WEIGHTS = 1 << 34
"""Bytes of a weights file."""

LARGEST_MODEL = 1 << 31
"""Bytes of a network in one file: what a protocol buffer can hold."""

LARGEST_INPUT = 1 << 22
"""Values of one image that a network from elsewhere may ask for."""

LARGEST_BATCH = 1 << 28
"""Values of all rows that such a network may ask for at once."""

LARGEST_VALUE, LARGEST_WORK = 1 << 25, 1 << 31
"""Values of one result inside a program from elsewhere, and of all of them, for one image."""

LARGEST_IMAGE = 1 << 26
"""Pixels of an image file."""

LARGEST_TABLE = 1 << 27
"""Bytes of a table."""

LARGEST_RECORD = 1 << 24
"""Bytes of a JSON file, or of one line of a log."""

LARGEST_PIECE = 1 << 22
"""Bytes of a text in a pickle, or of the list of the parts of an archive: about 50,000 parts."""

_TOO_MUCH = LARGEST_PIECE + 1
_NOT_PLAIN = "must be a plain file"
_NO_BOMB = "must not be a decompression bomb"
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_NO_WAIT = getattr(os, "O_NONBLOCK", 0)
_WRITES = os.O_WRONLY | os.O_RDWR
_UNSUSPECTED = 1 << 28
_MOST_EXPANSION = 100


def plain_descriptor(
    path: str | Path, flags: int, *, links: bool = False, mode: int = 0o644
) -> int:
    """Descriptor of a file that is nothing but a file: no FIFO, device, folder or symbolic link.

    ``links`` follows symbolic links, for names the user gave. A file to be written in place must
    have no second name: behind that could be any file of the user.
    """
    try:
        if not (links or _NO_LINK) and Path(path).is_symlink():
            raise OSError(errno.ELOOP, "a symbolic link")
        found = os.open(path, flags | _NO_WAIT | (0 if links else _NO_LINK), mode)
    except ValueError as error:  # a null character
        raise FileError(path, _NOT_PLAIN, error) from error
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EMLINK, errno.ENXIO, errno.EISDIR):
            raise
        kind = {errno.ENXIO: "a FIFO or a socket", errno.EISDIR: "a folder"}
        received = kind.get(error.errno, "a symbolic link")
        raise FileError(path, _NOT_PLAIN, received) from error
    status = os.fstat(found)
    if stat.S_ISREG(status.st_mode) and (status.st_nlink < 2 or not flags & _WRITES):
        return found
    os.close(found)
    second = "one with a second name (a hard link)"
    other = "a folder, FIFO, socket or device"
    raise FileError(path, _NOT_PLAIN, second if stat.S_ISREG(status.st_mode) else other)


def open_plain(path: Path, *, links: bool = False) -> BufferedReader:
    """Open a file for reading; raises FileError for whatever else is behind the name.

    ``links`` follows symbolic links: for names that the user gave, not for those in a folder which
    may come from somebody else.
    """
    try:
        return open(path, "rb", opener=partial(plain_descriptor, links=links))
    except ValueError as error:  # a null character
        raise FileError(path, _NOT_PLAIN, error) from error
    except OSError as error:
        raise FileError(path, "must be readable", error.strerror or error) from error


def read_plain(path: Path, most: int, *, links: bool = False) -> bytes:
    """The content of a file as `open_plain` opens it, if it has at most ``most`` bytes."""
    with open_plain(path, links=links) as file:
        size = _size(path, file, most)
        try:
            return file.read(size)
        except OSError as error:
            raise FileError(path, "must be readable", error.strerror or error) from error
        except MemoryError as error:
            raise FileError(path, "must fit into memory", f"{size} bytes") from error


def whole_lines(path: Path, file: BinaryIO) -> Iterator[bytes]:
    """Lines that end in a line break, without it; one that a kill cut short is left out."""
    for number in count(1):
        line = file.readline(LARGEST_RECORD + 1)
        if len(line) > LARGEST_RECORD:
            raise FileError(path, f"line {number} must have at most {LARGEST_RECORD} bytes")
        if not line.endswith(b"\n"):
            return
        yield line[:-1]


def check_expansion(path: Path, packed: int, unpacked: int) -> None:
    """Refuse an archive whose content is above 64 GiB, or above 256 MiB and 100 times the file's
    size.
    """
    out_of_proportion = unpacked > _UNSUSPECTED and unpacked > _MOST_EXPANSION * packed
    if unpacked > LARGEST_DATA or out_of_proportion:
        raise FileError(path, _NO_BOMB, f"{packed} bytes that become {unpacked}")


class Sparing:
    """Reads a file of unknown origin in pieces of at most `LARGEST_PIECE` bytes; ValueError for a
    larger one, such as the list of a million parts in a zip archive.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable
        self._file = file

    def read(self, size: int = -1) -> bytes:
        """Bytes from here on: that many, or all."""
        return self._piece(self._file.read(size if 0 <= size <= LARGEST_PIECE else _TOO_MUCH))

    def readline(self) -> bytes:
        """Bytes to the end of the line."""
        return self._piece(self._file.readline(_TOO_MUCH))

    def _piece(self, data: bytes) -> bytes:
        if len(data) > LARGEST_PIECE:
            raise ValueError(f"a list or text of more than {LARGEST_PIECE} bytes")
        return data


def _parts(path: Path) -> list[zipfile.ZipInfo]:
    with open_plain(path, links=True) as file:
        return zipfile.ZipFile(Sparing(file)).filelist


def check_zip(path: Path) -> None:
    """Refuse a zip archive as `check_expansion` does; BadZipFile or ValueError if it is none."""
    unpacked = sum(entry.file_size for entry in _parts(path))
    check_expansion(path, path.stat().st_size, unpacked)


def check_stored(path: Path, ending: str = "") -> None:
    """Refuse a zip archive whose parts are together larger than it, for PyTorch never compresses,
    or have other checksums than it states, which PyTorch does not look at.

    Parts whose names end in ``ending`` are read value by value: they have at most `LARGEST_RECORD`
    bytes.
    """
    parts = _parts(path)
    packed, unpacked = path.stat().st_size, sum(part.file_size for part in parts)
    if unpacked > packed:
        raise FileError(path, _NO_BOMB, f"{packed} bytes that become {unpacked}")
    if len({part.filename for part in parts}) < len(parts):
        raise FileError(path, "must not hold two parts of one name")
    listed = sum(part.file_size for part in parts if part.filename.endswith(ending))
    if ending and listed > LARGEST_RECORD:
        raise FileError(path, f"must have at most {LARGEST_RECORD} bytes of {ending}", listed)
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        rule, hint = "must have the checksums it states", "damaged: copy or save it again"
        raise FileError(path, rule, f"another of {damaged}", hint)


def check_part(folder: Path, name: str, most: int) -> Path:
    """Path of a plain file in this very folder: no other place, no link, at most ``most`` bytes."""
    path = folder / name
    if Path(name).name != name or "\\" in name or not name.isprintable():
        raise FileError(folder, "files must be plain names in the folder", ascii(name))
    with open_plain(path) as file:
        _size(path, file, most)
    return path


def check_size(path: Path, most: int) -> None:
    """Refuse what a name the user gave leads to, unless it is a file of at most ``most`` bytes."""
    with open_plain(path, links=True) as file:
        _size(path, file, most)


def _size(path: Path, file: BinaryIO, most: int) -> int:
    size = os.fstat(file.fileno()).st_size
    if size > most:
        raise FileError(path, f"must be at most {most} bytes", size)
    return size


def npz_arrays(path: Path, *names: str) -> dict[str, NDArray[np.generic]]:
    """Those of the named arrays that an .npz archive holds; FileError if it is no such archive."""
    try:
        check_size(path, LARGEST_DATA)
        check_zip(path)
        with np.load(path, allow_pickle=False) as archive:
            found = {key: np.asarray(archive[key]) for key in names if key in archive.files}
            if not found:
                there = ", ".join(archive.files)[:200] or "none"
                raise FileError(path, f"must hold an array {names[0]}", f"arrays: {there}")
            return found
    except FileError:
        raise
    except Exception as error:  # zip, header and array readers raise many kinds
        hint = (
            f"write it with numpy.savez(path, {', '.join(f'{name}={name}' for name in names[:2])})"
        )
        received = reason_of(error)
        raise FileError(path, "must be an .npz archive of plain arrays", received, hint) from error
