"""Signs of life: progress is told, silence is noticed, and nothing is expected of the idle."""

from multiprocessing import Pipe
from typing import Any

import pytest

from dualsmooth.engine.cluster import heartbeat
from dualsmooth.engine.cluster.conductor import Alive
from dualsmooth.engine.cluster.heartbeat import ActorDeadlines, Deadlines, Heartbeat


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_silence_is_noticed_and_rest_is_not_silence() -> None:
    clock = Clock()
    deadlines = Deadlines(clock)
    deadlines.expect(1, 4.0)
    deadlines.expect(2, 4.0)
    clock.now = 4.0
    assert deadlines.overdue() == []
    deadlines.expect(2, 4.0)
    clock.now = 4.1
    assert deadlines.overdue() == [1]
    deadlines.rest(1)
    deadlines.rest(1)
    assert deadlines.overdue() == []
    clock.now = 8.1
    assert deadlines.overdue() == [2]


def test_nobody_is_late_while_we_were_stopped_ourselves() -> None:
    """Ctrl-Z, a machine that sleeps: the workers were stopped as well, or nobody heard them."""
    clock = Clock()
    deadlines = Deadlines(clock)
    deadlines.expect(1, 10.0)
    for clock.now in (4.0, 3600.0, 3602.0, 3605.0):  # at 4 it had 6 left
        assert deadlines.overdue() == []
    clock.now = 3606.1
    assert deadlines.overdue() == [1]


def test_a_worker_that_runs_batches_says_so_and_one_that_hangs_does_not() -> None:
    ours, theirs = Pipe()
    batches = iter(range(1, 4))
    beat = Heartbeat(theirs, 5, lambda: next(batches, 3), 0.01)
    assert [ours.recv() for _ in range(2)] == [Alive(5), Alive(5)]
    assert not ours.poll(0.2), "a sign of life without progress"
    beat.send("said")
    assert ours.recv() == "said"
    beat.close()
    beat.send("too late")
    assert not ours.poll(0.05)


def test_a_heartbeat_without_a_listener_ends() -> None:
    ours, theirs = Pipe()
    batches = iter(range(10_000))
    Heartbeat(theirs, 5, lambda: next(batches), 0.001)
    assert ours.recv() == Alive(5)
    ours.close()
    with pytest.raises(OSError, match=r"Broken pipe|reset"):
        theirs.send("anybody?")


class FakeRay:
    """Answers are numbers, and come at once unless they are None."""

    class exceptions:
        RayError = RuntimeError

    def wait(self, asked: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        done = [answer for answer in asked if answer is not None]
        return done, []

    def get(self, answer: Any, timeout: float = 0.0) -> Any:
        if answer == "dead":
            raise RuntimeError
        return answer


class FakeActor:
    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.progress = self

    def remote(self) -> Any:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@pytest.mark.parametrize(
    ("answers", "silent"),
    [(range(1, 99), False), ((3,), True), ((None,), True), (("dead",), True)],
    ids=["runs batches", "hangs", "cut off", "dead"],
)
def test_actors_are_asked(answers: tuple[Any, ...], silent: bool) -> None:
    clock = Clock()
    deadlines = ActorDeadlines(FakeRay(), clock)
    deadlines.start(4, FakeActor(*answers))
    for _ in range(1 + int(heartbeat.SILENCE / heartbeat.INTERVAL)):
        assert deadlines.overdue() == []
        clock.now += heartbeat.INTERVAL
    deadlines.overdue()
    clock.now += heartbeat.INTERVAL
    assert deadlines.overdue() == ([4] if silent else [])
    deadlines.rest(4)
    assert deadlines.overdue() == []
