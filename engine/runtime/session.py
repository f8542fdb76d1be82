"""A method, its networks on a device, and the scheduler: certify or predict many images."""

from collections.abc import Generator, Iterator, Sequence
from functools import partial
from types import TracebackType

from dualsmooth.engine.certificate import Certificate, Claim, Stamp
from dualsmooth.engine.draws import Counts, Draw, DrawRecord, Prediction
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.images import AnyArray, check_ids, check_labels
from dualsmooth.engine.methods.method import Method
from dualsmooth.engine.methods.search import Search
from dualsmooth.engine.models.bundle import Bundle
from dualsmooth.engine.noise.integer import tables_digest
from dualsmooth.engine.runtime.flight import Flight, RecordedVotes, Result
from dualsmooth.engine.runtime.scheduler import Occupancy, Scheduler
from dualsmooth.engine.samplers.choose import make_sampler, resolve
from dualsmooth.engine.samplers.inputs import Images, host_image, image_in_place, read_images
from dualsmooth.engine.samplers.sampler import MakeSampler
from dualsmooth.engine.settings import Settings

BOUND = ("bundle", "noise", "precision", "device", "sampler", "batch_size")
"""Parts of the stamp that answers kept for later runs are about (`Method.bind`)."""


def _asking(draws: Sequence[Draw]) -> Generator[Draw, Counts, None]:
    for draw in draws:  # noqa: UP028 (`yield from` would send the votes to the list)
        yield draw


