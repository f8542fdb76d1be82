"""What a training run has reached, on disk: a state per network and a log of its metrics.

A state holds weights, optimizer and random source, so a run that is killed and resumed ends with
the same bytes on one kind of machine.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

import torch

from dualsmooth.engine.checks import positive_integer
from dualsmooth.engine.errors import FileError, reason_of
from dualsmooth.engine.files import unwritable, write_json, write_whole
from dualsmooth.engine.json_file import parse_json, read_json
from dualsmooth.engine.limits import LARGEST_TABLE, open_plain, plain_descriptor, read_plain
from dualsmooth.engine.records import typed_record, unlike

Used = TypeVar("Used")
RECIPE, METRICS, STATES = "recipe.json", "metrics.jsonl", "states"
_STEP = re.compile(r"\w[\w@.-]{0,99}")


@dataclass(frozen=True)
class Metric:
    """One line of the metrics: a step's mean loss in an epoch, None if it was not finite."""

    step: str
    epoch: int
    loss: float | None

    def __post_init__(self) -> None:
        if not _STEP.fullmatch(self.step):
            raise ValueError(f"step must be the name of a step: {self.step[:80]!r}")
        positive_integer("epoch", self.epoch)


class Checkpoints:
    """States and metrics of one training run, in a folder or (None) nowhere.

    The configuration is everything that decides the weights: it must be equal on resume.
    """

    def __init__(
        self, folder: Path | None, configuration: dict[str, Any], *, resume: bool = False
    ) -> None:
        self.folder = folder
        if folder is None:
            return
        configuration = json.loads(json.dumps(configuration))
        try:
            if (folder / RECIPE).exists():
                _check(folder, configuration, resume)
            elif folder.exists():
                raise FileError(folder, "must be the folder of a training run, or new", "another")
            (folder / STATES).mkdir(parents=True, exist_ok=True)
            if (folder / STATES).is_symlink():
                raise FileError(folder / STATES, "must be a folder", "a symbolic link")
            write_json(folder / RECIPE, configuration)
            self._drop_metrics_without_state()
        except OSError as error:
            raise unwritable(folder, error) from error

    def load(self, step: str) -> dict[str, Any] | None:
        """State a step reached, None if it has not begun."""
        path = self._path(step)
        if path is None or not path.exists():
            return None
        try:
            with open_plain(path) as file:
                state: dict[str, Any] = torch.load(file, weights_only=True)
            if not isinstance(state, dict):
                raise TypeError(type(state).__name__)
        except FileError:
            raise
        except Exception as error:  # the reader's errors have no common base
            raise self._bad_state(step, error) from error
        return state

    def restore(self, step: str, use: Callable[[dict[str, Any]], Used]) -> Used | None:
        """What `use` makes of the state a step reached, None if it has not begun."""
        state = self.load(step)
        if state is None:
            return None
        try:
            return use(state)
        except Exception as error:  # nor have those of a module that is given other weights
            raise self._bad_state(step, error) from error

    def _bad_state(self, step: str, error: Exception) -> FileError:
        received = reason_of(error)
        return FileError(self._path(step), "must be a training state", received, "remove it")

    def save(self, step: str, state: dict[str, Any]) -> None:
        """Keep the state of a step; the file is either the old one or the new one."""
        path = self._path(step)
        if path is None:
            return
        made = BytesIO()
        torch.save(state, made)  # into a full disk it would raise errors of its own
        write_whole(path, made.getvalue())

    def metric(self, metric: Metric) -> None:
        """Append one line to the metrics; call it before `save` of the same epoch."""
        if self.folder is None:
            return
        line = json.dumps(asdict(metric), allow_nan=False)
        with open(self.folder / METRICS, "ab", opener=plain_descriptor) as file:
            file.write(line.encode() + b"\n")

    def metrics(self) -> list[Metric]:
        """All lines of the metrics, in the order in which they were written."""
        return [] if self.folder is None else [metric for _, metric in _lines(self.folder)]

    def close(self) -> None:
        """Remove the states of a run that is done; recipe and metrics stay."""
        if self.folder is not None:
            shutil.rmtree(self.folder / STATES)

    def _path(self, step: str) -> Path | None:
        return None if self.folder is None else self.folder / STATES / f"{step}.pt"

    def _drop_metrics_without_state(self) -> None:
        assert self.folder is not None
        kept, reached = [], dict[str, int]()
        for line, metric in _lines(self.folder):
            step = metric.step
            if step not in reached:
                reached[step] = self.restore(step, lambda state: int(state.get("epoch", 0))) or 0
            if metric.epoch <= reached[step]:
                kept.append(line + b"\n")
        if os.path.lexists(self.folder / METRICS):
            write_whole(self.folder / METRICS, b"".join(kept))


def _lines(folder: Path) -> Iterator[tuple[bytes, Metric]]:
    """Whole lines of the metrics; FileError if one is none."""
    path = folder / METRICS
    if not os.path.lexists(path):
        return
    for number, line in enumerate(read_plain(path, LARGEST_TABLE).split(b"\n")[:-1], 1):
        try:
            yield line, typed_record(Metric, parse_json(line))
        except ValueError as error:
            raise FileError(path, f"line {number} must be a metric", error) from error


def _check(folder: Path, configuration: dict[str, Any], resume: bool) -> None:
    if not resume:
        hint = "add --resume, or remove it"
        raise FileError(folder, "holds a training run already", hint=hint)
    stored = read_json(folder / RECIPE)
    if not isinstance(stored, dict):
        raise FileError(folder / RECIPE, "must be the record of a training run", "another")
    if configuration.get("images_sha256", "") == stored.get("images_sha256"):
        configuration = configuration | {"data": stored.get("data")}  # by whatever path
    if stored != configuration:
        before, now = dict(_leaves(stored)), dict(_leaves(configuration))
        keys = unlike(before, now)[:4]
        changed = "; ".join(f"{key} {before.get(key)} -> {now.get(key)}" for key in keys)
        raise FileError(folder / RECIPE, "must be the same recipe to resume", changed)


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The values in a record by their paths, such as ``recipe.schedule.epochs``."""
    if not isinstance(value, dict | list) or not value:
        yield path.removeprefix("."), value
        return
    for key, part in value.items() if isinstance(value, dict) else enumerate(value):
        yield from _leaves(part, f"{path}.{key}")
