"""``dualsmooth certify``."""

import json
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from dualsmooth.engine.backends import told
from dualsmooth.engine.budget import VOTES
from dualsmooth.engine.cli.help import whole_number
from dualsmooth.engine.cli.images import ImageOptions, with_image_options
from dualsmooth.engine.cli.options import (
    AlphaOption,
    BackendOption,
    BatchOption,
    BundleArgument,
    ClassesOption,
    DeviceOption,
    MaxOption,
    NoiseOption,
    PrecisionOption,
    RayOption,
    SeedOption,
    SkipOption,
    ThreadsOption,
    TrustOption,
    VerboseOption,
    WorkersOption,
    with_method_options,
)
from dualsmooth.engine.printable import printable


@with_method_options()
@with_image_options()
def certify(
    bundle: BundleArgument,
    data: Annotated[
        str | None,
        typer.Option(
            help="digits | idx:DIR | cifar10:DIR | npz:FILE | folder:DIR, each with an optional "
            ":train. An empty DIR is $DUALSMOOTH_DATA. Default: digits, for networks of its size."
        ),
    ] = None,
    classes: ClassesOption = None,
    trust_model: TrustOption = False,
    budget: Annotated[
        str,
        typer.Option(
            help="fixed (n votes per stage), decide (is the radius above each of --radii? stops "
            "as soon as that is settled) or precise (as few votes as should keep the radius "
            "within --tolerance of that of n votes)."
        ),
    ] = "fixed",
    radii: Annotated[
        str | None, typer.Option(help="Radii of --budget decide, increasing, for example 0.25,0.5.")
    ] = None,
    tolerance: Annotated[
        float | None, typer.Option(help="Share of the radius --budget precise may lose [0.05].")
    ] = None,
    n0: Annotated[
        int | None,
        typer.Option(
            parser=whole_number, help="Votes that choose class and noise level [100; precise: 500]."
        ),
    ] = None,
    n: Annotated[
        int,
        typer.Option(
            parser=whole_number,
            help="Fresh votes that enter the bounds; at most n unless --budget fixed.",
        ),
    ] = VOTES,
    alpha: AlphaOption = 0.001,
    skip: SkipOption = 1,
    max_: MaxOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    backend: BackendOption = "auto",
    noise: NoiseOption = "gaussian",
    batch_size: BatchOption = None,
    threads: ThreadsOption = None,
    slots: Annotated[
        int | None,
        typer.Option(help="Images in flight at once [16; decide: 128; insta with a memory: 1]."),
    ] = None,
    workers: WorkersOption = None,
    ray: RayOption = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder. Default: runs/BUNDLE-METHOD.")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on with the run in --out, or add images or votes to it."),
    ] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Replace the run in --out.")] = False,
    reuse: Annotated[
        list[Path] | None,
        typer.Option(
            help="Run on these images, or some, and this seed whose votes are read, not drawn; "
            "may be given several times."
        ),
    ] = None,
    json_: Annotated[
        bool, typer.Option("--json", help="Print the summary as JSON, not a table.")
    ] = False,
    verbose: VerboseOption = False,
    **options: Any,
) -> None:
    """Certify the images of a data set and write a run folder.

    Examples:

    dualsmooth certify digits-dual --out runs/digits

    dualsmooth certify digits-dual --data digits --n 100000 --budget decide --radii 0.25,0.5
    """
    from dualsmooth.engine.cli.options import budget_from_options
    from dualsmooth.engine.cli.report import terminal_width
    from dualsmooth.engine.data.class_names import read_classes
    from dualsmooth.engine.data.prepare import Prepare
    from dualsmooth.engine.data.spec import chosen_ids, load_images, named_or_digits
    from dualsmooth.engine.methods.registry import choose_method
    from dualsmooth.engine.report.text import text_table
    from dualsmooth.engine.runs.certify import certify_run
    from dualsmooth.engine.runs.record import read_configuration
    from dualsmooth.engine.runs.run_checks import RUN
    from dualsmooth.engine.settings import Settings

    votes = budget_from_options(budget, radii, tolerance, n0, n)
    about = ImageOptions.take(options)
    loaded = about.load(bundle, trust=trust_model)
    chosen = choose_method(loaded, **options)
    drawn = (alpha, seed, 0, device, precision, batch_size, threads, slots, backend, noise)
    settings = Settings(votes, *drawn)
    folder = out or Path("runs") / _file_name(f"{loaded.name}-{chosen.name}")
    order, prepare = read_classes(classes) if classes else None, about.prepare(loaded)
    if resume and (folder / RUN).exists():
        begun = read_configuration(folder)
        order = order or begun.get("classes")
        prepare = prepare if prepare.record else Prepare.of(begun.get("prepare", {}))
    shape = loaded.input_shape
    spec = named_or_digits("data", data, shape)
    ways: dict[str, Any] = {"known": loaded.classes, "most": max_, "prepare": prepare}
    images = load_images(spec, shape=shape, classes=order, **ways)
    ids = chosen_ids(images, skip, max_)
    summary, session = certify_run(
        chosen,
        images,
        ids,
        settings,
        folder,
        resume=resume,
        fresh=fresh,
        reuse=reuse or (),
        workers=workers,
        ray=ray,
    )
    for line in told(session.tried) if verbose else ():
        typer.echo(printable(line), err=True)
    if json_:
        typer.echo(json.dumps(summary.to_dict() | {"folder": str(folder)}, indent=1))
        return
    typer.echo(text_table([summary], terminal_width()))
    typer.echo(f"batches {session.occupancy.share:.1%} full")
    typer.echo(f"\n{printable(folder)}/certificates.jsonl, certificates.tsv, summary.json")


def _file_name(name: str) -> str:
    """A name as one folder: no other place, nothing hidden, no longer than a system allows."""
    name = name.replace("(", "-").replace(")", "").replace(", ", "-").replace(" ", "-")
    return re.sub(r"[^\w.,:+@=~-]", "-", name).lstrip(".-").encode()[:200].decode(errors="ignore")