class Session:
    """Networks loaded once, for any number of images.

    Parameters
    ----------
    method : Method
        What is certified.
    settings : Settings
        How votes are drawn.
    make : callable, optional
        Makes the sampler; takes what `make_sampler` takes, which is the default.

    Raises
    ------
    ArgumentError
        If the method answers one image at a time or needs float32, and the settings do not fit.
    """

    def __init__(self, method: Method, settings: Settings, make: MakeSampler | None = None) -> None:
        self.bundle = bundle_of(method)
        settings = resolve(settings, self.bundle)
        _check_fit(method, settings)
        self.method, self.settings = method, settings
        self._slots = settings.in_flight(method.serial)
        self.shape = self.bundle.input_shape
        self.sampler = (make or make_sampler)(
            {role: self.bundle.build(role) for role in method.roles},
            {role: self.bundle.outputs(role) for role in method.roles},
            self.shape,
            device=settings.device,
            backend=settings.backend,
            slots=self._slots,
            seed=settings.seed,
            attempt=settings.attempt,
            batch_size=settings.padded_batch(self.shape),
            threads=settings.threads,
            precision=settings.precision,
            noise=settings.noise,
        )
        self._stamp = Stamp(
            method=method.name,
            seed=settings.seed,
            attempt=settings.attempt,
            bundle=self.bundle.digest,
            precision=settings.precision,
            device=settings.device,
            sampler=self.sampler.name,
            batch_size=self.sampler.batch_size,
            noise=settings.noise,
        )
        try:
            method.bind({name: getattr(self._stamp, name) for name in BOUND})
        except BaseException:
            self.sampler.close()
            raise
        self.occupancy = Occupancy()
        self.sampler_name, self.batch_size = self.sampler.name, self.sampler.batch_size
        self.failed: list[int] = []

    def certify(
        self,
        images: AnyArray,
        image_ids: Sequence[int] | None = None,
        labels: Sequence[int] | None = None,
        book: RecordedVotes | None = None,
    ) -> Iterator[Certificate]:
        """Yield certificates in the order in which images are decided.

        Parameters
        ----------
        images : array_like, shape (count, height, width, channels)
            uint8, or floating point in [0, 1]; NumPy, PyTorch, CuPy or any array with
            ``__dlpack__``. Nothing is copied, and images on a device are not moved to the host
            unless the method reads pixels or the run is on the processor.
        image_ids : sequence of int, optional
            Distinct ids in [0, 2^32); an image's noise depends on its id, not on its position.
        labels : sequence of int, optional
            True classes, copied into the certificates; negative where unknown.
        book : RecordedVotes, optional
            Votes of earlier runs on the same images, read instead of drawn.

        Raises
        ------
        ArgumentError
            If images or ids are invalid; nothing is drawn then.
        """
        array = self._checked(images)
        ids = check_ids(image_ids, len(array))
        classes = [] if labels is None else check_labels(labels, len(ids))
        truth = dict(zip(ids, classes, strict=False))
        budget, alpha = self.settings.budget, self.settings.alpha
        flights = [
            Flight(i, self._at(image).certify(budget, alpha), book)
            for i, image in zip(ids, array, strict=True)
        ]
        return (self._stamped(flight, truth) for flight in self._run(flights, array))

    def predict(
        self, images: AnyArray, image_ids: Sequence[int] | None = None
    ) -> Iterator[tuple[int, Prediction]]:
        """Yield (image id, prediction) in the order in which images are decided.

        Uses ``budget.n`` votes per network; takes images and raises as `certify` does.
        """
        array = self._checked(images)
        n, alpha = self.settings.budget.n, self.settings.alpha
        ids = check_ids(image_ids, len(array))
        flights = [
            Flight(i, self._at(image).predict(n, alpha))
            for i, image in zip(ids, array, strict=True)
        ]
        for flight in self._run(flights, array):
            assert flight.result is not None
            yield flight.image_id, flight.result

    def search(
        self, images: AnyArray, search: Search, image_ids: Sequence[int] | None = None
    ) -> Iterator[tuple[int, float]]:
        """Yield (image id, noise level) in the order in which searches end.

        Takes images and raises as `certify` does.
        """
        array = self._checked(images)
        ids = check_ids(image_ids, len(array))
        flights = [Flight(i, search.run(self.method.networks)) for i in ids]
        for flight in self._run(flights, array):
            assert flight.result is not None
            yield flight.image_id, flight.result

    def redraw(
        self, images: AnyArray, image_ids: Sequence[int], draws: Sequence[Sequence[Draw]]
    ) -> Iterator[tuple[int, tuple[DrawRecord, ...]]]:
        """Yield (image id, votes of its draws) for draws that are known beforehand."""
        array = read_images(images, self.shape)
        ids = check_ids(image_ids, len(array))
        flights = [Flight(i, _asking(asked)) for i, asked in zip(ids, draws, strict=True)]
        for flight in self._run(flights, array):
            yield flight.image_id, tuple(flight.records)

    def _run(self, flights: list[Flight[Result]], images: Images) -> Iterator[Flight[Result]]:
        scheduler: Scheduler[Result] = Scheduler(self.sampler, self._slots)
        self.occupancy = scheduler.occupancy
        read = image_in_place if self.settings.device == "cuda" else host_image
        flights.reverse()  # taken from the list, so that finished ones are not kept
        return scheduler.run((flights.pop(), partial(read, image)) for image in images)

    def _stamped(self, flight: Flight[Claim], truth: dict[int, int]) -> Certificate:
        assert flight.result is not None
        label, records = truth.get(flight.image_id), flight.records
        tables = ""
        if self._stamp.noise == "integer":
            tables = tables_digest(record.sigma for record in records)
        return Certificate.of(
            flight.result,
            self._stamp,
            flight.image_id,
            None if label is None or label < 0 else int(label),
            records,
            round(flight.seconds, 6),
            tables,
        )

    def _at(self, image: Images) -> Method:
        method = self.method
        return method.at(host_image(image)) if method.needs_image else method

    def _checked(self, images: AnyArray) -> Images:
        return read_images(images, self.shape, on_grid=self.settings.noise == "integer")

    def close(self) -> None:
        """Stop the sampler's threads."""
        self.sampler.close()

    def __enter__(self) -> "Session":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _check_fit(method: Method, settings: Settings) -> None:
    if method.serial and settings.in_flight(serial=True) != 1:
        rule, hint = f"must be 1 with {method.name}", "an answer depends on all answers before it"
        raise ArgumentError("slots", rule, settings.slots, hint)
    if method.needs_fp32 and settings.precision != "fp32":
        rule, hint = f"must be fp32 with {method.name}", "votes stand for values of a noise level"
        raise ArgumentError("precision", rule, settings.precision, hint)


def bundle_of(method: Method) -> Bundle:
    """The bundle a method votes with.

    Raises
    ------
    ArgumentError
        If the method was made from names alone, without networks.
    """
    if not isinstance(method.networks, Bundle):
        raise ArgumentError("method", "must be made from a Bundle", type(method.networks).__name__,
                            "load_bundle or Bundle.from_modules make one")  # fmt: skip
    return method.networks
