"""``dualsmooth frontier``: what each operating point of a bundle certifies."""

from pathlib import Path
from typing import Annotated, Any

import typer

from dualsmooth.engine.cli.help import whole_number
from dualsmooth.engine.cli.images import ImageOptions, with_image_options
from dualsmooth.engine.cli.options import (
    AlphaOption,
    BatchOption,
    BundleArgument,
    DeviceOption,
    MaxOption,
    PrecisionOption,
    SeedOption,
    SkipOption,
    ThreadsOption,
)
from dualsmooth.engine.printable import printable


@with_image_options()
def frontier(
    bundle: BundleArgument,
    data: Annotated[str, typer.Option(help="SPEC of the images, as for certify.")],
    out: Annotated[Path, typer.Option(help="Folder for runs and files; goes on where it was.")],
    runner_up: Annotated[
        bool, typer.Option("--runner-up", help="Bound the classifiers' strongest rival too.")
    ] = False,
    n0: Annotated[
        int, typer.Option(parser=whole_number, help="Votes that choose class and noise level.")
    ] = 100,
    n: Annotated[
        int, typer.Option(parser=whole_number, help="Fresh votes that enter the bounds.")
    ] = 10_000,
    alpha: AlphaOption = 0.001,
    skip: SkipOption = 1,
    max_: MaxOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    batch_size: BatchOption = None,
    threads: ThreadsOption = None,
    **options: Any,
) -> None:
    """Draw certified accuracy at every operating point beside every fixed level and the oracle.

    Every point is certified from the same votes. To choose a point by what this shows is
    exploration: certify at it, with --prefer, with another --seed or other images.

    Examples:

    dualsmooth frontier fashion-dual --data idx:DIR --skip 100 --runner-up --out frontier
    """
    from dualsmooth.engine.budget import Budget
    from dualsmooth.engine.data.spec import chosen_ids, load_images
    from dualsmooth.engine.files import check_own
    from dualsmooth.engine.machine import machine
    from dualsmooth.engine.report.compare import against_best_fixed
    from dualsmooth.engine.report.drawing import require_matplotlib
    from dualsmooth.engine.report.frontier import EXPLORATION, write_frontier
    from dualsmooth.engine.report.text import text_table
    from dualsmooth.engine.runs.frontier import frontier as draw
    from dualsmooth.engine.runs.frontier import summaries
    from dualsmooth.engine.settings import Settings

    require_matplotlib()
    check_own(out, "frontier.*", "fixed-[0-9]*")
    taken = ImageOptions.take(options)
    loaded = taken.load(bundle, trust=False)
    ways: dict[str, Any] = {"most": max_, "prepare": taken.prepare(loaded)}
    images = load_images(data, shape=loaded.input_shape, **ways)
    ids = chosen_ids(images, skip, max_)
    drawn = (alpha, seed, 0, device, precision, batch_size, threads)
    settings = Settings(Budget.fixed(n0, n), *drawn)
    found = summaries(draw(loaded, images, ids, settings, out, runner_up=runner_up))
    about: dict[str, Any] = {"bundle": loaded.name, "digest": loaded.digest, "data": images.name}
    about |= {"images": len(ids), "skip": skip, "n0": n0, "n": n, "alpha": alpha, "seed": seed}
    about |= {"runner_up": runner_up, "exploration": EXPLORATION, "machine": machine()}
    written = write_frontier(found, about, out)
    named = [s for s in found if s.name.split(", ")[-1].strip("+-.0123456789")]
    typer.echo(text_table(named, gaps=against_best_fixed(named)))
    typer.echo(f"\n{EXPLORATION}\n{printable(out)}/{', '.join(written)}")
