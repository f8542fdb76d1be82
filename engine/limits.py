"""Sizes beyond which a file is refused before its content is made: it may come from anywhere."""

from pathlib import Path

from dualsmooth.engine.errors import FileError

LARGEST_DATA = 1 << 36
"""Bytes of all images of a data set."""

LARGEST_WEIGHTS = 1 << 34
"""Bytes of a weights file."""

LARGEST_IMAGE = 1 << 26
"""Pixels of an image file."""

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
