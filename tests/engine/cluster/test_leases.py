"""Leases: every image is certified once, whatever happens to workers."""

from hypothesis import given
from hypothesis import strategies as st

from dualsmooth.engine.cluster.leases import MOST_LOSSES, Leases, lease_size


def test_images_are_cut_in_order_and_slow_leases_are_given_again() -> None:
    leases = Leases(range(10), 4)
    first, second, third = (leases.give(worker) for worker in range(3))
    assert first is not None
    assert [lease.image_ids for lease in (first, second, third) if lease] == [
        (0, 1, 2, 3), (4, 5, 6, 7), (8, 9),
    ]  # fmt: skip
    again = leases.give(3)
    assert again is first
    assert leases.left(first.number) == [0, 1, 2, 3]
    assert leases.certified(1)
    assert not leases.certified(1)
    assert leases.left(first.number) == [0, 2, 3]
    leases.done(first.number)
    assert leases.left(first.number) == []
    assert leases.give(3) is second
    assert leases.give(3) is third
    assert leases.give(3) is None  # at most two workers share one


def test_leases_of_a_lost_worker_come_first_and_deadly_ones_are_given_up() -> None:
    leases = Leases(range(6), 2)
    deadly = leases.give(0)
    assert deadly is not None
    for worker in range(MOST_LOSSES):
        assert leases.missing
        leases.lost(worker)
        if worker + 1 < MOST_LOSSES:
            assert leases.give(worker + 1) is deadly
    assert leases.failed == [0, 1]
    for image_id in range(2, 6):
        assert leases.certified(image_id)
    assert not leases.missing


@given(st.integers(1, 10_000), st.integers(1, 1000), st.integers(1, 64))
def test_lease_sizes(images: int, workers: int, slots: int) -> None:
    size = lease_size(images, workers, slots)
    assert 1 <= size <= slots
    assert size == 1 or images // size >= 8 * workers


@given(st.data(), st.integers(1, 30), st.integers(1, 5), st.integers(1, 6))
def test_any_history_certifies_every_image_once_or_gives_it_up(
    data: st.DataObject, images: int, size: int, workers: int
) -> None:
    leases, next_worker = Leases(range(images), size), workers
    at_work: dict[int, tuple[int, list[int]]] = {}
    idle, certified = list(range(workers)), []
    while leases.missing:
        for worker in list(idle):
            lease = leases.give(worker)
            if lease is not None:
                idle.remove(worker)
                at_work[worker] = lease.number, leases.left(lease.number)
        assert at_work, "nobody works and images are missing"
        worker = data.draw(st.sampled_from(sorted(at_work)))
        number, left = at_work[worker]
        what = data.draw(st.sampled_from(["certify", "certify", "lose"]))
        if what == "lose":
            leases.lost(worker)
            del at_work[worker]
            idle.append(next_worker)
            next_worker += 1
        elif left:
            if leases.certified(left.pop(0)):
                certified.append(number)
        else:
            leases.done(number)
            del at_work[worker]
            idle.append(worker)
    assert len(certified) + len(leases.failed) == images
    assert len(set(leases.failed)) == len(leases.failed)
