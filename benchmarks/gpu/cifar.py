"""CIFAR-10 on a device: train experts and a selector, then certify; see `__main__.py`.

``--data DIR`` is a folder with ``train*.npz`` and ``test*.npz`` (`cifar_files.py`). The folder
``--work`` keeps the state of every network after every epoch, and the finished bundle
``cifar-dual``; a second command goes on with what is there. What comes back beside the figures fits
through a narrow door: ``cifar_bundle.tar`` (weights in float16), or, if training was cut off,
``cifar_states.pt`` with the networks that were finished. Put either into the work folder and the
next command goes on with it.
"""

import json
import tarfile
import time
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from dualsmooth.benchmarks.gpu import cifar_files as cifar_data
from dualsmooth.benchmarks.gpu.certify import certify_dual, certify_fixed
from dualsmooth.benchmarks.gpu.checks import machine
from dualsmooth.benchmarks.gpu.cifar_files import pack, unpack
from dualsmooth.benchmarks.gpu.gate import require
from dualsmooth.benchmarks.gpu.items import Item, Place, Turn
from dualsmooth.engine import load_bundle
from dualsmooth.engine.data.image_set import ImageSet
from dualsmooth.engine.models.sources.folder import save_bundle
from dualsmooth.engine.train.checkpoints import Checkpoints
from dualsmooth.engine.train.context import TrainingContext
from dualsmooth.engine.train.dual import DualRecipe
from dualsmooth.engine.train.loop import Schedule, fit, noisy_log_softmax
from dualsmooth.engine.train.losses import soft_cross_entropy
from dualsmooth.engine.train.recipes import CIFAR_DUAL
from dualsmooth.engine.train.run import CARD, describe, model_card, run

TRAIN, BUNDLE, TAR, STATES = "train", "cifar-dual", "cifar_bundle.tar", "cifar_states.pt"
TRAINING_SECONDS = 290.0
MARGIN = 0.8
"""Of the time, for the epochs; states, radii and the start take the rest."""


@lru_cache
def images_of(place_tiny: bool, folder: str, split: str) -> tuple[ImageSet, list[int]]:
    """Images of a split, read once per process."""
    if place_tiny and not folder:
        return cifar_data.stand_in(60 if split == "train" else 6)
    return cifar_data.read(Path(folder), split)


def split_of(turn: Turn, split: str) -> tuple[ImageSet, list[int]]:
    """Images this pass was given."""
    return images_of(turn.place.tiny, turn.place.options.get("data", ""), split)


def read_data(turn: Turn) -> dict[str, Any]:
    """What was found; with a finished bundle, test images are enough."""
    work, found = turn.place.work, dict[str, Any]()
    _take_in(work)
    for split in ("test",) if (work / BUNDLE).exists() else ("train", "test"):
        data, _ = split_of(turn, split)
        found[split] = {"file": data.name, "images": len(data), "shape": str(data.shape)}
    return found


def recipe_of(place: Place) -> DualRecipe:
    """The recipe, for the network asked for."""
    if not place.tiny:
        return replace(CIFAR_DUAL, network=place.options.get("network") or CIFAR_DUAL.network)
    short = replace(CIFAR_DUAL.classifying, batch=16)
    return replace(
        CIFAR_DUAL,
        network="cifar_resnet20",
        classifying=short,
        selecting=replace(CIFAR_DUAL.selecting, batch=8, draws=2),
    )


