"""Runs to report: run folders, and tables in Cohen et al.'s format."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from dualsmooth.engine.data.prepare import Prepare
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.files import at_home
from dualsmooth.engine.printable import printable
from dualsmooth.engine.report.cohen import read_table
from dualsmooth.engine.runs.log import LOG, SUMMARY
from dualsmooth.engine.runs.record import earlier_looks, joint_alpha, read_record
from dualsmooth.engine.runs.rederive import read_derived
from dualsmooth.engine.runs.run_checks import RUN
from dualsmooth.engine.runs.summary import RADII, Row, rows_of

EMPTY: Mapping[Path, str] = MappingProxyType({})


@dataclass(frozen=True)
class Run:
    """One run as a report sees it, with a row per image and what was odd about its files.

    The name, method and options or that of the table, is unique within a report. Configuration and
    machine are those of ``run.json``, empty for a table; ``written`` is the date of the file of
    certificates.
    """

    name: str
    path: Path
    rows: list[Row]
    configuration: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    machine: dict[str, Any] = field(default_factory=dict)
    written: str = ""
    origin: str = ""

    @cached_property
    def classes(self) -> list[str]:
        """Names of the classes by number, empty where there is none."""
        names = self.configuration.get("classes")
        return [printable(name) for name in names] if isinstance(names, list) else []

    def class_name(self, number: int | None) -> str:
        """The name of a class, or its number; empty for none."""
        if number is None:
            return ""
        known = number in range(len(self.classes)) and self.classes[number]
        return known or str(number)

    @property
    def conditions(self) -> str:
        """Votes, alpha and data, or that the file does not say."""
        known = self.configuration
        if not known:
            return self.origin or "votes and alpha not recorded in the file"
        prepared = f"; images {self.prepared}" if self.prepared else ""
        return (
            f"{self.votes}, alpha = {joint_alpha(known):g}, seed {known['seed']}, "
            f"{printable(known['precision'])}, data {printable(known['data'])}{prepared}"
        )

    @property
    def votes(self) -> str:
        """Votes per stage, and how often they were looked at."""
        known = self.configuration
        looks = len(earlier_looks(known))
        spent = f", {looks + 1} looks at more and more votes" if looks else ""
        radii = (
            f", radii {', '.join(f'{r:g}' for r in known['radii'])}" if known.get("radii") else ""
        )
        budget = f"{known['budget']} budget{radii}"
        return f"n0 = {known['n0']:,}, n = {known['n']:,} ({budget}){spent}"

    @property
    def prepared(self) -> str:
        """What was done with the images, if anything was."""
        try:
            done = str(Prepare.of(self.configuration.get("prepare", {})))
        except ArgumentError:
            done = "prepared in a way this version does not know"
        return f"{done}: what came out is what is certified" if done else ""


def read_run(path: str | Path) -> Run:
    """Read a run folder or a table.

    Raises
    ------
    FileError
        If it is neither, is corrupt, or holds a certificate that its votes do not give.
    """
    path, warnings = at_home(path), list[str]()
    if not path.is_dir():
        rows, warnings = read_table(path)
        return Run(printable(path.stem), path, rows, {}, warnings, written=_date(path))
    configuration, certificates = read_derived(path, warnings.append)
    name = certificates[0].method if certificates else path.name
    if len(certificates) < configuration["images"]:
        reached = f"{len(certificates)} of {configuration['images']} images"
        unfinished = f"{path / LOG}: the run is unfinished, {reached} (go on with --resume)"
        warnings.append(printable(unfinished))
    machine, written = (
        read_record(path / RUN)["machine"],
        _date(path / (LOG if certificates else RUN)),
    )
    rows = rows_of(certificates)
    return Run(printable(name), path, rows, configuration, warnings, machine, written)


def _date(path: Path) -> str:
    """Day of a file, in universal time."""
    return f"{np.datetime64(int(path.stat().st_mtime), 's').astype('datetime64[D]')} (of the file)"


def read_runs(paths: Sequence[Path], labels: Mapping[Path, str] = EMPTY) -> list[Run]:
    """Read several runs, also all those in a folder of runs.

    A label takes the place of a run's name; equal names get the folder of the run or table added.
    """
    runs = [read_run(path) for given in [*paths, *labels] for path in _runs_in(given)]
    runs = list({run.path.resolve(): run for run in runs}.values())
    named = {path.resolve(): printable(label) for path, label in labels.items()}
    runs = [replace(run, name=named.get(run.path.resolve(), run.name)) for run in runs]
    names = [run.name for run in runs]
    return [
        run if names.count(run.name) == 1 else replace(run, name=f"{run.name} ({_folder(run)})")
        for run in runs
    ]


def _runs_in(path: Path) -> list[Path]:
    """The run or table itself, or the runs in a folder and its folders, in the order of names.

    Files of a run that are no tables stand for it.
    """
    if path.name in (RUN, LOG, SUMMARY) and os.path.lexists(path.parent / RUN):
        path = path.parent
    if not path.is_dir() or os.path.lexists(path / RUN):
        return [path]
    return sorted(record.parent for record in path.rglob(RUN)) or [path]


def _folder(run: Run) -> str:
    path = run.path.resolve()
    return printable(path.name if path.is_dir() else path.parent.name)


def default_radii(runs: Sequence[Run]) -> tuple[float, ...]:
    """The grid of a ``decide`` run if there is one, else quarters up to 1.5."""
    grids = [run.configuration.get("radii") for run in runs]
    return next((tuple(grid) for grid in grids if grid), RADII)
