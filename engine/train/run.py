"""Training recipes by name, as `dualsmooth train RECIPE` runs them."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from dualsmooth.engine.checks import ascending, below, one_of
from dualsmooth.engine.data.image_set import ImageSet
from dualsmooth.engine.data.prepare import AS_STORED, Prepare
from dualsmooth.engine.data.splits import training_images
from dualsmooth.engine.errors import ArgumentError, FileError
from dualsmooth.engine.files import at_home, check_target
from dualsmooth.engine.models.bundle import SELECTOR, Bundle
from dualsmooth.engine.models.sources.folder import save_bundle
from dualsmooth.engine.records import sha256_of
from dualsmooth.engine.terminal.progress import progress_bar
from dualsmooth.engine.train import recipes
from dualsmooth.engine.train.checkpoints import RECIPE, Checkpoints
from dualsmooth.engine.train.classifier import CONSISTENCY, GAUSSIAN, SMOOTHMIX
from dualsmooth.engine.train.context import SMALL, TrainingContext
from dualsmooth.engine.train.insta import INSTA
from dualsmooth.engine.train.loop import one_thread
from dualsmooth.engine.train.overrides import with_overrides
from dualsmooth.engine.train.variational import VARIATIONAL


class Recipe(Protocol):
    """A frozen dataclass of everything that decides the weights, beside the images."""

    @property
    def name(self) -> str:
        """Name of the recipe and the bundle."""

    @property
    def seed(self) -> int:
        """Source of all randomness."""

    @property
    def sigmas(self) -> tuple[float, ...]:
        """Noise levels."""

    @property
    def steps(self) -> int:
        """Number of networks that are trained."""

    def make(self, context: TrainingContext) -> Bundle:
        """Train every network."""


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        *(GAUSSIAN, CONSISTENCY, SMOOTHMIX, INSTA, VARIATIONAL),
        *(recipes.DUAL, recipes.DUAL_PUBLISHED, recipes.CIFAR_DUAL),
        *(recipes.DIGITS_DUAL, recipes.FASHION_DUAL),
    )
}


def train(
    name: str,
    data: str,
    out: str | Path,
    *,
    seed: int = 0,
    options: Sequence[str] = (),
    max_images: int | None = None,
    prepare: Prepare = AS_STORED,
    device: str = "cpu",
    resume: bool = False,
    progress: bool = True,
) -> Bundle:
    """Run a recipe on the training split of a data set and write the bundle folder.

    Beside the folder, `OUT.train` keeps the recipe, the metrics of every epoch and, until the
    bundle is written, the state of every network. A SPEC without a split means the training split:
    a model that is to be certified must not have seen the test images. The same seed gives the same
    bytes on one kind of machine. `options` change fields of the recipe (`with_overrides`).
    """
    one_of("recipe", name, sorted(RECIPES))
    if device not in ("cpu", "cuda") or (device == "cuda" and not torch.cuda.is_available()):
        raise ArgumentError("device", "must be cpu, or cuda where PyTorch finds a device", device)
    recipe: Recipe = with_overrides(RECIPES[name], [f"seed={seed}", *options])
    out = at_home(out, "out")
    below("seed", recipe.seed, 1 << 53)  # before the work, not after it
    ascending("sigmas", recipe.sigmas)
    if resume and out.is_dir():
        raise FileError(out, "is written, nothing is left to do", hint="remove it to train anew")
    check_target(out)
    images = training_images(data, max_images, prepare)
    configuration = describe(recipe, images, device)
    checkpoints = Checkpoints(out.with_name(out.name + ".train"), configuration, resume=resume)
    bundle = run(recipe, images, checkpoints, device=device, progress=progress)
    save_bundle(bundle, out, {CARD: model_card(bundle, configuration, checkpoints).encode()})
    checkpoints.close()
    return bundle


def run(
    recipe: Recipe,
    images: ImageSet,
    checkpoints: Checkpoints | None = None,
    *,
    device: str = "cpu",
    progress: bool = False,
) -> Bundle:
    """Train a recipe on images in memory, on one thread of the processor."""
    with (
        one_thread(),
        progress_bar(show=progress, total=recipe.steps, unit="network", desc=recipe.name) as bar,
    ):

        def report(step: str) -> None:
            bar.set_postfix_str(step)
            bar.update()

        sizes, network = getattr(recipe, "sizes", None), getattr(recipe, "network", SMALL)
        kept = checkpoints or Checkpoints(None, {})
        context = TrainingContext(images, recipe.seed, sizes, report, kept, device, network)
        return dataclasses.replace(recipe.make(context), classes=images.names)


def describe(recipe: Recipe, images: ImageSet, device: str) -> dict[str, Any]:
    """Everything that decides the weights, for the record and for resuming."""
    assert dataclasses.is_dataclass(recipe)
    assert not isinstance(recipe, type)
    return {
        "recipe": dataclasses.asdict(recipe),
        "data": images.name,
        "images": len(images),
        "images_sha256": sha256_of(images.images.tobytes() + images.labels.tobytes()),
        "device": device,
        "torch": torch.__version__,
    } | ({"prepare": images.prepare.record} if images.prepare.record else {})


CARD = "MODEL_CARD.md"


def model_card(bundle: Bundle, configuration: dict[str, Any], checkpoints: Checkpoints) -> str:
    """Markdown for `MODEL_CARD.md` in the bundle folder; the configuration is from `describe`."""
    height, width, channels = bundle.input_shape
    recipe = configuration["recipe"]
    rows = {
        "data": f"{configuration['data']}, {configuration['images']:,} images, "
        f"SHA-256 {configuration['images_sha256'][:16]}",
        "recipe": f"`{recipe['name']}`, seed {recipe['seed']}; every value in `{RECIPE}` "
        "of the training folder",
        "noise levels": ", ".join(f"{sigma:g}" for sigma in bundle.sigmas),
        "selector": f"smoothed at {bundle.tau:g}" if SELECTOR in bundle.networks else "none",
        "trained with": f"PyTorch {configuration['torch']} on {configuration['device']}",
    }
    networks = "\n".join(
        f"* `{role}`: {network.architecture}, final training loss {_loss(checkpoints, role)}"
        for role, network in sorted(bundle.networks.items())
    )
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return (
        f"# {bundle.name}\n\nFor images of {height}x{width}x{channels} pixels in [0, 1], "
        f"{bundle.num_classes} classes.\n\n| | |\n|---|---|\n{table}\n\n{networks}\n\n"
        "Nothing has been certified with it yet: `dualsmooth certify` measures.\n"
    )


def _loss(checkpoints: Checkpoints, role: str) -> str:
    losses = [line.loss for line in checkpoints.metrics() if _deployed(line.step, role)]
    if not losses:
        return "not kept"
    return "not finite" if losses[-1] is None else f"{losses[-1]:.4f}"


def _deployed(step: str, role: str) -> bool:
    """Whether a step trained the network of that role, and not one that only labels a fold."""
    name, *rest = step.split("-")
    return name == role and not any(part.startswith("fold") for part in rest)
