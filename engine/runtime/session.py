"""A method, its networks on a device, and the scheduler: certify or predict many images."""

from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial
from itertools import repeat
from typing import Any

from dualsmooth.engine.certificate import Certificate, Claim, Stamp
from dualsmooth.engine.draws import Counts, Draw, DrawRecord, Prediction
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.images import AnyArray, check_ids, check_labels
from dualsmooth.engine.methods.method import Method
from dualsmooth.engine.methods.search import Search
from dualsmooth.engine.models.bundle import Bundle
from dualsmooth.engine.noise.integer import tables_digest
from dualsmooth.engine.runtime.flight import Flight, Result
from dualsmooth.engine.runtime.known import RecordedVotes
from dualsmooth.engine.runtime.returned import checked_claim
from dualsmooth.engine.runtime.scheduler import Occupancy, Scheduler
from dualsmooth.engine.runtime.turns import in_turn
from dualsmooth.engine.samplers.inputs import host_image, image_in_place, read_images
from dualsmooth.engine.samplers.sampler import Closing, MakeSampler, Sampler
from dualsmooth.engine.settings import Settings

RECORDED = ("seed", "attempt", "device", "precision", "noise")
"""Settings that decide votes and stand in every certificate."""

BOUND = ("bundle", "noise", "precision", "device", "sampler", "batch_size")
"""Parts of the stamp that answers kept for later runs are about (`Method.bind`)."""


def _asking(draws: Sequence[Draw]) -> Generator[Draw, Counts, None]:
    for draw in draws:  # noqa: UP028 (`yield from` would send the votes to the list)
        yield draw


class Session(Closing):
    """A method over a sampler that is loaded once, for any number of images.

    ``about`` names parts of the stamp that the settings and the method's bundle do not have right.
    Settings that do not fit the method are an `ArgumentError`.
    """

    def __init__(self, method: Method, settings: Settings, sampler: Sampler, **about: str) -> None:
        bundle = bundle_of(method)
        _check_fit(method, settings)
        self.method, self.settings, self.sampler = method, settings, sampler
        self.shape, self._slots = bundle.input_shape, settings.in_flight(method.serial)
        self.sampler_name, self.batch_size = sampler.name, sampler.batch_size
        self.tried = {**settings.tried, **sampler.tried}
        facts = {name: getattr(settings, name) for name in RECORDED} | {"bundle": bundle.digest}
        names: dict[str, Any] = {"method": method.name, "sampler": sampler.name, **facts, **about}
        self._stamp = Stamp(batch_size=sampler.batch_size, **names)
        method.bind({name: getattr(self._stamp, name) for name in BOUND})
        self.occupancy = Occupancy()

    @classmethod
    def open(cls, method: Method, settings: Settings, make: MakeSampler | None = None) -> "Session":
        """A session over the fastest sampler here, or what ``make`` gives for its arguments."""
        from dualsmooth.engine.samplers import choose, processors  # imports torch

        bundle = bundle_of(method)
        settings = choose.resolve(settings, bundle, method.needs_fp32)
        _check_fit(method, settings)
        sampler = (make or partial(choose.make_sampler, made=processors.taken(bundle, settings)))(
            {role: bundle.build(role) for role in method.roles},
            {role: bundle.outputs(role) for role in method.roles},
            bundle.input_shape,
            backend=settings.backend,
            slots=settings.in_flight(method.serial),
            batch_size=settings.padded_batch(bundle.input_shape),
            threads=settings.threads,
            **{name: getattr(settings, name) for name in RECORDED},
        )
        try:
            return cls(method, settings, sampler)
        except BaseException:
            sampler.close()
            raise

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
        budget, alpha = self.settings.budget, self.settings.alpha
        flights, ids = self._fly(images, image_ids, lambda at: at.certify(budget, alpha), book)
        classes = [-1] * len(ids) if labels is None else check_labels(labels, len(ids))
        truth = {i: c if c >= 0 else None for i, c in zip(ids, classes, strict=True)}
        return (self._stamped(flight, truth[flight.image_id]) for flight in flights)

    def predict(
        self, images: AnyArray, image_ids: Sequence[int] | None = None
    ) -> Iterator[tuple[int, Prediction]]:
        """Yield (image id, prediction) in the order in which images are decided.

        Uses ``budget.n`` votes per network; takes images and raises as `certify` does.
        """
        n, alpha = self.settings.budget.n, self.settings.alpha
        flights, _ = self._fly(images, image_ids, lambda at: at.predict(n, alpha))
        return ((flight.image_id, flight.result) for flight in flights)

    def search(self, images: AnyArray, search: Search) -> Iterator[tuple[int, float]]:
        """Yield (position, noise level) in the order in which searches end.

        Takes images and raises as `certify` does.
        """
        flights, _ = self._fly(images, None, lambda at: search.run(at.networks))
        return ((flight.image_id, flight.result) for flight in flights)

    def redraw(
        self, images: AnyArray, image_ids: Sequence[int], draws: Sequence[Sequence[Draw]]
    ) -> Iterator[tuple[int, tuple[DrawRecord, ...]]]:
        """Yield (image id, votes of its draws) for draws that are known beforehand."""
        known = iter(draws)
        flights, _ = self._fly(images, image_ids, lambda at: _asking(next(known)))
        return ((flight.image_id, tuple(flight.records)) for flight in flights)

    def _fly(
        self,
        images: AnyArray,
        image_ids: Sequence[int] | None,
        procedure: Callable[[Method], Generator[Draw, Counts, Result]],
        book: RecordedVotes | None = None,
    ) -> tuple[Iterator[Flight[Result]], list[int]]:
        """Flights as they finish, each a procedure of the method at one image; and the ids."""
        array = read_images(images, self.shape, on_grid=self.settings.noise == "integer")
        ids = check_ids(image_ids, len(array))
        here = (self.method.at(host_image(image)) for image in array)
        methods = here if self.method.needs_image else repeat(self.method)
        flights = [Flight(i, procedure(at), book) for i, at in zip(ids, methods, strict=False)]
        scheduler: Scheduler[Result] = Scheduler(self.sampler, self._slots)
        self.occupancy = scheduler.occupancy
        read = image_in_place if self.settings.device == "cuda" else host_image
        flights.reverse()  # taken from the list, so that finished ones are not kept
        found = scheduler.run((flights.pop(), partial(read, image)) for image in array)
        return in_turn(self.sampler, found, len(ids)), ids

    def _stamped(self, flight: Flight[Claim], label: int | None) -> Certificate:
        records, tables = flight.records, ""
        if self._stamp.noise == "integer":
            tables = tables_digest(record.sigma for record in records)
        seconds, image_id = round(flight.seconds, 6), flight.image_id
        classes = bundle_of(self.method).num_classes
        claim = checked_claim(flight.result, classes, self.settings.alpha)
        return Certificate.of(claim, self._stamp, image_id, label, records, seconds, tables)

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
