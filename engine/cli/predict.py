"""``dualsmooth predict``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from dualsmooth.engine.cli_options import (
    AnchorsOption,
    BatchOption,
    BundleArgument,
    MemoryOption,
    MethodOption,
    NeighboursOption,
    NoiseOption,
    OffsetOption,
    RateOption,
    ReferencesOption,
    RegionOption,
    RoutingOption,
    RuleOption,
    RunnerUpOption,
    SearchOption,
    SeedOption,
    SigmaOption,
    SplitOption,
    TargetOption,
    ThreadsOption,
    ThresholdOption,
    method_options,
)


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
