"""What workers are sent: the run's settings once, then images by the lease."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dualsmooth.engine.backends import libraries_of
from dualsmooth.engine.images import check_images
from dualsmooth.engine.machine import arithmetic, machine
from dualsmooth.engine.methods.method import Method
from dualsmooth.engine.runtime.flight import RecordedVotes
from dualsmooth.engine.runtime.session import Session, bundle_of
from dualsmooth.engine.samplers.sampler import MakeSampler
from dualsmooth.engine.settings import Settings


@dataclass(frozen=True)
class Job:
    """What every worker needs to know.

    Parameters
    ----------
    method : Method
        What is certified, with its networks.
    settings : Settings
        How votes are drawn, with nothing left to ``auto``.
    make : callable or None
        Makes the sampler; None for the fastest one there is.
    """

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

        bundle = bundle_of(method)
        settings = resolve(settings, bundle)
        threads = settings.threads or max(1, available_cores() // workers)
        batch = settings.padded_batch(bundle.input_shape)
        return cls(method, dataclasses.replace(settings, batch_size=batch, threads=threads), make)


@dataclass(frozen=True)
class Parcel:
    """Images of one lease.

    Parameters
    ----------
    lease : int
    images : ndarray, shape (count, height, width, channels)
    image_ids, labels : list of int
    book : RecordedVotes
        Votes of these images that are known already.
    """

    lease: int
    images: NDArray[np.generic]
    image_ids: list[int]
    labels: list[int]
    book: RecordedVotes


class Parcels:
    """Cuts parcels from a data set."""

    def __init__(
        self, images: Any, image_ids: Sequence[int], labels: Sequence[int], book: RecordedVotes,
        shape: tuple[int, int, int],
    ) -> None:  # fmt: skip
        self._images = check_images(images, shape)
        self._place = {image_id: place for place, image_id in enumerate(image_ids)}
        self._labels, self._book = labels, book

    def cut(self, lease: int, image_ids: list[int]) -> Parcel:
        """The images of a lease."""
        places = [self._place[image_id] for image_id in image_ids]
        labels = [self._labels[place] for place in places]
        part = self._book.part(image_ids)
        return Parcel(lease, self._images[places], image_ids, labels, part)


def facts_of(session: Session) -> dict[str, Any]:
    """What the votes of a session depend on, beyond the job: the arithmetic of its machine."""
    here, libraries = machine(), libraries_of(session.sampler.name)
    return {
        "sampler": session.sampler.name,
        "batch_size": session.sampler.batch_size,
        **arithmetic(here, libraries, session.settings.device),
    }
