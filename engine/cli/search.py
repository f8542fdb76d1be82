"""``dualsmooth search``: noise levels of anchor images."""

from pathlib import Path
from typing import Annotated, Any

import typer

from dualsmooth.engine.cli.images import ImageOptions, with_image_options
from dualsmooth.engine.cli.options import TrustOption
from dualsmooth.engine.printable import printable


@with_image_options()
def search(
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE", help="As for certify.")],
    data: Annotated[
        str, typer.Option(help="SPEC of the anchors: not the images you certify, often :train.")
    ],
    out: Annotated[Path, typer.Option(help="File to write, for example anchors.npz.")],
    search: Annotated[
        str | None, typer.Option(help="multi-start, quasiconcave or grid (default for experts).")
    ] = None,
    skip: Annotated[int, typer.Option(help="Search for every SKIP-th image.")] = 1,
    max_: Annotated[int | None, typer.Option("--max", help="Only the first MAX images.")] = None,
    seed: Annotated[int, typer.Option(help="Noise seed.")] = 0,
    threads: Annotated[int | None, typer.Option(help="Default: one per core.")] = None,
    trust_model: TrustOption = False,
    **options: Any,
) -> None:
    """Search the best noise level of each anchor, for --method insta.

    Examples:

    dualsmooth search digits-dual --data digits:train --out anchors.npz

    dualsmooth certify digits-dual --data digits --method insta --anchors anchors.npz
    """
    from dualsmooth.engine.data.spec import choose_images, load_images
    from dualsmooth.engine.methods.search import make_search
    from dualsmooth.engine.runs.search import search_anchors
    from dualsmooth.engine.settings import Settings

    about = ImageOptions.take(options)
    loaded = about.load(bundle, trust=trust_model)
    ways: dict[str, Any] = {"most": max_, "prepare": about.prepare(loaded)}
    images = load_images(data, shape=loaded.input_shape, **ways)
    chosen = images.images[choose_images(len(images.labels), skip, max_)]
    settings = Settings(seed=seed, threads=threads)
    anchors = search_anchors(loaded, chosen, make_search(loaded, search), settings, out)
    for sigma, share in anchors.shares():
        typer.echo(f"sigma {sigma:g}: {share:.1%} of {len(chosen)} anchors")
    typer.echo(printable(out))
