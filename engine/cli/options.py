"""Options that several commands share; most of them say which method is meant."""

from pathlib import Path
from typing import Annotated, Any

import typer

from dualsmooth.engine.budget import KINDS, PILOT, Budget
from dualsmooth.engine.errors import ArgumentError

_PANEL = "Method options"


MethodOption = Annotated[
    str | None,
    typer.Option(
        help="fixed, dual, variational, insta, cascade or semielastic. Default: dual if the "
        "bundle has a selector.",
        rich_help_panel=_PANEL,
    ),
]


SigmaOption = Annotated[
    float | None,
    typer.Option(
        help="fixed: noise level, in [0, 1] pixel units. semielastic: level at --offset.",
        rich_help_panel=_PANEL,
    ),
]


RuleOption = Annotated[
    str | None,
    typer.Option(
        help="dual: median (ordered levels, default) or plurality (published Dual RS).",
        rich_help_panel=_PANEL,
    ),
]


RoutingOption = Annotated[
    str | None,
    typer.Option(
        help="dual, variational: interval (best chain of levels, default with median) or point; "
        "variational also continuous.",
        rich_help_panel=_PANEL,
    ),
]


SplitOption = Annotated[
    bool,
    typer.Option(
        "--published-split",
        help="dual: spend alpha/2 per stage, as published.",
        rich_help_panel=_PANEL,
    ),
]


RunnerUpOption = Annotated[
    bool,
    typer.Option(
        "--runner-up",
        help="fixed, dual: bound the strongest rival too; certifies classes below half of the "
        "votes.",
        rich_help_panel=_PANEL,
    ),
]


TargetOption = Annotated[
    float | None,
    typer.Option(
        help="variational: target noise the selector is told, fixed for the run.",
        rich_help_panel=_PANEL,
    ),
]


ThresholdOption = Annotated[
    float | None,
    typer.Option(
        help="cascade: probability from which on a level is sure [0.5].", rich_help_panel=_PANEL
    ),
]


RegionOption = Annotated[
    str | None,
    typer.Option(
        help="insta: anchor (default), memory or certified (a selector trained on the search).",
        rich_help_panel=_PANEL,
    ),
]


AnchorsOption = Annotated[
    Path | None,
    typer.Option(help="insta, anchor: file made by `dualsmooth search`.", rich_help_panel=_PANEL),
]


MemoryOption = Annotated[
    Path | None,
    typer.Option(
        help="insta, memory: file of the balls, read first and appended to; without it the memory "
        "ends with the run.",
        rich_help_panel=_PANEL,
    ),
]


SearchOption = Annotated[
    str | None,
    typer.Option(
        help="insta, memory: multi-start, quasiconcave or grid (default where there are experts).",
        rich_help_panel=_PANEL,
    ),
]


ReferencesOption = Annotated[
    str | None,
    typer.Option(
        help="semielastic: SPEC of the reference images, part of the deployed classifier.",
        rich_help_panel=_PANEL,
    ),
]


RateOption = Annotated[
    float | None,
    typer.Option(
        help="semielastic: change of ln sigma per unit of distance [0.01].", rich_help_panel=_PANEL
    ),
]


OffsetOption = Annotated[
    float | None,
    typer.Option(help="semielastic: typical mean distance [0].", rich_help_panel=_PANEL),
]


NeighboursOption = Annotated[
    int | None,
    typer.Option(help="semielastic: nearest references to average [20].", rich_help_panel=_PANEL),
]


BundleArgument = Annotated[
    str,
    typer.Argument(
        metavar="BUNDLE",
        help="Bundle folder, name of a bundled one (digits-dual), a checkpoint of "
        "Cohen et al.'s code (*.pth.tar), an exported classifier (*.onnx, *.pt2), or "
        "timm:NAME[:FILE] (weights from FILE or the local cache; nothing is downloaded).",
    ),
]


TrustOption = Annotated[
    bool,
    typer.Option(
        "--trust-model",
        help="Let PyTorch load a .pt2 that is refused without it. The file can run any code.",
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


ClassesOption = Annotated[
    Path | None,
    typer.Option(
        help="Text file of the model's classes in order: one name a line, or INDEX NAME; folders "
        "of folder:DIR may be called by the first word of a name."
    ),
]


DeviceOption = Annotated[str, typer.Option(help="auto, cpu or cuda.")]


PrecisionOption = Annotated[str, typer.Option(help="auto, fp32 or bf16.")]


BackendOption = Annotated[
    str,
    typer.Option(
        help="On cuda: auto (measured), cudnn, triton, compile or eager. On cpu: auto or "
        "openvino (extra cpu)."
    ),
]


BatchOption = Annotated[
    int | None,
    typer.Option(help="Rows per forward pass; part of what is certified. Default: by image size."),
]


def method_options(parameters: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `choose_method` among the parameters of a command."""
    from dataclasses import fields

    from dualsmooth.engine.methods.options import MethodOptions

    names = ["method", *(field.name for field in fields(MethodOptions))]
    return {name: parameters[name] for name in names}


def budget_from_options(
    kind: str, radii: str | None, tolerance: float | None, n0: int | None, n: int
) -> Budget:
    """A budget as the command line gives it; ``radii`` is a comma-separated list.

    Raises
    ------
    ArgumentError
        If the kind is unknown or an option does not belong to it.
    """
    if kind not in KINDS:
        raise ArgumentError("budget", f"must be one of {', '.join(KINDS)}", kind)
    for name, value, owner in (("radii", radii, "decide"), ("tolerance", tolerance, "precise")):
        if value is not None and kind != owner:
            raise ArgumentError(name, f"belongs to --budget {owner}", value)
    n0 = PILOT[kind] if n0 is None else n0
    if kind == "fixed":
        return Budget.fixed(n0, n)
    if kind == "precise":
        return Budget.precise(n0=n0, n=n) if tolerance is None else Budget.precise(tolerance, n0, n)
    if radii is None:
        raise ArgumentError("radii", "are required by --budget decide", None,
                            "for example --radii 0.25,0.5")  # fmt: skip
    try:
        grid = [float(radius) for radius in radii.split(",")]
    except ValueError:
        raise ArgumentError("radii", "must be numbers with commas between them", radii) from None
    return Budget.decide(grid, n0, n)
