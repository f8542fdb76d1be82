"""What a training run has reached, on disk: a state per network and a log of its metrics.

A state holds weights, optimizer and random source, so a run that is killed and resumed ends with
the same bytes on one kind of machine.
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

from dualsmooth.engine.errors import FileError
from dualsmooth.engine.files import write_json

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
            state: dict[str, Any] = torch.load(path, weights_only=True)
            if not isinstance(state, dict):
                raise TypeError(type(state).__name__)
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
        part = path.with_suffix(".part")
        with part.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)

    def metric(self, step: str, epoch: int, **values: float) -> None:
        """Append one line to the metrics; call it before `save` of the same epoch."""
        if self.folder is None:
            return
        line = json.dumps({"step": step, "epoch": epoch, **values})
        with (self.folder / METRICS).open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """All lines of the metrics, in the order in which they were written."""
        path = None if self.folder is None else self.folder / METRICS
        if path is None or not path.exists():
            return []
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

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
        for text in path.read_text(encoding="utf-8").splitlines():
            try:
                line = json.loads(text)
                step, epoch = str(line["step"]), int(line["epoch"])
            except (ValueError, KeyError, TypeError, RecursionError):  # torn by the kill
                continue
            if step not in reached:
                reached[step] = self.restore(step, lambda state: int(state.get("epoch", 0))) or 0
            if epoch <= reached[step]:
                kept.append(text + "\n")
        path.write_text("".join(kept), encoding="utf-8")


def _check(folder: Path, configuration: dict[str, Any], resume: bool) -> None:
    if not resume:
        hint = "add --resume, or remove it"
        raise FileError(folder, "holds a training run already", hint=hint)
    try:
        stored = json.loads((folder / RECIPE).read_text(encoding="utf-8"))
        if not isinstance(stored, dict):
            raise ValueError(f"{type(stored).__name__}, not an object")
    except (ValueError, RecursionError) as error:
        raise FileError(folder / RECIPE, "must be a JSON file", error) from error
    if stored != configuration:
        changed = sorted(
            k for k in {*stored, *configuration} if stored.get(k) != configuration.get(k)
        )
        raise FileError(folder / RECIPE, "must be the same recipe to resume", ", ".join(changed))
