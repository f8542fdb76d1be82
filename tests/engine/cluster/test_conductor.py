"""The conductor on a pool that is only a script of events."""

import dataclasses
from collections import deque
from collections.abc import Callable

import pytest

from dualsmooth.engine.cluster.conductor import (
    MOST_LOSSES_IN_A_ROW,
    TRIED_HERE,
    Certified,
    Conductor,
    Done,
    Event,
    Lost,
    Ready,
    Refused,
)
from dualsmooth.engine.cluster.leases import Leases
from dualsmooth.engine.errors import SamplerError, StoppedError
from tests.engine.conftest import CERTIFICATE

FACTS = {"sampler": "fake", "batch_size": 8}


def line(image_id: int, seed: int = 0) -> str:
    return dataclasses.replace(CERTIFICATE, image_id=image_id, seed=seed).to_json()


class ScriptedPool:
    """Workers 0 and 1; ``answer`` says what a worker does with a lease."""

    def __init__(self, answer: Callable[[int, int, list[int]], list[Event]]) -> None:
        self.queue: deque[Event] = deque([Ready(0, FACTS), Ready(1, FACTS)])
        self.answer = answer
        self.given: list[tuple[int, list[int]]] = []

    def give(self, worker: int, lease: int, image_ids: list[int]) -> None:
        self.given.append((worker, image_ids))
        self.queue.extend(self.answer(worker, lease, image_ids))

    def events(self) -> list[Event]:
        assert self.queue, "nothing will ever happen again"
        return [self.queue.popleft()]

    def close(self) -> None:
        pass


def finish(worker: int, lease: int, image_ids: list[int]) -> list[Event]:
    return [*(Certified(worker, lease, line(i)) for i in image_ids), Done(worker, lease, 7, 8)]


def run(pool: ScriptedPool, images: int = 10) -> tuple[list[int], Conductor]:
    conductor = Conductor(pool)
    assert conductor.facts() == FACTS
    return [c.image_id for c in conductor.run(Leases(range(images), 2))], conductor


def test_every_image_once() -> None:
    found, conductor = run(ScriptedPool(finish))
    assert sorted(found) == list(range(10))
    assert conductor.occupancy.share == 7 / 8


def test_a_lost_workers_images_are_certified_by_another() -> None:
    def answer(worker: int, lease: int, ids: list[int]) -> list[Event]:
        if worker == 0:
            return [Certified(0, lease, line(ids[0])), Lost(0, "killed"), Ready(2, FACTS)]
        return finish(worker, lease, ids)

    pool = ScriptedPool(answer)
    found, _ = run(pool)
    assert sorted(found) == list(range(10))
    assert pool.given[0][0] == 0
    assert any(worker != 0 and ids == pool.given[0][1][1:] for worker, ids in pool.given)


def test_a_silent_worker_is_overtaken() -> None:
    pool = ScriptedPool(lambda worker, lease, ids: [] if worker == 0 else finish(1, lease, ids))
    found, _ = run(pool)
    assert sorted(found) == list(range(10))


def test_second_answers_are_compared() -> None:
    def answer(worker: int, lease: int, ids: list[int], seed: int) -> list[Event]:
        if worker == 0:
            return finish(0, lease, ids)
        late = [Certified(1, lease, line(i, seed)) for i in (*ids, 0)]
        return [*late, Done(1, lease, 7, 8)]

    found, _ = run(ScriptedPool(lambda w, n, ids: answer(w, n, ids, 0)))
    assert sorted(found) == list(range(10))
    with pytest.raises(SamplerError, match="two workers drew different votes"):
        run(ScriptedPool(lambda w, n, ids: answer(w, n, ids, 5)))


def test_a_worker_that_would_draw_other_votes_is_not_used() -> None:
    pool = ScriptedPool(finish)
    pool.queue[1] = Ready(1, FACTS | {"batch_size": 16})
    with pytest.raises(SamplerError, match=r"worker 1 would draw other votes.*batch_size 8, there"):
        run(pool)


def test_what_auto_tried_in_the_first_worker_is_told() -> None:
    pool, tried = ScriptedPool(finish), {"classifier": {"triton": 0.5, "onchip": "no CuPy"}}
    pool.queue[0] = Ready(0, FACTS | {TRIED_HERE: tried})
    pool.queue[1] = Ready(1, FACTS | {TRIED_HERE: {"classifier": {"triton": 0.6}}})
    _, conductor = run(pool)
    assert conductor.tried == tried


def test_errors_on_purpose_stop_the_run() -> None:
    with pytest.raises(SamplerError, match="worker 0: votes must"):
        run(ScriptedPool(lambda worker, lease, ids: [Refused(worker, "votes must")]))


def test_workers_that_keep_dying_stop_the_run() -> None:
    pool = ScriptedPool(finish)
    pool.queue = deque(Lost(i, "no memory") for i in range(MOST_LOSSES_IN_A_ROW))
    with pytest.raises(StoppedError, match="workers keep dying, the last of them: no memory"):
        Conductor(pool).facts()
