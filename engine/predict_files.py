"""Smoothed predictions for image files: what ``dualsmooth predict`` does."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dualsmooth.engine.budget import Budget
from dualsmooth.engine.errors import FileError
from dualsmooth.engine.methods.choose import choose_method
from dualsmooth.engine.models.bundle import load_bundle
from dualsmooth.engine.models.place import place_of
from dualsmooth.engine.readers import read_image
from dualsmooth.engine.settings import Settings


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
    from dualsmooth.engine.runtime.session import Session  # imports torch

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
