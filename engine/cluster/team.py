"""Several workers in the place of one session."""

from collections.abc import Iterator, Sequence
from typing import Any

from numpy.typing import NDArray

from dualsmooth.engine.certificate import Certificate
from dualsmooth.engine.checks import positive_integer
from dualsmooth.engine.cluster.conductor import Conductor, check_alike
from dualsmooth.engine.cluster.job import Job, cutter, facts_here
from dualsmooth.engine.cluster.leases import Leases, lease_size
from dualsmooth.engine.cluster.processes import Processes
from dualsmooth.engine.cluster.ray import RayPool
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.methods.method import Method
from dualsmooth.engine.runtime.fitting import fitting_session
from dualsmooth.engine.runtime.known import RecordedVotes
from dualsmooth.engine.runtime.scheduler import Occupancy
from dualsmooth.engine.runtime.session import Session, bundle_of
from dualsmooth.engine.samplers.sampler import Closing, MakeSampler
from dualsmooth.engine.settings import Settings
from dualsmooth.engine.terminal.progress import step

RAY_WORKERS = 2


class Workers(Closing):
    """Certifies as a `Session` does, on so many worker processes or on Ray.

    `ray` is ``local``, or the address of a Ray cluster; None means processes of this machine.
    """

    def __init__(
        self,
        method: Method,
        settings: Settings,
        make: MakeSampler | None,
        workers: int,
        ray: str | None = None,
    ) -> None:
        self.method, self.settings = method, settings
        self._count = workers
        job = Job.of(method, settings, workers, make)
        self._pool = Processes(job, workers) if ray is None else RayPool(job, workers, ray)
        self._conductor = Conductor(self._pool)
        try:
            with step("starting the workers"):
                facts = self._conductor.facts()
            here = facts_here(facts, job.settings, method)
            check_alike(here, facts, "a worker", "this machine, which the run is recorded for")
        except BaseException:
            self._pool.close()
            raise
        self.sampler_name: str = facts["sampler"]
        self.batch_size: int = facts["batch_size"]
        self.tried = self._conductor.tried

    @property
    def occupancy(self) -> Occupancy:
        """How full the workers' batches were."""
        return self._conductor.occupancy

    def certify(
        self,
        images: NDArray[Any],
        image_ids: Sequence[int],
        labels: Sequence[int],
        book: RecordedVotes,
    ) -> Iterator[Certificate]:
        """Yield certificates as they come in."""
        shape = bundle_of(self.method).input_shape
        self._pool.cut = cutter(images, image_ids, labels, book, shape)
        slots = self.settings.in_flight(self.method.serial)
        size = lease_size(len(image_ids), self._count, slots)
        return self._conductor.run(Leases(image_ids, size))

    def close(self) -> None:
        """Stop the workers."""
        self._pool.close()


def open_session(
    method: Method,
    settings: Settings,
    make: MakeSampler | None,
    workers: int | None,
    ray: str | None,
) -> Session | Workers:
    """A session of this process, or workers: so many, or as many actors on Ray."""
    if workers is not None:
        positive_integer("workers", workers)
    if method.serial and (ray is not None or workers not in (None, 1)):
        rule = f"must be left out with {method.name}"
        hint = "an answer depends on all answers before it"
        raise ArgumentError("workers", rule, workers, hint)
    if ray is None and workers in (None, 1):
        return fitting_session(method, settings, make)
    return Workers(method, settings, make, workers or RAY_WORKERS, ray)
