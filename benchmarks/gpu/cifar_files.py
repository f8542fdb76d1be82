"""CIFAR-10 images for a device pass: npz files of one folder."""

import io
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from dualsmooth.engine.data.cifar10 import CLASSES
from dualsmooth.engine.data.image_set import ImageSet
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.train.checkpoints import METRICS, RECIPE
from dualsmooth.engine.train.checkpoints import STATES as FOLDER


def read(folder: Path, split: str) -> tuple[ImageSet, list[int]]:
    """Images of the first file ``SPLIT*.npz`` of a folder, and their ids.

    A file holds ``x`` (uint8, n x 32 x 32 x 3) and ``y``, or JPEG images for training: ``jpeg``
    (all files joined), ``offsets`` (n + 1) and ``labels``. Ids are ``index``, or 0, 1, ...
    """
    paths = sorted(folder.glob(f"{split}*.npz"))
    if not paths:
        raise ArgumentError("data", f"must be a folder with {split}*.npz", str(folder))
    with np.load(paths[0], allow_pickle=False) as file:
        if "jpeg" in file:
            joined, offsets = file["jpeg"].tobytes(), file["offsets"].tolist()
            pairs = pairwise(offsets)
            images = np.stack([_decoded(joined[first:last]) for first, last in pairs])
            labels = file["labels"].astype(np.int64)
        else:
            images, labels = file["x"], file["y"].astype(np.int64)
        ids = file["index"].tolist() if "index" in file else list(range(len(labels)))
    return ImageSet(images, labels, f"npz:{paths[0].name}", CLASSES), [int(i) for i in ids]


def _decoded(data: bytes) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"), np.uint8)


def stand_in(count: int, side: int = 8) -> tuple[ImageSet, list[int]]:
    """Images of two classes, dark and bright, for a rehearsal."""
    labels = np.arange(count, dtype=np.int64) % 2
    rng = np.random.default_rng(count)
    images = rng.integers(0, 64, (count, side, side, 3)) + 190 * labels[:, None, None, None]
    return ImageSet(images.astype(np.uint8), labels, "stand-in", CLASSES), list(range(count))


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
    texts = {
        file: (folder / file).read_text() for file in (RECIPE, METRICS) if (folder / file).exists()
    }
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
