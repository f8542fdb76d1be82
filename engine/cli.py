"""The ``dualsmooth`` command."""

import json
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from dualsmooth.engine import cli_audit, cli_cluster, cli_parquet
from dualsmooth.engine.cli_options import (
    AnchorsOption,
    MemoryOption,
    MethodOption,
    NeighboursOption,
    OffsetOption,
    RateOption,
    ReferencesOption,
    RegionOption,
    RoutingOption,
    RuleOption,
    RunnerUpOption,
    SearchOption,
    SigmaOption,
    SplitOption,
    TargetOption,
    ThresholdOption,
    method_options,
)
from dualsmooth.engine.cli_report import report
from dualsmooth.engine.cli_search import search as search_command
from dualsmooth.engine.errors import DualSmoothError, StoppedError
from dualsmooth.export.command import export

INTERRUPTED = 130

app = typer.Typer(
    name="dualsmooth",
    help="Certify classifiers by randomized smoothing with input-dependent noise.",
    pretty_exceptions_enable=False,
    add_completion=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command()(export)

BundleArgument = Annotated[
    str,
    typer.Argument(
        metavar="BUNDLE",
        help="Bundle folder, name of a bundled one (digits-dual), a checkpoint of "
        "Cohen et al.'s code (*.pth.tar), or an exported classifier (*.onnx, *.pt2).",
    ),
]
SeedOption = Annotated[int, typer.Option(help="Noise seed, fixed before looking at results.")]
ThreadsOption = Annotated[
    int | None, typer.Option(help="Batches in work at once. Default: one per core.")
]
NoiseOption = Annotated[
    str,
    typer.Option(
        help="gaussian, or integer: exact noise without floating point, for images on the 1/255 "
        "grid."
    ),
]
BatchOption = Annotated[
    int | None,
    typer.Option(help="Rows per forward pass; part of what is certified. Default: by image size."),
]


@app.command()
def certify(
    context: typer.Context,
    bundle: BundleArgument,
    data: Annotated[
        str,
        typer.Option(
            help="digits | idx:DIR | cifar10:DIR | npz:FILE | folder:DIR, each with an "
            "optional :train. An empty DIR is $DUALSMOOTH_DATA."
        ),
    ],
    method: MethodOption = None,
    sigma: SigmaOption = None,
    selector_rule: RuleOption = None,
    routing: RoutingOption = None,
    published_split: SplitOption = False,
    runner_up: RunnerUpOption = False,
    target_sigma: TargetOption = None,
    threshold: ThresholdOption = None,
    region: RegionOption = None,
    anchors: AnchorsOption = None,
    memory: MemoryOption = None,
    search: SearchOption = None,
    references: ReferencesOption = None,
    rate: RateOption = None,
    offset: OffsetOption = None,
    neighbours: NeighboursOption = None,
    budget: Annotated[
        str,
        typer.Option(
            help="fixed (n votes per stage), decide (is the radius above each of --radii? stops "
            "as soon as that is settled) or precise (as few votes as should keep the radius "
            "within --tolerance of that of n votes)."
        ),
    ] = "fixed",
    radii: Annotated[
        str | None,
        typer.Option(help="Radii of --budget decide, increasing, for example 0.25,0.5."),
    ] = None,
    tolerance: Annotated[
        float | None, typer.Option(help="Share of the radius --budget precise may lose [0.05].")
    ] = None,
    n0: Annotated[
        int | None,
        typer.Option(help="Votes that choose class and noise level [100; precise: 500]."),
    ] = None,
    n: Annotated[
        int,
        typer.Option(help="Fresh votes that enter the bounds; at most n unless --budget fixed."),
    ] = 10_000,
    alpha: Annotated[float, typer.Option(help="Failure probability per image.")] = 0.001,
    skip: Annotated[int, typer.Option(help="Certify every SKIP-th image.")] = 1,
    max_: Annotated[int | None, typer.Option("--max", help="Only among the first MAX.")] = None,
    seed: SeedOption = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, fp32 or bf16.")] = "auto",
    backend: Annotated[
        str, typer.Option(help="On cuda: auto (measured), cudnn, triton, compile or eager.")
    ] = "auto",
    noise: NoiseOption = "gaussian",
    batch_size: BatchOption = None,
    threads: ThreadsOption = None,
    slots: Annotated[int, typer.Option(help="Images in flight at once.")] = 16,
    workers: cli_cluster.WorkersOption = None,
    ray: cli_cluster.RayOption = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder. Default: runs/BUNDLE-METHOD.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Replace the run in --out.")] = False,
    reuse: Annotated[
        list[Path] | None,
        typer.Option(
            help="Run on the same images and seed whose votes are read, not drawn again; "
            "may be given several times."
        ),
    ] = None,
    json_: Annotated[
        bool, typer.Option("--json", help="Print the summary as JSON, not a table.")
    ] = False,
) -> None:
    """Certify the images of a data set and write a run folder.

    Examples:

    dualsmooth certify digits-dual --data digits --out runs/digits

    dualsmooth certify digits-dual --data digits --n 100000 --budget decide --radii 0.25,0.5
    """
    from dualsmooth.engine.budget import budget_from_options
    from dualsmooth.engine.certify_run import certify_run, choose_images
    from dualsmooth.engine.data import load_images
    from dualsmooth.engine.methods.choose import choose_method
    from dualsmooth.engine.models.bundle import load_bundle
    from dualsmooth.engine.models.place import place_of
    from dualsmooth.engine.report.text import text_table
    from dualsmooth.engine.settings import Settings

    device, precision = place_of(bundle, device, precision)
    votes = budget_from_options(budget, radii, tolerance, n0, n)
    settings = Settings(
        votes, alpha, seed, 0, device, precision, batch_size, threads, slots, backend,
        noise,
    )  # fmt: skip
    loaded = load_bundle(bundle)
    chosen = choose_method(loaded, **method_options(context.params))
    images = load_images(data)
    ids = choose_images(len(images.labels), skip, max_)
    folder = out or Path("runs") / f"{loaded.name}-{_file_name(chosen.name)}"
    summary, occupancy = certify_run(
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
    if json_:
        typer.echo(json.dumps(summary.to_dict() | {"folder": str(folder)}, indent=1))
        return
    typer.echo(text_table([summary]))
    typer.echo(f"batches {occupancy:.1%} full")
    typer.echo(f"\n{folder}/certificates.jsonl, certificates.tsv, summary.json")


@app.command()
def predict(
    context: typer.Context,
    bundle: BundleArgument,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Image files.")],
    method: MethodOption = None,
    sigma: SigmaOption = None,
    selector_rule: RuleOption = None,
    routing: RoutingOption = None,
    published_split: SplitOption = False,
    runner_up: RunnerUpOption = False,
    target_sigma: TargetOption = None,
    threshold: ThresholdOption = None,
    region: RegionOption = None,
    anchors: AnchorsOption = None,
    memory: MemoryOption = None,
    search: SearchOption = None,
    references: ReferencesOption = None,
    rate: RateOption = None,
    offset: OffsetOption = None,
    neighbours: NeighboursOption = None,
    n: Annotated[int, typer.Option(help="Votes per network.")] = 1000,
    alpha: Annotated[float, typer.Option(help="Probability of a wrong answer.")] = 0.001,
    seed: SeedOption = 0,
    threads: ThreadsOption = None,
    batch_size: BatchOption = None,
    noise: NoiseOption = "gaussian",
) -> None:
    """Print the smoothed classifier's class of image files, or abstain."""
    from dualsmooth.engine.predict_files import predict_files

    options = method_options(context.params)
    settings: dict[str, Any] = {"seed": seed, "threads": threads, "batch_size": batch_size,
                                "noise": noise}  # fmt: skip
    for line in predict_files(bundle, images, options, n, alpha, settings):
        typer.echo(line)


app.command("search")(search_command)
app.command()(report)


@app.command()
def bench(
    suite: Annotated[str, typer.Argument(help="cpu: votes per second against every peer.")] = "cpu",
    rounds: Annotated[int, typer.Option(help="Interleaved rounds.")] = 15,
    networks: Annotated[
        str | None, typer.Option(help="For example small,resnet20. Default: all.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the JSON.")] = Path("benchmarks/results"),
) -> None:
    """Time this machine against other ways to draw the same votes."""
    from dualsmooth.benchmarks import cpu
    from dualsmooth.engine.errors import ArgumentError

    if suite != "cpu":
        raise ArgumentError("suite", "must be cpu", suite)
    cpu.run(rounds, tuple(networks.split(",")) if networks else tuple(cpu.CASES), out)


@app.command()
def doctor() -> None:
    """Print versions, devices and measured speed, ready to paste into a bug report."""
    from dualsmooth.engine.doctor import examine

    for line in examine():
        typer.echo(line)


@app.command()
def train(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="For example dual, gaussian or digits-dual.")
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
            help="FIELD=VALUE of the recipe, for example classifying.epochs=5 or "
            "selector_loss.radius=0; may be given several times.",
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in OUT.train.")
    ] = False,
) -> None:
    """Train the networks of a bundle.

    Examples:

    dualsmooth train dual --data idx:fashion_mnist --max 20000 --out my-dual

    dualsmooth train consistency --data digits --set sigmas=[0.25] --set members=3 --out my-three
    """
    from dualsmooth.engine.train import recipes

    recipes.train(
        recipe, data, out, seed=seed, options=set_ or (), max_images=max_, device=device,
        resume=resume,
    )  # fmt: skip
    typer.echo(f"{out}/bundle.json")


app.command()(cli_audit.audit)
app.command()(cli_parquet.parquet)


def main() -> None:
    """Run the command; errors are one line on stderr.

    Exit codes: 0 done, 1 an audit or the check of an export found something, 2 bad usage or input,
    3 stopped before the end (resumable), 130 interrupted (resumable).
    """
    with suppress(ValueError):  # only the main thread may; SIGTERM then stops as Ctrl-C does
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        code = app(standalone_mode=False) or 0
    except StoppedError as error:
        _fail(str(error), 3)
    except DualSmoothError as error:
        _fail(str(error), 2)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        _fail(f"{error.format_message()} (see dualsmooth --help)", 2)
    if code == INTERRUPTED:
        _fail("interrupted; what was reached is on disk, go on with --resume", code)
    sys.exit(code)


def _fail(message: str, code: int) -> NoReturn:
    line = " ".join(message.split())
    typer.echo(f"dualsmooth: {line}", err=True)
    sys.exit(code)


def _file_name(name: str) -> str:
    return name.replace("(", "-").replace(")", "").replace(", ", "-").replace(" ", "-")


if __name__ == "__main__":
    main()
