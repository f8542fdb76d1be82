"""What workers are sent: the run's settings once, then images by the lease."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dualsmooth.engine.backends import libraries_of
from dualsmooth.engine.cluster.conductor import TRIED_HERE
from dualsmooth.engine.images import check_images
from dualsmooth.engine.machine import arithmetic, code_digest, machine
from dualsmooth.engine.methods.method import Method
from dualsmooth.engine.runtime.known import RecordedVotes
from dualsmooth.engine.runtime.session import Session, bundle_of
from dualsmooth.engine.samplers.sampler import MakeSampler
from dualsmooth.engine.settings import Settings


@dataclass(frozen=True)
class Job:
    """What every worker needs to know; nothing in the settings is left to ``auto``."""

    method: Method
    settings: Settings
    make: MakeSampler | None = None

    @classmethod
    def of(
        cls, method: Method, settings: Settings, workers: int, make: MakeSampler | None = None
    ) -> "Job":
        """A job whose workers share the cores of this machine, unless threads are given."""
        from dualsmooth.engine.machine import available_cores
        from dualsmooth.engine.samplers.choose import resolve  # imports torch
        from dualsmooth.engine.samplers.processors import taken

        bundle = bundle_of(method)
        settings = resolve(settings, bundle, method.needs_fp32)
        threads = settings.threads or max(1, available_cores() // workers)
        batch = settings.padded_batch(bundle.input_shape)
        taken(bundle, settings)  # and dropped: each worker makes its own
        return cls(method, dataclasses.replace(settings, batch_size=batch, threads=threads), make)


@dataclass(frozen=True)
class LeaseImages:
    """Images of the lease of that number, and the votes of them that are known already."""

    number: int
    images: NDArray[np.generic]
    image_ids: list[int]
    labels: list[int]
    book: RecordedVotes


Cut = Callable[[int, list[int]], LeaseImages]
"""Gives the images of a lease, by its number and their ids."""


def cutter(
    images: Any,
    image_ids: Sequence[int],
    labels: Sequence[int],
    book: RecordedVotes,
    shape: tuple[int, int, int],
) -> Cut:
    """Cuts leases from a data set."""
    checked = check_images(images, shape)
    place = {image_id: at for at, image_id in enumerate(image_ids)}

    def cut(number: int, ids: list[int]) -> LeaseImages:
        places = [place[image_id] for image_id in ids]
        known = [labels[at] for at in places]
        return LeaseImages(number, np.asarray(checked[places]), ids, known, book.part(ids))

    return cut


def facts_of(session: Session) -> dict[str, Any]:
    """What the certificates of a session depend on, beyond the job.

    Beside it what ``auto`` tried, which is not compared.
    """
    sampler = session.sampler
    about = {"sampler": sampler.name, "batch_size": sampler.batch_size}
    return {TRIED_HERE: session.tried, **facts_here(about, session.settings, session.method)}


def facts_here(about: Mapping[str, Any], settings: Settings, method: Method) -> dict[str, Any]:
    """What a worker on this machine says of itself, if its sampler is such a one."""
    votes = libraries_of(about["sampler"], bundle_of(method).manifest)
    libraries = ("dualsmooth", "numpy", "scipy", *votes)
    own = {"files of dualsmooth": code_digest()}
    return {**about, **own, **arithmetic(machine(), libraries, settings.device)}
