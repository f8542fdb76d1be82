"""Finished networks of a training run in one small file.

Weights are rounded to float16. The recipe rounds the finished bundle the same way, so its experts
keep their bytes; only the radii that a selector is taught with may move, within rounding.
"""

import os
from pathlib import Path
from typing import Any

import torch

from dualsmooth.engine.train.journal import METRICS, RECIPE
from dualsmooth.engine.train.journal import STATES as FOLDER


def pack(work: Path, name: str, target: Path) -> tuple[list[str], int]:
    """Write the recipe, the metrics and every finished state of a run; names, and bytes written.

    A network that is still in training has an optimizer in its state, and is left out.
    """
    folder, states = work / name, dict[str, Any]()
    for path in sorted((folder / FOLDER).glob("*.pt")):
        state = torch.load(path, weights_only=True, map_location="cpu")
        if "optimizer" in state:
            continue
        if "module" in state:
            state["module"] = {key: _rounded(value) for key, value in state["module"].items()}
        states[path.stem] = state
    texts = {file: (folder / file).read_text() for file in (RECIPE, METRICS)
             if (folder / file).exists()}  # fmt: skip
    kept = {"name": name, "states": states, "texts": texts}
    if (work / "plan.json").exists():
        kept["plan"] = (work / "plan.json").read_text()
    part = target.with_suffix(".part")
    torch.save(kept, part)
    os.replace(part, target)
    return sorted(states), target.stat().st_size


def _rounded(value: torch.Tensor) -> torch.Tensor:
    return value.half() if value.is_floating_point() else value


def unpack(source: Path, work: Path) -> None:
    """Make the run's folder again."""
    kept = torch.load(source, weights_only=True)
    folder = work / kept["name"]
    (folder / FOLDER).mkdir(parents=True)
    for name, state in kept["states"].items():
        torch.save(state, folder / FOLDER / f"{name}.pt")
    for file, text in kept["texts"].items():
        (folder / file).write_text(text)
    if "plan" in kept:
        (work / "plan.json").write_text(kept["plan"])
