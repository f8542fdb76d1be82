"""``dualsmooth predict``."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from dualsmooth.engine.backends import TRIED, told
from dualsmooth.engine.budget import ANSWERS, Budget
from dualsmooth.engine.cli.options import (
    BackendOption,
    BatchOption,
    BundleArgument,
    ClassesOption,
    DeviceOption,
    NoiseOption,
    PrecisionOption,
    SeedOption,
    ThreadsOption,
    TrustOption,
    VerboseOption,
    with_method_options,
)
from dualsmooth.engine.data.class_folders import numbered
from dualsmooth.engine.data.image_files import read_image
from dualsmooth.engine.errors import ArgumentError, FileError
from dualsmooth.engine.methods.registry import choose_method
from dualsmooth.engine.models.sources.load import load_bundle
from dualsmooth.engine.printable import printable
from dualsmooth.engine.settings import Settings


@with_method_options()
def predict(
    bundle: BundleArgument,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Image files.")],
    classes: ClassesOption = None,
    trust_model: TrustOption = False,
    n: Annotated[int, typer.Option(help="Votes per network.")] = ANSWERS,
    alpha: Annotated[float, typer.Option(help="Probability of a wrong answer.")] = 0.001,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    backend: BackendOption = "auto",
    threads: ThreadsOption = None,
    batch_size: BatchOption = None,
    noise: NoiseOption = "gaussian",
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    verbose: VerboseOption = False,
    **options: Any,
) -> None:
    """Print the smoothed classifier's class of image files, or abstain.

    Files that cannot be read are named on standard error; the exit code is then 3.
    """
    from dualsmooth.engine.data.class_folders import read_classes

    names = read_classes(classes) if classes else ()
    settings = {
        "seed": seed,
        "device": device,
        "precision": precision,
        "backend": backend,
        "threads": threads,
        "batch_size": batch_size,
        "noise": noise,
    }
    records = predict_files(bundle, images, options, n, alpha, settings, names, trust=trust_model)
    for told_line in told(TRIED) if verbose else ():
        typer.echo(printable(told_line), err=True)
    if json_:
        typer.echo(json.dumps(records, indent=1))
    width = max(len(printable(record["image"])) for record in records)
    for record in records:
        if "error" in record:
            typer.echo(f"dualsmooth: {' '.join(record['error'].split())}", err=True)
        elif not json_:
            levels = ", ".join(f"{sigma:g}" for sigma in record["sigmas"])
            label = "ABSTAIN" if record["predicted"] is None else f"class {record['predicted']}"
            line = f"{printable(record['image']):<{width}}  {label:<9}" + (
                f"  sigma {levels}" if levels else ""
            )
            typer.echo(line + (f"  {printable(record['name'])}" if record["name"] else ""))
    raise typer.Exit(3 if any("error" in record for record in records) else 0)


def predict_files(
    bundle: str,
    paths: Sequence[Path],
    options: dict[str, Any],
    n: int,
    alpha: float,
    settings: dict[str, Any],
    classes: Sequence[str] = (),
    *,
    trust: bool = False,
) -> list[dict[str, Any]]:
    """One record per file: image, predicted (None for abstain), name, sigmas; or image, error.

    Parameters
    ----------
    bundle : str
        As `load_bundle` takes it.
    paths : sequence of Path
        Image files of the bundle's input shape.
    options : dict
        Method options (`choose_method`).
    n : int
        Votes per network.
    alpha : float
        Probability that an answer is not the smoothed classifier's.
    settings : dict
        Further fields of `Settings`.
    classes : sequence of str
        Names of the classes, one a line, or `INDEX NAME`.
    trust : bool
        As `load_bundle` takes it.

    Raises
    ------
    ArgumentError
        If an option is invalid.
    FileError
        If no file can be read.
    """
    from dualsmooth.engine.runtime.session import Session

    loaded = load_bundle(bundle, trust=trust)
    method = choose_method(loaded, **options)
    names = _names(classes, loaded.num_classes)
    read = [_read(path, loaded.input_shape) for path in paths]
    images = {i: image for i, image in enumerate(read) if not isinstance(image, FileError)}
    if not images:
        raise next(error for error in read if isinstance(error, FileError))
    with Session.open(method, Settings(Budget.fixed(1, n), alpha, **settings)) as session:
        found = dict(session.predict(np.stack(list(images.values())), list(images)))
    records: list[dict[str, Any]] = []
    for i, (path, image) in enumerate(zip(paths, read, strict=True)):
        record: dict[str, Any] = {"image": str(path)}
        if isinstance(image, FileError):
            record |= {"error": str(image)}
        else:
            label = found[i].predicted
            name = "" if label is None else names.get(label, "")
            record |= {"predicted": label, "name": name, "sigmas": list(found[i].sigmas)}
        records.append(record)
    return records


def _names(lines: Sequence[str], count: int) -> dict[int, str]:
    names = dict(numbered(lines))
    by_line = list(names) == list(range(len(lines)))
    if lines and (max(names) >= count or (by_line and len(lines) != count)):
        received = f"{len(lines)} lines, the last for class {max(names)}"
        raise ArgumentError("classes", f"must name the {count} classes of the model", received)
    return names


def _read(path: Path, shape: tuple[int, int, int]) -> NDArray[np.uint8] | FileError:
    try:
        image = read_image(path, shape[2])
        if image.shape != shape:
            raise FileError(path, f"image must have shape {shape}", image.shape)
    except FileError as error:
        return error
    return image
