"""Options that several commands share; those of the methods are made from their `Options`."""

from collections.abc import Callable, Collection
from inspect import Parameter
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import typer

from dualsmooth.engine.budget import KINDS, PILOT, Budget
from dualsmooth.engine.checks import one_of
from dualsmooth.engine.cli.help import belong, numbers_in, with_parameters
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.methods.registry import METHODS

BundleArgument = Annotated[
    str,
    typer.Argument(
        metavar="BUNDLE",
        help="Bundle folder, name of a bundled one (digits-dual), a checkpoint of a "
        "ResNet (*.pth.tar, *.pth, *.pt, *.ckpt), an exported classifier (*.onnx, *.pt2), "
        "timm:NAME[:FILE] or hf:FOLDER (weights from there or the local cache; nothing is "
        "downloaded).",
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
        "--classes",
        "--labels",
        help="File of the model's classes in order: one name a line, INDEX NAME or INDEX,NAME, or "
        "JSON (a list or a map); folders of folder:DIR may be called by the first word of a name.",
    ),
]

DeviceOption = Annotated[str, typer.Option(help="auto, cpu or cuda.")]

PrecisionOption = Annotated[str, typer.Option(help="auto, fp32 or bf16.")]

BackendOption = Annotated[
    str,
    typer.Option(
        help="On cuda: auto (measured), fused, onchip, triton, picked, tiledstem, stem, cudnn, "
        "compile or eager. On cpu: auto, loops or openvino (extra cpu)."
    ),
]

VerboseOption = Annotated[
    bool,
    typer.Option(
        "--verbose", help="Say which backends auto tried, with times or reasons, on standard error."
    ),
]

BatchOption = Annotated[
    int | None,
    typer.Option(help="Rows per forward pass; part of what is certified. Default: by image size."),
]

SkipOption = Annotated[int, typer.Option(help="Take every SKIP-th image.")]

MaxOption = Annotated[
    int | None,
    typer.Option("--max", help="Only the first MAX images; with --skip every SKIP-th of them."),
]

AlphaOption = Annotated[float, typer.Option(help="Failure probability per image.")]

WorkersOption = Annotated[
    int | None,
    typer.Option(help="Processes that draw votes, one per CUDA device or group of cores."),
]

RayOption = Annotated[
    str | None,
    typer.Option(help="Draw votes on Ray: local, or a cluster's address (extra cluster)."),
]


def with_method_options(
    *methods: str, without: Collection[str] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command ``--method`` and the options of these methods, of all by default.

    They take the place of its ``**options``, as `choose_method` takes them.
    """

    return with_parameters(method_parameters(methods or tuple(METHODS), without))


def method_parameters(methods: Collection[str], without: Collection[str]) -> list[Parameter]:
    """``--method``, then options that several methods take, then those of each method alone."""
    *first, last = methods
    text = f"{', '.join(first)} or {last}. Default: fixed with --sigma, else dual if the bundle "
    text += "has a selector."
    shared, alone = [_parameter("method", str, text, "Method")], []
    for name in dict.fromkeys(name for method in methods for name in METHODS[method].names()):
        owners = [method for method in methods if name in METHODS[method].names()]
        kind, texts = _help_of(name, owners)
        parts = [f"{', '.join(group)}: {text}." for text, group in texts.items()]
        if name in without:
            continue
        if len(owners) > 1:
            shared.append(_parameter(name, kind, " ".join(parts), "Method"))
        else:
            text = parts[0].removeprefix(f"{owners[0]}: ")
            alone.append(_parameter(name, kind, text, f"Options of {owners[0]}"))
    return shared + alone


def _help_of(name: str, owners: Collection[str]) -> tuple[Any, dict[str, list[str]]]:
    """Type of an option, and the methods that describe it with the same words."""
    kind, texts = None, dict[str, list[str]]()
    for method in owners:
        kind, text = get_args(get_type_hints(METHODS[method], include_extras=True)[name])
        default = getattr(METHODS[method], name)
        if type(default) in (int, float):
            text += f" [{default:g}]"
        texts.setdefault(text, []).append(method)
    return kind, texts


def _parameter(name: str, kind: Any, text: str, panel: str) -> Parameter:
    flag = kind is bool
    names = [f"--{name.replace('_', '-')}"] if flag else []  # a flag has no --no-NAME
    option = typer.Option(*names, help=text, rich_help_panel=panel)
    annotation: Any = Annotated[bool if flag else kind | None, option]
    default = False if flag else None
    return Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def budget_from_options(
    kind: str, radii: str | None, tolerance: float | None, n0: int | None, n: int
) -> Budget:
    """A budget as the command line gives it; ``radii`` is a comma-separated list."""
    one_of("budget", kind, KINDS)
    if kind != "decide":
        belong("--budget decide", radii=radii)
    if kind != "precise":
        belong("--budget precise", tolerance=tolerance)
    n0 = PILOT[kind] if n0 is None else n0
    if kind == "fixed":
        return Budget.fixed(n0, n)
    if kind == "precise":
        return Budget.precise(n0=n0, n=n) if tolerance is None else Budget.precise(tolerance, n0, n)
    if radii is None:
        hint = "for example --radii 0.25,0.5"
        raise ArgumentError("radii", "are required by --budget decide", None, hint)
    return Budget.decide(numbers_in("radii", radii), n0, n)
