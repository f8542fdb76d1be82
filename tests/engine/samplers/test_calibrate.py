from collections.abc import Callable

import torch

from dualsmooth.engine.samplers.calibrate import agrees, fastest


def clock(times: dict[str, list[float]]) -> tuple[Callable[..., float], list[str]]:
    """A timer that takes what it returns from lists, and the order in which it was asked."""
    order: list[str] = []

    def seconds(work: Callable[[], str]) -> float:
        order.append(work())
        return times[order[-1]].pop(0)

    return seconds, order


def choose(times: dict[str, list[float]], rounds: int) -> tuple[str, list[str]]:
    seconds, order = clock(times)
    passes = {name: (lambda name=name: name) for name in times}
    return fastest(passes, seconds, rounds), order


def test_the_lowest_median_wins_and_the_first_round_does_not_count() -> None:
    chosen, order = choose({"a": [0.1, 3.0, 3.0, 3.0], "b": [9.0, 2.0, 50.0, 2.0]}, 3)
    assert chosen == "b"
    assert order == ["a", "b"] * 4


def test_equal_times_go_to_the_first() -> None:
    assert choose({"a": [1.0, 1.0], "b": [1.0, 1.0]}, 1)[0] == "a"


def test_a_backend_may_lose_one_vote_in_a_hundred_beyond_the_precision() -> None:
    truth = torch.eye(2)[torch.zeros(1000, dtype=torch.int64)]

    def moved(votes: int) -> torch.Tensor:
        scores = truth.clone()
        scores[:votes] = scores[:votes].flip(1)
        return scores

    assert agrees(moved(10), truth, truth)
    assert not agrees(moved(11), truth, truth)
    assert agrees(moved(60), moved(50), truth)
    assert not agrees(moved(61), moved(50), truth)