def plan(turn: Turn) -> dict[str, Any]:
    """How many epochs fit: steps are timed, after a check of the arithmetic they use.

    A plan that is in the work folder stays: networks of one bundle have one schedule.
    """
    place, path = turn.place, turn.place.work / "plan.json"
    if (place.work / BUNDLE).exists():
        return {"nothing to train": "a finished bundle is there"}
    if path.exists():
        known: dict[str, Any] = json.loads(path.read_text())
        return known
    recipe, data = recipe_of(place), split_of(turn, TRAIN)[0]
    context = TrainingContext(data, device=place.device.type, network=recipe.network)
    error = _check_arithmetic(context)
    seconds = _step_seconds(context, recipe.classifying, place)
    share = recipe.labelling.held_out
    steps = 3 * (1 - share) * len(data) / recipe.classifying.batch
    steps += share * len(data) / recipe.selecting.batch / 3
    epochs = max(1, min(200, int(MARGIN * TRAINING_SECONDS / (steps * seconds))))
    if place.tiny:
        epochs = 6
    found = {
        "epochs": epochs,
        "selector epochs": max(1, epochs // 3),
        "step_s": seconds,
        "bf16 error": error,
        "network": recipe.network,
    }
    path.write_text(json.dumps(found))
    return found


def _check_arithmetic(context: TrainingContext) -> float:
    """Relative error of bf16 autocast's logits; a fresh network, so nothing has grown."""
    module = context.new(context.classes, context.source(9, 0)).eval()
    images, kind = context.images[:64], context.images.device.type
    with torch.no_grad():
        truth = module(images)
        with torch.autocast(kind, torch.bfloat16):
            rounded = module(images).float()
    error = float((rounded - truth).norm() / truth.norm())
    return require("relative error of bf16 logits", error, 0.1)


def _step_seconds(context: TrainingContext, schedule: Schedule, place: Place) -> float:
    """Time of one training step, from one and from several steps of the real loop."""
    times = []
    targets = torch.nn.functional.one_hot(context.labels, context.classes).float()
    for steps in (3, 3, 23) if not place.tiny else (1, 1, 2):
        source = context.source(9, 1)
        module = context.new(context.classes, source)

        def objective(clean: Any, chosen: Any, module: Any = module, source: Any = source) -> Any:
            logs = noisy_log_softmax(module, clean, 0.25, schedule.draws, source)
            return soft_cross_entropy(logs, targets[chosen])

        some = context.images[: steps * schedule.batch]
        place.synchronize()
        start = time.perf_counter()
        fit(module, some, objective, replace(schedule, epochs=1), source)
        place.synchronize()
        times.append((time.perf_counter() - start, max(1, len(some) // schedule.batch)))
    (short, few), (long, many) = times[1:]
    return (long - short) / (many - few) if many > few and long > short else long / many


def train(turn: Turn) -> dict[str, Any]:
    """Train, or go on with what the work folder holds."""
    place, folder = turn.place, turn.place.work / BUNDLE
    taken = 0.0
    if not folder.exists():
        chosen, recipe = plan(turn), recipe_of(place)
        recipe = replace(
            recipe,
            classifying=replace(recipe.classifying, epochs=chosen["epochs"]),
            selecting=replace(recipe.selecting, epochs=chosen["selector epochs"]),
        )
        data = split_of(turn, TRAIN)[0]
        configuration = describe(recipe, data, place.device.type)
        checkpoints = Checkpoints(place.work / f"{BUNDLE}.train", configuration, resume=True)
        start = time.perf_counter()
        bundle = run(recipe, data, checkpoints, device=place.device.type)
        save_bundle(bundle, folder, {CARD: model_card(bundle, configuration, checkpoints).encode()})
        taken = time.perf_counter() - start
    with tarfile.open(Path(place.options["out"]) / TAR, "w") as file:
        file.add(folder, BUNDLE)
    metrics = place.work / f"{BUNDLE}.train" / "metrics.jsonl"
    lines = metrics.read_text().splitlines() if metrics.exists() else []
    last = {line["step"]: line for line in map(json.loads, lines)}
    return {"digest": load_bundle(folder).digest, "seconds in this pass": taken} | {
        name: {"epochs": line["epoch"], "loss": line.get("loss")} for name, line in last.items()
    }


def _take_in(work: Path) -> None:
    """Unpack what an earlier command brought back."""
    if (work / TAR).exists() and not (work / BUNDLE).exists():
        with tarfile.open(work / TAR) as file:
            file.extractall(work, filter="data")
    if (work / STATES).exists() and not (work / f"{BUNDLE}.train").exists():
        unpack(work / STATES, work)


def save_states(turn: Turn) -> dict[str, Any]:
    """Finished networks of a training that did not end, for another command."""
    place = turn.place
    names, size = pack(place.work, f"{BUNDLE}.train", Path(place.options["out"]) / STATES)
    return {"networks": ", ".join(names), "bytes": size}


def certified(fixed: bool, turn: Turn) -> dict[str, Any]:
    """Test images with the trained bundle."""
    bundle = load_bundle(turn.place.work / BUNDLE)
    data, ids = split_of(turn, "test")
    return (certify_fixed if fixed else certify_dual)(bundle, data, ids, turn)


def items(place: Place) -> list[Item]:
    """Data, schedule, training, certificates."""
    return [
        Item("machine", machine),
        Item("data", read_data),
        Item("schedule", plan, ("data",)),
        Item(TRAIN, train, ("data", "schedule"), limit=TRAINING_SECONDS + 40),
        Item("states", save_states, ("data",), unless=TRAIN),
        Item("certified", lambda turn: certified(False, turn), (TRAIN,), limit=125),
        Item("certified, fixed sigma", lambda turn: certified(True, turn), (TRAIN,), limit=90),
    ]
