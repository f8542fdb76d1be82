"""Sizes beyond which a file is refused before its content is made: it may come from anywhere."""

import zipfile
from collections.abc import Sequence
from pathlib import Path
from stat import S_ISREG
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dualsmooth.engine.errors import FileError

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


LARGEST_TABLE = 1 << 28
"""Bytes of a table of results."""


_UNSUSPECTED = 1 << 28


_MOST_EXPANSION = 100


def check_expansion(path: Path, packed: int, unpacked: int) -> None:
    """Refuse an archive whose content is huge, or large and out of proportion.

    Parameters
    ----------
    path : Path
        File, for the message.
    packed, unpacked : int
        Bytes before and after decompression.

    Raises
    ------
    FileError
        If it is above 64 GiB, or above 256 MiB and more than 100 times as large as the file.
    """
    out_of_proportion = unpacked > _UNSUSPECTED and unpacked > _MOST_EXPANSION * packed
    if unpacked > LARGEST_DATA or out_of_proportion:
        rule = "must not be a decompression bomb"
        raise FileError(path, rule, f"{packed} bytes that become {unpacked}")


def check_zip(path: Path) -> None:
    """Refuse a zip archive as `check_expansion` does.

    Raises
    ------
    zipfile.BadZipFile
        If it is no zip archive.
    """
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(entry.file_size for entry in archive.filelist)
    check_expansion(path, path.stat().st_size, unpacked)


def check_stored(path: Path) -> None:
    """Refuse a zip archive whose parts are together larger than it: PyTorch never compresses.

    Raises
    ------
    zipfile.BadZipFile
        If it is no zip archive.
    """
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(entry.file_size for entry in archive.filelist)
        names = archive.namelist()
    if unpacked > path.stat().st_size:
        rule = "must not be a decompression bomb"
        raise FileError(path, rule, f"{path.stat().st_size} bytes that become {unpacked}")
    if len(set(names)) < len(names):
        raise FileError(path, "must not hold two parts of one name")


def check_part(folder: Path, name: str, most: int) -> Path:
    """Path of a plain file in this very folder: no other place, no link, at most ``most`` bytes."""
    path = folder / name
    if Path(name).name != name or "\\" in name or not name.isprintable():
        raise FileError(folder, "files must be plain names in the folder", ascii(name))
    if path.is_symlink():
        raise FileError(path, "must not be a link", path.resolve())
    check_size(path, most)
    return path


def distinct_keys(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """The object of JSON that has these members; ValueError if two have one name."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("two members of one name")
    return found


def check_size(path: Path, most: int) -> None:
    """Refuse what cannot be looked at, is no plain file, or has more than ``most`` bytes."""
    try:
        found = path.stat()
    except (OSError, ValueError) as error:
        raise FileError(path, "must be readable", getattr(error, "strerror", error)) from error
    if not S_ISREG(found.st_mode):
        raise FileError(path, "must be readable", "a folder, pipe or device")
    size = found.st_size
    if size > most:
        raise FileError(path, f"must be at most {most} bytes", size)


def npz_arrays(path: Path, *names: str) -> dict[str, NDArray[np.generic]]:
    """Those of the named arrays that an .npz archive holds; FileError if it is no such archive."""
    try:
        check_zip(path)
        with np.load(path, allow_pickle=False) as archive:
            return {key: np.asarray(archive[key]) for key in names if key in archive.files}
    except FileError:
        raise
    except Exception as error:  # zip, header and array readers raise many kinds
        hint = f"write it with numpy.savez(path, {', '.join(f'{name}={name}' for name in names)})"
        received = f"{type(error).__name__}: {error}"
        raise FileError(path, "must be an .npz archive of plain arrays", received, hint) from error
