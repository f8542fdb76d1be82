"""Calls on one sampler, read side by side: each works alone, and none waits for a reader."""

from collections.abc import Iterator

import pytest

from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.runtime.turns import in_turn
from dualsmooth.engine.samplers.null import FakeSampler

COUNT = 3


class Calls:
    """Calls on a sampler; ``worked`` is what was done, in order."""

    def __init__(self) -> None:
        self.sampler, self.worked = FakeSampler({}, {"net": 2}, (1, 1, 1)), list[str]()

    def call(self, name: str, fails: BaseException | None = None) -> Iterator[str]:
        """Answers ``name0 .. name2``; the second fails, or is an error."""

        def work() -> Iterator[str]:
            for i in range(COUNT):
                if fails and i == 1:
                    raise fails
                self.worked.append(f"{name}{i}")
                yield f"{name}{i}"
            self.worked.append(f"{name} ends")

        return in_turn(self.sampler, work(), COUNT)


@pytest.fixture
def calls() -> Calls:
    return Calls()


def test_who_comes_finishes_what_is_half_read_and_its_answers_are_kept(calls: Calls) -> None:
    pairs = list(zip(calls.call("a"), calls.call("b"), strict=True))
    assert pairs == [("a0", "b0"), ("a1", "b1"), ("a2", "b2")]
    assert calls.worked == ["a0", "a1", "a2", "a ends", "b0", "b1", "b2", "b ends"]


def test_nobody_works_for_a_reader_who_has_gone(calls: Calls) -> None:
    first = calls.call("a")
    assert next(first) == "a0"
    del first
    assert list(calls.call("b")) == ["b0", "b1", "b2"]
    assert calls.worked == ["a0", "b0", "b1", "b2", "b ends"]


def test_an_error_is_its_own_reader_s(calls: Calls) -> None:
    first = calls.call("a", ValueError("pixels"))
    assert next(first) == "a0"
    assert list(calls.call("b")) == ["b0", "b1", "b2"]
    with pytest.raises(ValueError, match="pixels"):
        next(first)


def test_ctrl_c_while_another_call_is_finished_stops_both(calls: Calls) -> None:
    first = calls.call("a", KeyboardInterrupt())
    next(first)
    with pytest.raises(KeyboardInterrupt):
        next(calls.call("b"))
    with pytest.raises(KeyboardInterrupt):
        next(first)
    assert list(calls.call("c")) == ["c0", "c1", "c2"]


def test_a_call_from_within_another_is_refused(calls: Calls) -> None:
    def work() -> Iterator[str]:
        yield from calls.call("inner")

    with pytest.raises(ArgumentError, match=r"images must not be certified while others are"):
        next(in_turn(calls.sampler, work(), COUNT))
