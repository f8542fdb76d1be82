"""What a training run has reached, on disk: a state per network and a log of its metrics.

A state holds weights, optimizer and random source, so a run that is killed and resumed ends with
the same bytes on one kind of machine.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

from dualsmooth.engine.errors import FileError
from dualsmooth.engine.files import whole_file, write_json, write_whole
from dualsmooth.engine.json_file import read_json
from dualsmooth.engine.limits import LARGEST_TABLE, open_plain, plain_descriptor, read_plain

Used = TypeVar("Used")
RECIPE, METRICS, STATES = "recipe.json", "metrics.jsonl", "states"


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
            raise FileError(folder, "must be writable", error.strerror or error) from error

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
        received = f"{type(error).__name__}: {error}"
        return FileError(self._path(step), "must be a training state", received, "remove it")

    def save(self, step: str, state: dict[str, Any]) -> None:
        """Keep the state of a step; the file is either the old one or the new one."""
        path = self._path(step)
        if path is None:
            return
        with whole_file(path) as file:
            torch.save(state, file)

    def metric(self, step: str, epoch: int, **values: float) -> None:
        """Append one line to the metrics; call it before `save` of the same epoch."""
        if self.folder is None:
            return
        line = json.dumps({"step": step, "epoch": epoch, **values})
        with open(self.folder / METRICS, "ab", opener=plain_descriptor) as file:
            file.write(line.encode() + b"\n")

    def metrics(self) -> list[dict[str, Any]]:
        """All lines of the metrics, in the order in which they were written."""
        path = None if self.folder is None else self.folder / METRICS
        if path is None or not path.exists():
            return []
        return [json.loads(line) for line in read_plain(path, LARGEST_TABLE).splitlines()]

    def close(self) -> None:
        """Remove the states of a run that is done; recipe and metrics stay."""
        if self.folder is not None:
            shutil.rmtree(self.folder / STATES)

    def _path(self, step: str) -> Path | None:
        return None if self.folder is None else self.folder / STATES / f"{step}.pt"

    def _drop_metrics_without_state(self) -> None:
        assert self.folder is not None
        path = self.folder / METRICS
        if not path.exists():
            return
        kept, reached = [], {}
        for text in read_plain(path, LARGEST_TABLE).splitlines():
            try:
                line = json.loads(text)
                step, epoch = str(line["step"]), int(line["epoch"])
            except (ValueError, KeyError, TypeError, RecursionError):  # torn by the kill
                continue
            if step not in reached:
                reached[step] = self.restore(step, lambda state: int(state.get("epoch", 0))) or 0
            if epoch <= reached[step]:
                kept.append(text + b"\n")
        write_whole(path, b"".join(kept))


def _check(folder: Path, configuration: dict[str, Any], resume: bool) -> None:
    if not resume:
        hint = "add --resume, or remove it"
        raise FileError(folder, "holds a training run already", hint=hint)
    stored = read_json(folder / RECIPE)
    if not isinstance(stored, dict):
        raise FileError(folder / RECIPE, "must be the record of a training run", "another")
    if stored != configuration:
        changed = sorted(
            k for k in {*stored, *configuration} if stored.get(k) != configuration.get(k)
        )
        raise FileError(folder / RECIPE, "must be the same recipe to resume", ", ".join(changed))
