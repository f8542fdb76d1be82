"""``dualsmooth predict``."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from dualsmooth.engine.backends import Tried, told
from dualsmooth.engine.budget import ANSWERS, VOTES, Budget
from dualsmooth.engine.certificate import Certificate
from dualsmooth.engine.cli.help import belong, whole_number
from dualsmooth.engine.cli.images import ImageOptions, with_image_options
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
from dualsmooth.engine.data.class_names import numbered
from dualsmooth.engine.data.image_files import read_image
from dualsmooth.engine.data.kinds import told_apart
from dualsmooth.engine.data.prepare import Prepare
from dualsmooth.engine.data.spec import WITH_SPLIT, choose_images, load_images
from dualsmooth.engine.draws import Prediction
from dualsmooth.engine.errors import ArgumentError, FileError
from dualsmooth.engine.methods.method import Method
from dualsmooth.engine.methods.registry import choose_method
from dualsmooth.engine.models.bundle import Bundle
from dualsmooth.engine.printable import printable
from dualsmooth.engine.runs.table import radius_text
from dualsmooth.engine.settings import Settings
from dualsmooth.engine.terminal.progress import passing_bar


@with_method_options()
@with_image_options()
def predict(
    bundle: BundleArgument,
    images: Annotated[
        list[Path] | None, typer.Argument(metavar="IMAGE...", help="Image files.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Images of a SPEC, as certify takes it, in place of files.")
    ] = None,
    max_: Annotated[int | None, typer.Option("--max", help="With --data: only the first.")] = None,
    certify: Annotated[
        bool, typer.Option("--certify", help="Certify: print a radius beside the class.")
    ] = False,
    classes: ClassesOption = None,
    trust_model: TrustOption = False,
    n: Annotated[
        int | None,
        typer.Option(
            parser=whole_number, help=f"Votes per network [{ANSWERS}; --certify: {VOTES}]."
        ),
    ] = None,
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
    from dualsmooth.engine.data.class_names import read_classes

    names = read_classes(classes) if classes else ()
    about = ImageOptions.take(options)
    loaded = about.load(bundle, trust=trust_model)
    prepare = about.prepare(loaded)
    votes = (VOTES if certify else ANSWERS) if n is None else n
    budget = Budget.fixed(n=votes) if certify else Budget.fixed(1, votes)
    drawn = (alpha, seed, 0, device, precision, batch_size, threads, None, backend, noise)
    settings = Settings(budget, *drawn)
    called = _names(names, loaded.num_classes) or dict(enumerate(loaded.classes))
    if data is None:
        belong("--data", max=max_)
        read = _files(images, loaded, prepare)
    else:
        read, theirs = _of_spec(images, data, max_, loaded, prepare)
        called = called or dict(enumerate(theirs))
    method = choose_method(loaded, **options)
    records, tried = answers(method, settings, read, called, certify=certify)
    for told_line in told(tried) if verbose else ():
        typer.echo(printable(told_line), err=True)
    if json_:
        typer.echo(json.dumps(records, indent=1))
    width = max(len(printable(record["image"])) for record in records)
    for record in records:
        if "error" in record:
            typer.echo(f"dualsmooth: {' '.join(record['error'].split())}", err=True)
        elif not json_:
            typer.echo(f"{printable(record['image']):<{width}}  {_line(record)}")
    raise typer.Exit(3 if any("error" in record for record in records) else 0)


def _line(record: dict[str, Any]) -> str:
    label = "ABSTAIN" if record["predicted"] is None else f"class {record['predicted']}"
    parts = [f"{label:<9}"]
    if record.get("radius"):
        parts.append(f"radius {radius_text(record['radius'])[:-2]}")
    if record["sigmas"]:
        parts.append("sigma " + ", ".join(f"{sigma:g}" for sigma in record["sigmas"]))
    return "  ".join([*parts, *([printable(record["name"])] if record["name"] else [])])


Read = list[tuple[str, "NDArray[np.generic] | FileError"]]
"""Names of images, each with the image or why it cannot be read."""


def answers(
    method: Method, settings: Settings, read: Read, names: dict[int, str], *, certify: bool
) -> tuple[list[dict[str, Any]], dict[str, Tried]]:
    """One record per image: image, predicted (None for abstain), name, sigmas; or image, error.

    With ``certify`` a record has the radius, too: L2, input units, rounded down. Beside them what
    ``auto`` tried.

    Raises
    ------
    ArgumentError
        If an option is invalid.
    FileError
        If no image can be read.
    """
    from dualsmooth.engine.runtime.session import Session

    images = {i: image for i, (_, image) in enumerate(read) if not isinstance(image, FileError)}
    if not images:
        raise next(error for _, error in read if isinstance(error, FileError))
    found: dict[int, Prediction | Certificate]
    with Session.open(method, settings) as session:
        array, ids = np.stack(list(images.values())), list(images)
        if certify:
            found = {c.image_id: c for c in _shown(session.certify(array, ids), len(ids))}
        else:
            found = dict(_shown(session.predict(array, ids), len(ids)))
    records: list[dict[str, Any]] = []
    for i, (image, pixels) in enumerate(read):
        if isinstance(pixels, FileError):
            records.append({"image": image, "error": str(pixels)})
        else:
            records.append({"image": image, **_record(found[i], names)})
    return records, session.tried


def _shown(found: Iterable[Any], total: int) -> Any:
    return passing_bar(iterable=found, desc="predict", total=total, unit="image")


def _record(found: "Prediction | Certificate", names: dict[int, str]) -> dict[str, Any]:
    label = found.predicted
    answer = {"predicted": label, "name": "" if label is None else names.get(label, "")}
    if isinstance(found, Prediction):
        return answer | {"sigmas": list(found.sigmas)}
    sigmas = [] if found.sigma is None else [found.sigma]
    return answer | {"radius": found.radius, "sigmas": sigmas}


def _files(paths: Sequence[Path] | None, bundle: Bundle, prepare: Prepare) -> Read:
    if not paths:
        raise ArgumentError("images", "must be at least one file", None, "or give --data SPEC")
    for path in paths:
        if str(path).partition(":")[0] in (*WITH_SPLIT, "npz", "folder") and not path.exists():
            raise ArgumentError("images", "must be files", path, f"a SPEC: --data {path}")
    return [(str(path), _read(path, bundle.input_shape, prepare)) for path in paths]


def _of_spec(
    paths: Sequence[Path] | None, spec: str, most: int | None, bundle: Bundle, prepare: Prepare
) -> tuple[Read, tuple[str, ...]]:
    if paths:
        raise ArgumentError("images", "must be left out with --data", str(paths[0]))
    ways: dict[str, Any] = {"known": bundle.classes, "most": most, "prepare": prepare}
    data = load_images(spec, shape=bundle.input_shape, **ways)
    chosen = choose_images(len(data), 1, most)
    numbered = len(data.classes) != bundle.num_classes or "classes" not in data.record
    read: Read = [(f"{data.name} {i}", data.images[i]) for i in chosen]
    return read, () if numbered else data.classes


def _names(lines: Sequence[str], count: int) -> dict[int, str]:
    names = dict(numbered(lines))
    by_line = list(names) == list(range(len(lines)))
    if lines and (max(names) >= count or (by_line and len(lines) != count)):
        received = f"{len(lines)} lines, the last for class {max(names)}"
        raise ArgumentError("classes", f"must name the {count} classes of the model", received)
    return names


def _read(
    path: Path, shape: tuple[int, int, int], prepare: Prepare
) -> NDArray[np.uint8] | FileError:
    try:
        with told_apart(path, "an image", "a folder of images"):
            image = read_image(path, shape[2], prepare)
        if image.shape != shape:
            hint = "--resize N and --crop N make another image of it"
            raise FileError(path, f"image must have shape {shape}", image.shape, hint)
    except FileError as error:
        return error
    except ArgumentError as error:  # too small for --crop
        return FileError(path, str(error))
    return image
