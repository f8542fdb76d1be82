"""``dualsmooth train``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from dualsmooth.engine.cli.images import ImageOptions, with_image_options
from dualsmooth.engine.printable import printable
from dualsmooth.engine.terminal.progress import step


@with_image_options("resize", "crop", "interpolation", "background")
def train(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE",
            help="gaussian, consistency, smoothmix, dual, dual-published, insta, variational, "
            "cifar-dual, or that of a bundled model: digits-dual, fashion-dual.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Bundle folder to write; OUT.train keeps the run.")],
    data: Annotated[
        str, typer.Option(help="Images to train on: the training split of SPEC.")
    ] = "digits",
    max_: Annotated[int | None, typer.Option("--max", help="Only the first MAX images.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of initial weights and batches.")] = 0,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="FIELD=VALUE of the recipe, for example classifying.epochs=5 or utility=acr (what "
            "a radius is worth to a selector); may be given several times.",
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in OUT.train.")
    ] = False,
    **options: Any,
) -> None:
    """Train the networks of a bundle.

    Examples:

    dualsmooth train dual --data idx:fashion_mnist --max 20000 --out my-dual

    dualsmooth train consistency --data digits --set 'sigmas=[0.25]' --set members=3 --out my-three
    """
    with step("loading PyTorch"):
        from dualsmooth.engine.train import run as recipes

    asked: dict[str, Any] = {"seed": seed, "device": device, "resume": resume}
    asked["prepare"] = ImageOptions.take(options).prepare()
    recipes.train(recipe, data, out, options=set_ or (), max_images=max_, **asked)
    typer.echo(f"{printable(out)}/bundle.json")
