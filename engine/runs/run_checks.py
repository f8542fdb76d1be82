"""What a run folder may hold before a run writes to it, and what must be equal to go on."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dualsmooth.engine.errors import FileError
from dualsmooth.engine.files import LOCK, PART
from dualsmooth.engine.json_file import read_json
from dualsmooth.engine.records import unlike

RUN = "run.json"
REPORTS = ("summary.md", "curves.png", "curves.pdf", "report.html")
FIELDS = {"format", "fingerprint", "configuration", "machine"}
MOST_NAMED = 12
SOURCE = "source"
"""How the bundle was named, where it has a name; part of no comparison."""


def check_folder(folder: Path, may_hold_run: bool) -> None:
    """Refuse a folder with a run that is not to be touched, or with other files."""
    if (folder / RUN).exists():
        if not may_hold_run:
            raise FileError(folder, "holds a run already", hint="add --resume or --fresh")
    elif folder.exists() and not folder.is_dir():
        raise FileError(folder, "must be a run folder, empty or new", "a file")
    elif folder.exists() and not _is_empty(folder, REPORTS if may_hold_run else ()):
        raise FileError(folder, "must be a run folder, empty or new", "other files in it")


def not_a_run(path: Path) -> FileError:
    """The error about what was given for a run folder, and has no record of a run."""
    rule = "must be a run folder"
    if path.is_dir() or not path.exists():
        return FileError(path, rule, f"no {RUN} in it" if path.is_dir() else "nothing there")
    return FileError(path, rule, "a file", f"or {path.parent}" * (path.parent / RUN).exists())


def not_of_a_run(folder: Path, known: Sequence[str]) -> list[str]:
    """A line on what else is in a run's folder: whoever wrote it, no audit reads it."""
    others = sorted({path.name for path in folder.iterdir()} - {RUN, LOCK, *known})
    if not others:
        return []
    named = ", ".join(others[:MOST_NAMED]) + (", .." if len(others) > MOST_NAMED else "")
    return [f"not read, as no part of the run: {named} (`report` makes its own again)"]


def check_ours(path: Path) -> None:
    """Refuse to replace what another program calls ``run.json``, and the files beside it."""
    try:
        ours = FIELDS == {*read_json(path)} - {SOURCE}
    except (FileError, TypeError):
        ours = False
    if not ours:
        rule = "must be the record of a run, so that --fresh deletes nothing else"
        raise FileError(path, rule, "another file", "remove it or use another --out")


def check_equal(path: Path, what: str, stored: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Refuse to resume if a run began with something else; what it was is named."""
    if keys := unlike(stored, here):
        changed = "; ".join(f"{key} {stored.get(key)!r} -> {here.get(key)!r}" for key in keys)
        rule, hint = f"must have the same {what} to resume", "use that, --fresh or another --out"
        raise FileError(path, rule, changed, hint)


def _is_empty(folder: Path, besides: Sequence[str]) -> bool:
    try:
        left_by_a_kill = {LOCK, RUN + PART, *besides, *(name + PART for name in besides)}
        return {path.name for path in folder.iterdir()} <= left_by_a_kill
    except OSError as error:
        raise FileError(folder, "must be readable", error.strerror or error) from error
