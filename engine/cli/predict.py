"""``dualsmooth predict``."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from dualsmooth.engine.budget import Budget
from dualsmooth.engine.cli.options import (
    BatchOption,
    BundleArgument,
    NoiseOption,
    SeedOption,
    ThreadsOption,
    with_method_options,
)
from dualsmooth.engine.data.readers import read_image
from dualsmooth.engine.errors import FileError
from dualsmooth.engine.methods.registry import choose_method
from dualsmooth.engine.models.sources.load import load_bundle, place_of
from dualsmooth.engine.settings import Settings


@with_method_options()
def predict(
    bundle: BundleArgument,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Image files.")],
    n: Annotated[int, typer.Option(help="Votes per network.")] = 1000,
    alpha: Annotated[float, typer.Option(help="Probability of a wrong answer.")] = 0.001,
    seed: SeedOption = 0,
    threads: ThreadsOption = None,
    batch_size: BatchOption = None,
    noise: NoiseOption = "gaussian",
    **options: Any,
) -> None:
    """Print the smoothed classifier's class of image files, or abstain."""
    settings: dict[str, Any] = {"seed": seed, "threads": threads, "batch_size": batch_size,
                                "noise": noise}  # fmt: skip
    for line in predict_files(bundle, images, options, n, alpha, settings):
        typer.echo(line)


def predict_files(
    bundle: str,
    paths: Sequence[Path],
    options: dict[str, Any],
    n: int,
    alpha: float,
    settings: dict[str, Any],
) -> Iterator[str]:
    """Yield one line per file: path, class or ABSTAIN, noise levels that voted.

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

    Raises
    ------
    ArgumentError, FileError
        If an option or a file is invalid; then nothing is yielded.
    """
    from dualsmooth.engine.runtime.session import Session

    loaded = load_bundle(bundle)
    method = choose_method(loaded, **options)
    images = [read_image(path) for path in paths]
    for path, image in zip(paths, images, strict=True):
        if image.shape != loaded.input_shape:
            raise FileError(path, f"image must have shape {loaded.input_shape}", image.shape)
    device, precision = place_of(bundle, "auto", "auto")
    drawn = Settings(Budget.fixed(1, n), alpha, device=device, precision=precision, **settings)
    with Session(method, drawn) as session:
        answers = dict(session.predict(np.stack(images)))
    width = max(len(str(path)) for path in paths)
    for index, path in enumerate(paths):
        answer = answers[index]
        levels = ", ".join(f"{sigma:g}" for sigma in answer.sigmas)
        label = "ABSTAIN" if answer.predicted is None else f"class {answer.predicted}"
        yield f"{path!s:<{width}}  {label:<9}" + (f"  sigma {levels}" if levels else "")
