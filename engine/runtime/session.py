"""A method, its networks on a device, and the scheduler: certify or predict many images."""

from collections.abc import Generator, Iterable, Iterator, Sequence
from functools import partial

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
from dualsmooth.engine.samplers.sampler import Closing, MakeSampler
from dualsmooth.engine.settings import Settings

RECORDED = ("seed", "attempt", "device", "precision", "noise")
"""Settings that decide votes and stand in every certificate."""

BOUND = ("bundle", "noise", "precision", "device", "sampler", "batch_size")
"""Parts of the stamp that answers kept for later runs are about (`Method.bind`)."""


def _asking(draws: Sequence[Draw]) -> Generator[Draw, Counts, None]:
    for draw in draws:  # noqa: UP028 (`yield from` would send the votes to the list)
        yield draw


class Session(Closing):
    """Networks loaded once, for any number of images.

    ``make`` takes what `make_sampler` takes, which is the default. Settings that do not fit the
    method are an `ArgumentError`.
    """

    def __init__(self, method: Method, settings: Settings, make: MakeSampler | None = None) -> None:
        self.bundle = bundle_of(method)
        settings = resolve(settings, self.bundle)
        _check_fit(method, settings)
        self.method, self.settings = method, settings
        self._slots = settings.in_flight(method.serial)
        self.shape = self.bundle.input_shape
        recorded = {name: getattr(settings, name) for name in RECORDED}
        self.sampler = (make or make_sampler)(
            {role: self.bundle.build(role) for role in method.roles},
            {role: self.bundle.outputs(role) for role in method.roles},
            self.shape,
            backend=settings.backend,
            slots=self._slots,
            batch_size=settings.padded_batch(self.shape),
            threads=settings.threads,
            **recorded,
        )
        self._stamp = Stamp(
            method=method.name,
            bundle=self.bundle.digest,
            sampler=self.sampler.name,
            batch_size=self.sampler.batch_size,
            **recorded,
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

        Images are as `dualsmooth.engine.api.certify` takes them: nothing is copied, and those on a
        device are not moved to the host unless the method reads pixels or the run is on the
        processor. An image's noise depends on its id, not on its position; negative labels are
        unknown; votes in ``book`` are read instead of drawn. If images or ids are invalid nothing
        is drawn.
        """
        array, ids = self._checked(images, image_ids)
        classes = [] if labels is None else check_labels(labels, len(ids))
        truth = dict(zip(ids, classes, strict=False))
        budget, alpha = self.settings.budget, self.settings.alpha
        procedures = (self._at(image).certify(budget, alpha) for image in array)
        return (self._stamped(flight, truth) for flight in self._run(array, ids, procedures, book))

    def predict(
        self, images: AnyArray, image_ids: Sequence[int] | None = None
    ) -> Iterator[tuple[int, Prediction]]:
        """Yield (image id, prediction) in the order in which images are decided.

        Uses ``budget.n`` votes per network; takes images and raises as `certify` does.
        """
        array, ids = self._checked(images, image_ids)
        n, alpha = self.settings.budget.n, self.settings.alpha
        yield from self._answers(array, ids, (self._at(x).predict(n, alpha) for x in array))

    def search(
        self, images: AnyArray, search: Search, image_ids: Sequence[int] | None = None
    ) -> Iterator[tuple[int, float]]:
        """Yield (image id, noise level) in the order in which searches end.

        Takes images and raises as `certify` does.
        """
        array, ids = self._checked(images, image_ids)
        yield from self._answers(array, ids, (search.run(self.method.networks) for _ in ids))

    def redraw(
        self, images: AnyArray, image_ids: Sequence[int], draws: Sequence[Sequence[Draw]]
    ) -> Iterator[tuple[int, tuple[DrawRecord, ...]]]:
        """Yield (image id, votes of its draws) for draws that are known beforehand."""
        array = read_images(images, self.shape)
        ids = check_ids(image_ids, len(array))
        for flight in self._run(array, ids, map(_asking, draws)):
            yield flight.image_id, tuple(flight.records)

    def _answers(
        self, images: Images, ids: list[int], procedures: Iterable[Generator[Draw, Counts, Result]]
    ) -> Iterator[tuple[int, Result]]:
        for flight in self._run(images, ids, procedures):
            assert flight.result is not None
            yield flight.image_id, flight.result

    def _run(
        self,
        images: Images,
        ids: list[int],
        procedures: Iterable[Generator[Draw, Counts, Result]],
        book: RecordedVotes | None = None,
    ) -> Iterator[Flight[Result]]:
        flights = [Flight(i, asked, book) for i, asked in zip(ids, procedures, strict=True)]
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
        known = None if label is None or label < 0 else int(label)
        seconds, image_id = round(flight.seconds, 6), flight.image_id
        return Certificate.of(flight.result, self._stamp, image_id, known, records, seconds, tables)

    def _at(self, image: Images) -> Method:
        method = self.method
        return method.at(host_image(image)) if method.needs_image else method

    def _checked(
        self, images: AnyArray, image_ids: Sequence[int] | None
    ) -> tuple[Images, list[int]]:
        array = read_images(images, self.shape, on_grid=self.settings.noise == "integer")
        return array, check_ids(image_ids, len(array))

    def close(self) -> None:
        """Stop the sampler's threads."""
        self.sampler.close()


def _check_fit(method: Method, settings: Settings) -> None:
    if method.serial and settings.in_flight(serial=True) != 1:
        rule, hint = f"must be 1 with {method.name}", "an answer depends on all answers before it"
        raise ArgumentError("slots", rule, settings.slots, hint)
    if method.needs_fp32 and settings.precision != "fp32":
        rule, hint = f"must be fp32 with {method.name}", "votes stand for values of a noise level"
        raise ArgumentError("precision", rule, settings.precision, hint)


def bundle_of(method: Method) -> Bundle:
    """The bundle a method votes with; `ArgumentError` if it was made from names alone."""
    if not isinstance(method.networks, Bundle):
        rule, hint = "must be made from a Bundle", "load_bundle or Bundle.from_modules make one"
        raise ArgumentError("method", rule, type(method.networks).__name__, hint)
    return method.networks
