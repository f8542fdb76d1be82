"""Certify a data set into a run folder: what ``dualsmooth certify`` does."""

import dataclasses
import hashlib
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from dualsmooth.engine.checks import positive_integer
from dualsmooth.engine.data import ImageSet
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.images import check_grid, check_images, unit_float
from dualsmooth.engine.methods.method import Method, bundle_of, method_at
from dualsmooth.engine.report.summary import RADII, Summary, rows_of, summarize
from dualsmooth.engine.runlog import RUN, RunLog, read_configuration
from dualsmooth.engine.runtime.backends import AUTO, recorded_backend
from dualsmooth.engine.settings import Settings
from dualsmooth.engine.votebook import Votebook

if TYPE_CHECKING:
    from dualsmooth.engine.runtime.session import Session


def certify_run(
    method: Method,
    data: ImageSet,
    image_ids: list[int],
    settings: Settings,
    folder: Path,
    *,
    resume: bool = False,
    fresh: bool = False,
    reuse: Sequence[Path] = (),
) -> tuple[Summary, float]:
    """Certify images of a data set; everything reached is on disk if the run is interrupted.

    Parameters
    ----------
    method : Method
        What is certified.
    data : ImageSet
        Images and labels.
    image_ids : list of int
        Positions in the data set; they are the image ids of the noise.
    settings : Settings
        How votes are drawn.
    folder : Path
        Run folder.
    resume, fresh : bool
        Go on with the run in the folder, or replace it.
    reuse : sequence of Path
        Finished or unfinished runs on the same images whose votes are read, not drawn again.

    Returns
    -------
    tuple of (Summary, float)
        Summary of the finished run, also written to the folder, and the share of batch rows that
        carried a sample.

    Raises
    ------
    ArgumentError
        If anything is invalid; then nothing has been written.
    """
    from dualsmooth.engine.runtime.session import Session  # imports torch

    check_images(data.images, bundle_of(method).input_shape)
    if settings.noise == "integer":
        check_grid(data.images)
    at_first = method_at(method, unit_float(data.images[image_ids[0]]))
    at_first.certify(settings.budget, settings.alpha)  # raises if method and budget do not fit
    configuration = describe(method, data, image_ids, settings)
    if resume:
        settings = _with_recorded_backend(settings, folder)
    with Session(method, settings) as session:
        configuration["batch_size"] = session.sampler.batch_size
        configuration["sampler"] = session.sampler.name
        book = Votebook.read(reuse, configuration)
        with closing(RunLog(folder, configuration, resume=resume, fresh=fresh)) as log:
            _certify_missing(session, data, image_ids, log, book)
            rows = rows_of([log.done[i] for i in image_ids])
            summary = summarize(method.name, rows, settings.budget.radii or RADII)
            log.finish(summary.to_dict())
    return summary, session.occupancy.share


def _with_recorded_backend(settings: Settings, folder: Path) -> Settings:
    """A choice that ``auto`` made by measuring is kept: another one might cast other votes."""
    if settings.backend != AUTO or settings.device_kind != "cuda" or not (folder / RUN).exists():
        return settings
    backend = recorded_backend(read_configuration(folder).get("sampler"))
    return dataclasses.replace(settings, backend=backend)


def _certify_missing(
    session: "Session", data: ImageSet, image_ids: list[int], log: RunLog, book: Votebook
) -> None:
    missing = [i for i in image_ids if i not in log.done]
    labels = [int(label) for label in data.labels[missing]]
    progress = tqdm(
        total=len(image_ids), initial=len(image_ids) - len(missing), unit="image", disable=None,
        desc=session.method.name,
    )  # fmt: skip
    with closing(progress):
        for certificate in session.certify(data.images[missing], missing, labels, book):
            log.append(certificate)
            progress.update()


def choose_images(count: int, skip: int, most: int | None) -> list[int]:
    """Every ``skip``-th position among the first ``most`` of ``count`` images, as in Cohen's code.

    Raises
    ------
    ArgumentError
        If skip or most is < 1, or no image is left.
    """
    positive_integer("skip", skip)
    if most is not None:
        positive_integer("max", most)
    chosen = list(range(0, count if most is None else min(count, most), skip))
    if not chosen:
        raise ArgumentError("data", "must hold at least one image", 0)
    return chosen


def describe(
    method: Method, data: ImageSet, image_ids: list[int], settings: Settings
) -> dict[str, Any]:
    """Everything that decides the certificates of a run, for ``run.json`` and for resuming."""
    bundle = bundle_of(method)
    return {
        "method": method.name,
        "bundle": bundle.name,
        "bundle_digest": bundle.digest,
        "data": data.name,
        "data_digest": _digest(data.images[image_ids], data.labels[image_ids]),
        "images": len(image_ids),
        "image_ids_digest": _digest(np.array(image_ids, np.int64)),
        "budget": settings.budget.kind,
        "radii": list(settings.budget.radii),
        "tolerance": settings.budget.tolerance,
        "n0": settings.budget.n0,
        "n": settings.budget.n,
        "alpha": settings.alpha,
        "seed": settings.seed,
        "attempt": settings.attempt,
        "device": settings.device_kind,
        "precision": settings.arithmetic,
        "noise": settings.noise,
    }


def _digest(*arrays: NDArray[Any]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
