"""Run folders: a durable log of certificates that survives kills, and the files made from it.

A certificate is on disk (one checksummed JSON line, fsync) before anything counts it. While a run
goes on, lines stand in the order in which images were decided; a finished run has them in the order
of image ids, so equal runs have equal files.
"""

import json
import os
import platform
from collections.abc import Iterable
from decimal import ROUND_DOWN, Decimal
from importlib import metadata
from pathlib import Path
from typing import IO, Any

from dualsmooth.engine.certificate import ABSTAIN, Certificate
from dualsmooth.engine.errors import FileError

FORMAT = 1
LOG, RUN, TABLE, SUMMARY = "certificates.jsonl", "run.json", "certificates.tsv", "summary.json"
COLUMNS = ("idx", "label", "predict", "radius", "correct", "time")
RADIUS_DIGITS = Decimal("0.000001")


class RunLog:
    """The certificates of one run, on disk.

    Parameters
    ----------
    folder : Path
        Run folder; made if it does not exist.
    configuration : dict
        Everything that decides the certificates; must be equal on resume.
    resume, fresh : bool
        What to do with an existing run: go on with it, or replace it.

    Raises
    ------
    FileError
        If the folder holds something else, holds a run and neither option is given, holds a run
        with another configuration, is corrupt, or cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        configuration: dict[str, Any],
        *,
        resume: bool = False,
        fresh: bool = False,
    ) -> None:
        self.folder = folder
        configuration = json.loads(json.dumps(configuration))
        exists = (folder / RUN).exists()
        if not exists and folder.exists() and not _is_empty(folder):
            raise FileError(folder, "must be a run folder, empty or new", "other files in it")
        if exists and not (resume or fresh):
            raise FileError(folder, "holds a run already", hint="add --resume or --fresh")
        try:
            if exists and fresh:
                _remove_run(folder)
            elif exists:
                _check_configuration(folder, configuration)
            folder.mkdir(parents=True, exist_ok=True)
            self.done = {c.image_id: c for c in read_log(folder, repair=True)}
            if not (folder / RUN).exists():
                write_json(folder / RUN, {"format": FORMAT, "configuration": configuration,
                                          "machine": machine()})  # fmt: skip
            self._log: IO[str] = (folder / LOG).open("a", encoding="utf-8")
        except OSError as error:
            raise FileError(folder, "must be writable", error.strerror or error) from error

    def append(self, certificate: Certificate) -> None:
        """Write a certificate; when this returns it is on disk."""
        self._log.write(certificate.to_json() + "\n")
        self._log.flush()
        os.fsync(self._log.fileno())
        self.done[certificate.image_id] = certificate

    def finish(self, summary: dict[str, Any]) -> None:
        """Put the log in the order of image ids and write the table and the summary."""
        self.close()
        ordered = [self.done[image_id] for image_id in sorted(self.done)]
        _write(self.folder / LOG, "".join(c.to_json() + "\n" for c in ordered))
        _write(self.folder / TABLE, table(ordered))
        write_json(self.folder / SUMMARY, summary)

    def close(self) -> None:
        """Close the log; everything appended is on disk already."""
        self._log.close()


def read_log(folder: Path, *, repair: bool = False) -> list[Certificate]:
    """Read the certificates of a run.

    Parameters
    ----------
    folder : Path
        Run folder.
    repair : bool
        Cut off a torn last line, as left by a kill in the middle of a write.

    Raises
    ------
    FileError
        If a complete line is not a valid certificate; the line is named.
    """
    path = folder / LOG
    if not path.exists():
        return []
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if repair and len(whole) < len(data):
        os.truncate(path, len(whole))
    certificates = []
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            certificates.append(Certificate.from_json(line.decode()))
        except (ValueError, TypeError, KeyError) as error:
            raise FileError(path, f"line {number} must be a valid certificate", error) from error
    return certificates


def read_configuration(folder: Path) -> dict[str, Any]:
    """The configuration in a run's ``run.json``.

    Raises
    ------
    FileError
        If the folder holds no run, or a damaged one.
    """
    path = folder / RUN
    try:
        configuration = json.loads(path.read_text(encoding="utf-8"))["configuration"]
    except OSError as error:
        raise FileError(path, "must be readable", error.strerror or error) from error
    except (ValueError, KeyError, TypeError) as error:
        raise FileError(path, "must be the JSON record of a run", error) from error
    if not isinstance(configuration, dict):
        raise FileError(path, "must be the JSON record of a run", configuration)
    return configuration


def table(certificates: Iterable[Certificate]) -> str:
    """Cohen et al.'s tab-separated columns; predict -1 is abstain, radii are rounded down."""
    lines = ["\t".join(COLUMNS)]
    for c in certificates:
        label = "" if c.label is None else str(c.label)
        predicted = ABSTAIN if c.predicted is None else c.predicted
        fields = (c.image_id, label, predicted, radius_text(c.radius), int(c.correct), c.seconds)
        lines.append("\t".join(f"{f:.6f}" if isinstance(f, float) else str(f) for f in fields))
    return "\n".join(lines) + "\n"


def radius_text(radius: float) -> str:
    """Six decimals, rounded down."""
    return str(Decimal(radius).quantize(RADIUS_DIGITS, rounding=ROUND_DOWN))


def machine() -> dict[str, Any]:
    """Versions and hardware, for the record; they do not decide certificates."""
    packages = ("dualsmooth", "torch", "numpy", "scipy")
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "versions": {name: metadata.version(name) for name in packages},
    }


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write JSON so that the file is either the old one or the new one, never half of it."""
    _write(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".part")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _check_configuration(folder: Path, configuration: dict[str, Any]) -> None:
    stored = read_configuration(folder)
    changed = [
        f"{key} {stored.get(key)!r} -> {configuration.get(key)!r}"
        for key in sorted({*stored, *configuration})
        if stored.get(key) != configuration.get(key)
    ]
    if changed:
        raise FileError(
            folder / RUN, "must have the same configuration to resume", "; ".join(changed),
            "use --fresh or another --out",
        )  # fmt: skip


def _is_empty(folder: Path) -> bool:
    try:
        return folder.is_dir() and not any(folder.iterdir())
    except OSError as error:
        raise FileError(folder, "must be readable", error.strerror or error) from error


def _remove_run(folder: Path) -> None:
    """Delete the files of a run and nothing else."""
    for name in (LOG, TABLE, SUMMARY, RUN):
        (folder / name).unlink(missing_ok=True)
