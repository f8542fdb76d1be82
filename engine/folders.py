"""Folders written all or nothing: made beside their place, then renamed."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dualsmooth.engine.errors import FileError


def check_target(folder: Path) -> None:
    """Refuse a folder that exists already with a FileError."""
    if folder.exists() or folder.is_symlink():
        raise FileError(folder, "must not exist yet", "an existing one", "remove it first")


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A draft to write files into; it becomes the folder if the block ends well, else it is gone.

    Raises
    ------
    FileError
        If the folder exists already or cannot be written.
    """
    check_target(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise FileError(folder, "must be writable", error) from error
    try:
        yield draft
        draft.chmod(0o755)  # mkdtemp makes it private
        draft.rename(folder)
    except OSError as error:
        raise FileError(folder, "must be writable", error) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
