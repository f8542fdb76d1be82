from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import pytest

from dualsmooth.engine.budget import Budget
from dualsmooth.engine.certificate import Claim
from dualsmooth.engine.errors import SamplerError
from dualsmooth.engine.methods.dual import DualSmoothing
from dualsmooth.engine.runtime.drive import drive
from dualsmooth.engine.runtime.flight import Flight
from dualsmooth.engine.runtime.scheduler import Scheduler
from dualsmooth.engine.samplers.sampler import Pending, Sampler, Segment, unroll

Job = tuple[Flight[Claim], Callable[[], np.ndarray]]
Flights = dict[int, Flight[Claim]]


class ThreeLevels:
    sigmas = (0.12, 0.25, 0.5)
    tau = 0.5

    def classifier_at(self, sigma: float) -> str:
        return f"classifier@{sigma:g}"


class HashedVotes(Sampler):
    """Votes are a pure function of (model, image, stream, sample), as an honest sampler's are."""

    batch_size = 32
    capacity = 64

    def __init__(self, depth: int = 1) -> None:
        self.depth = depth
        self.loaded: dict[int, int] = {}
        self.most_slots = 0
        self.under_way: list[int] = []
        self.most_under_way = 0

    def load(self, slot: int, image: np.ndarray) -> None:
        self.loaded[slot] = int(image[0, 0, 0])
        self.most_slots = max(self.most_slots, len(self.loaded))

    def submit(self, model: str, segments: Sequence[Segment]) -> Pending:
        """Nothing is counted before it is asked for, so a slot given away too early shows."""
        self.under_way.append(sum(s.count for s in segments))
        self.most_under_way = max(self.most_under_way, len(self.under_way))

        def collect() -> np.ndarray:
            self.under_way.pop(0)
            return self.count(model, segments)

        return collect

    def count(self, model: str, segments: Sequence[Segment]) -> np.ndarray:
        rows = unroll(segments)
        assert len(rows) <= self.capacity
        assert all(self.loaded[s.slot] == s.image_id for s in segments)
        mixed = (
            rows["sample"] * np.uint64(2654435761)
            + rows["image_id"] * np.uint64(97)
            + rows["stream"] * np.uint64(13)
            + np.uint64(len(model))
        ) % np.uint64(1000)
        classes = 4
        vote = np.where(
            mixed < 930, rows["image_id"] % np.uint64(classes - 1), mixed % np.uint64(classes)
        )
        flat = np.bincount(rows["segment"] * classes + vote.astype(np.int64),
                           minlength=len(segments) * classes)  # fmt: skip
        return flat.reshape(len(segments), classes)


def image(image_id: int) -> np.ndarray:
    return np.full((2, 2, 1), image_id, np.float32)


def certify(ids: Sequence[int], slots: int, depth: int = 1) -> tuple[Flights, Scheduler[Claim]]:
    method = DualSmoothing(ThreeLevels())
    scheduler: Scheduler[Claim] = Scheduler(HashedVotes(depth), slots)
    jobs = (
        (Flight(i, method.certify(Budget.fixed(n0=11, n=205), 0.01)), partial(image, i))
        for i in ids
    )
    return {f.image_id: f for f in scheduler.run(jobs)}, scheduler


def outcome(flight: Flight[Claim]) -> tuple[object, ...]:
    return flight.result, flight.records


def test_scheduler_equals_the_reference_driver() -> None:
    flights, _ = certify(range(40), slots=5)
    method, sampler = DualSmoothing(ThreeLevels()), HashedVotes()
    assert len(flights) == 40
    for image_id, flight in flights.items():
        sampler.load(0, image(image_id))
        procedure = method.certify(Budget.fixed(n0=11, n=205), 0.01)
        alone = drive(Flight(image_id, procedure, slot=0), sampler)
        assert outcome(alone) == outcome(flight)
        assert alone.result.radius > 0


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("slots", [1, 3, 16, 100])
def test_slots_order_subsets_and_depth_change_nothing(slots: int, depth: int) -> None:
    base, _ = certify(range(30), slots=7)
    for ids in (range(30), range(29, -1, -1), range(4, 30, 5)):
        flights, _ = certify(ids, slots, depth)
        assert sorted(flights) == sorted(ids)
        assert all(outcome(flights[i]) == outcome(base[i]) for i in ids)


@pytest.mark.parametrize("depth", [1, 2])
def test_batches_are_full_and_slots_bound_the_memory(depth: int) -> None:
    flights, scheduler = certify(range(200), slots=16, depth=depth)
    assert scheduler.occupancy.used == sum(
        record.count for flight in flights.values() for record in flight.records
    )
    assert scheduler.occupancy.share > 0.97
    assert isinstance(scheduler.sampler, HashedVotes)
    assert scheduler.sampler.most_slots == 16
    assert scheduler.sampler.most_under_way == depth


def test_what_is_submitted_while_something_runs_needs_no_padding() -> None:
    class Watched(HashedVotes):
        def submit(self, model: str, segments: Sequence[Segment]) -> Pending:
            if self.under_way:
                assert sum(s.count for s in segments) % self.batch_size == 0
            return super().submit(model, segments)

    method, ids = DualSmoothing(ThreeLevels()), range(20)
    scheduler: Scheduler[Claim] = Scheduler(Watched(2), 4)
    procedures = {i: method.certify(Budget.fixed(n0=11, n=205), 0.01) for i in ids}
    jobs = [(Flight(i, procedures[i]), partial(image, i)) for i in ids]
    base, _ = certify(ids, slots=4)
    for flight in scheduler.run(jobs):
        assert outcome(flight) == outcome(base[flight.image_id])


def test_images_leave_as_they_are_decided() -> None:
    """Jobs are pulled only as slots become free."""
    pulled = []

    def jobs() -> Iterator[Job]:
        method = DualSmoothing(ThreeLevels())
        for i in range(50):
            pulled.append(i)
            yield Flight(i, method.certify(Budget.fixed(n0=11, n=205), 0.01)), partial(image, i)

    scheduler: Scheduler[Claim] = Scheduler(HashedVotes(), 4)
    for finished, _ in enumerate(scheduler.run(jobs()), 1):
        assert len(pulled) <= finished + 4


@pytest.mark.parametrize("fault", ["lost", "doubled", "negative"])
def test_wrong_totals_are_refused(fault: str) -> None:
    class Faulty(HashedVotes):
        def count(self, model: str, segments: Sequence[Segment]) -> np.ndarray:
            votes = super().count(model, segments)
            if fault == "lost":
                votes[0, votes[0].argmax()] -= 1
            elif fault == "doubled":
                votes *= 2
            else:
                votes[0, :2] += (votes[0].sum() + 1, -votes[0].sum() - 1)
            return votes

    method = DualSmoothing(ThreeLevels())
    scheduler: Scheduler[Claim] = Scheduler(Faulty(), 2)
    job = (Flight(0, method.certify(Budget.fixed(n0=11, n=205), 0.01)), lambda: image(0))
    with pytest.raises(SamplerError, match="image 0: votes must be >= 0 and sum to 11"):
        list(scheduler.run([job]))
