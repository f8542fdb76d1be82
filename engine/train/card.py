"""The model card of a freshly trained bundle: facts only, no figures nobody measured."""

from typing import Any

from dualsmooth.engine.models.bundle import SELECTOR, Bundle
from dualsmooth.engine.train.journal import RECIPE, Journal

CARD = "MODEL_CARD.md"


def model_card(bundle: Bundle, configuration: dict[str, Any], journal: Journal) -> str:
    """Markdown for `MODEL_CARD.md` in the bundle folder.

    Parameters
    ----------
    bundle : Bundle
    configuration : dict
        As `recipes.describe` makes it.
    journal : Journal
        Of the finished run.
    """
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
        f"* `{role}`: {network.architecture}, final training loss {_loss(journal, role)}"
        for role, network in sorted(bundle.networks.items())
    )
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return (
        f"# {bundle.name}\n\nFor images of {height}x{width}x{channels} pixels in [0, 1], "
        f"{bundle.num_classes} classes.\n\n| | |\n|---|---|\n{table}\n\n{networks}\n\n"
        "Nothing has been certified with it yet: `dualsmooth certify` measures.\n"
    )


def _loss(journal: Journal, role: str) -> str:
    losses = [line["loss"] for line in journal.metrics() if _deployed(line["step"], role)]
    return f"{losses[-1]:.4f}" if losses else "not kept"


def _deployed(step: str, role: str) -> bool:
    """Whether a step trained the network of that role, and not one that only labels a fold."""
    name, *rest = step.split("-")
    return name == role and not any(part.startswith("fold") for part in rest)
