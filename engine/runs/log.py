"""Run folders: a durable log of certificates that survives kills, and the files made from it.

A certificate is on disk (one checksummed JSON line, fsync) before anything counts it. While a run
goes on, lines stand in the order in which images were decided; a finished run has them in the order
of image ids, so equal runs have equal files. One process writes at a time.
"""

import errno
import json
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from dualsmooth.engine.certificate import Certificate
from dualsmooth.engine.errors import FileError, StoppedError
from dualsmooth.engine.files import (
    AppendFile,
    FolderLock,
    at_home,
    unwritable,
    write_json,
    write_whole,
)
from dualsmooth.engine.limits import open_plain, whole_lines
from dualsmooth.engine.runs.record import NOTHING, About, begun, check_resumed
from dualsmooth.engine.runs.run_checks import RUN, check_folder, check_ours
from dualsmooth.engine.runs.table import table

LOG, TABLE, SUMMARY = "certificates.jsonl", "certificates.tsv", "summary.json"
EARLIER = "earlier.jsonl"
"""The log of fewer votes, while a run that asks for more goes on from it."""


class RunLog:
    """The certificates of one run, on disk.

    The configuration is everything that decides them and must be equal on ``resume``; ``about`` is
    told beside it; ``fresh`` replaces a run. A run of the configuration ``grown`` goes on with this
    one: its tables go, and certificates of fewer votes are set aside. A `FileError` if the folder
    holds something else, a run and neither option is given, one with another configuration or
    begun with other arithmetic, is corrupt, cannot be written, or another process writes to it.
    """

    def __init__(
        self,
        folder: Path,
        configuration: dict[str, Any],
        about: About = NOTHING,
        *,
        resume: bool = False,
        fresh: bool = False,
        grown: dict[str, Any] | None = None,
    ) -> None:
        self.folder, self._about = folder, about
        try:
            check_folder(folder, resume or fresh)
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = FolderLock(folder)
            try:
                self._open(json.loads(json.dumps(configuration)), fresh, grown)
            except BaseException:
                self._lock.release()
                raise
        except OSError as error:
            raise unwritable(folder, error) from error

    def _open(self, chosen: dict[str, Any], fresh: bool, grown: dict[str, Any] | None) -> None:
        here, gone = self.folder / RUN, [TABLE, SUMMARY] if grown else []
        if here.exists() and fresh:
            check_ours(here)
            gone = [LOG, TABLE, SUMMARY, EARLIER]  # never the record: a kill must not lose it
        elif here.exists():
            check_resumed(self.folder, grown or chosen)
        for name in gone:
            (self.folder / name).unlink(missing_ok=True)
        if grown and grown["n"] != chosen["n"]:
            AppendFile(self.folder / LOG).close()
            (self.folder / LOG).replace(self.folder / EARLIER)
        if fresh or grown or not here.exists():
            write_json(here, begun(chosen, self._about, self.folder if grown else None))
        self.done = {c.image_id: c for c in read_log(self.folder, repair=True)}
        self._log = AppendFile(self.folder / LOG)

    def append(self, *certificates: Certificate) -> None:
        """Write certificates; they are on disk when this returns, or none is if this raises."""
        lines = "".join(certificate.to_json() + "\n" for certificate in certificates)
        with self._stopping():
            self._log.append(lines.encode())
        self.done |= {certificate.image_id: certificate for certificate in certificates}

    def finish(self, summary: dict[str, Any]) -> None:
        """Put the log in the order of image ids and write the table and the summary; then close.

        If a file cannot be written, no certificate is lost.
        """
        ordered = [self.done[image_id] for image_id in sorted(self.done)]
        with self._stopping():
            self._log.close()
            write_whole(self.folder / LOG, "".join(c.to_json() + "\n" for c in ordered))
            write_whole(self.folder / TABLE, table(ordered))
            write_json(self.folder / SUMMARY, summary)
            (self.folder / EARLIER).unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Close the log and let other processes write; what was appended is on disk already."""
        with self._stopping(), closing(self._log):
            self._lock.release()

    @contextmanager
    def _stopping(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            hint = "; make room" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
            why = f"cannot be written ({error.strerror or error}); {self.reached}{hint}"
            raise StoppedError(f"{self.folder}: {why}") from error

    @property
    def reached(self) -> str:
        """How many certificates are on disk, in words; none once the log has been deleted."""
        kept = len(self.done) if (self.folder / LOG).exists() else 0
        gone = "" if kept == len(self.done) else ", because the log was deleted"
        return f"{kept} certificates are on disk{gone}"


def read_log(folder: str | Path, *, repair: bool = False, name: str = LOG) -> list[Certificate]:
    """Read the certificates of a run.

    Parameters
    ----------
    folder : str or Path
        Run folder.
    repair : bool
        Cut off a torn last line, as left by a kill in the middle of a write.

    Raises
    ------
    FileError
        If a complete line is not a valid certificate; the line is named.
    """
    path = at_home(folder, "folder") / name
    if not os.path.lexists(path):
        return []
    certificates, whole = dict[int, Certificate](), 0
    with open_plain(path) as file:
        for number, line in enumerate(whole_lines(path, file), 1):
            whole += len(line) + 1
            try:
                certificate = Certificate.from_json(line.decode())
            except ValueError as error:
                raise FileError(path, f"line {number} must be a certificate", error) from error
            if certificate.image_id in certificates:
                rule = f"line {number} must not repeat an image"
                raise FileError(path, rule, f"image {certificate.image_id}")
            certificates[certificate.image_id] = certificate
        torn = os.fstat(file.fileno()).st_size > whole
    if repair and torn:
        with closing(AppendFile(path)) as log:
            log.cut(whole)
    return list(certificates.values())
