import math
from collections.abc import Callable

import pytest
import torch

from dualsmooth.engine.samplers.calibrate import Judge, fastest


def clock(times: dict[str, list[float]]) -> tuple[Callable[..., float], list[str]]:
    """A timer that takes what it returns from lists, and the order in which it was asked."""
    order: list[str] = []

    def seconds(work: Callable[[], str]) -> float:
        order.append(work())
        return times[order[-1]].pop(0)

    return seconds, order


def choose(
    times: dict[str, list[float]], rounds: int, most: float = math.inf
) -> tuple[str, list[str]]:
    seconds, order = clock(times)
    passes = {name: (lambda name=name: name) for name in times}
    return next(iter(fastest(passes, seconds, rounds, most))), order


def test_the_lowest_median_wins_and_the_first_round_does_not_count() -> None:
    chosen, order = choose({"a": [0.1, 3.0, 3.0, 3.0], "b": [9.0, 2.0, 50.0, 2.0]}, 3)
    assert chosen == "b"
    assert order == ["a", "b"] * 4


@pytest.mark.parametrize(
    ("times", "order"),
    [
        ({"a": [1.0, 1.0], "b": [9.0, 1.6]}, "abab"),
        ({"a": [1.0, 1.0, 1.0, 1.0], "b": [1.4, 9.0, 2.0, 2.0]}, "abababab"),
        ({"a": [1.0] * 4, "b": [2.0] * 2, "c": [1.1] * 4}, "abcabcacac"),
        ({"a": [1.0] * 2}, "aa"),
    ],
)
def test_what_is_plainly_slower_every_time_is_not_asked_again(
    times: dict[str, list[float]], order: str
) -> None:
    assert choose(times, 3) == ("a", list(order))


@pytest.mark.parametrize(("most", "rounds"), [(4.0, 2), (4.1, 3), (5.9, 3), (8.0, 4)])
def test_no_round_begins_once_long_passes_have_taken_their_time(most: float, rounds: int) -> None:
    assert choose({"a": [1.0] * 4, "b": [1.0] * 4}, 3, most)[1] == ["a", "b"] * rounds


def test_equal_times_go_to_the_first() -> None:
    assert choose({"a": [1.0, 1.0], "b": [1.0, 1.0]}, 1)[0] == "a"


def test_a_backend_may_lose_one_vote_in_a_hundred_beyond_the_precision() -> None:
    truth = torch.eye(2)[torch.zeros(1000, dtype=torch.int64)]

    def moved(votes: int) -> torch.Tensor:
        scores = truth.clone()
        scores[:votes] = scores[:votes].flip(1)
        return scores

    def refusal(ours: int, theirs: int) -> str:
        return Judge(moved(theirs), truth).refusal(moved(ours))

    assert refusal(10, 0) == refusal(84, 50) == ""
    assert "1.10% of the votes, eager PyTorch 0.00%" in refusal(11, 0)
    assert "8.60%" in refusal(86, 50)


def test_logits_may_be_as_far_from_float32_as_eager_pytorch_is() -> None:
    """A deep network's rounding errors may be larger than what rounding alone explains."""
    draws = torch.Generator().manual_seed(0)
    truth = torch.randn(64, 4, generator=draws)

    def off(by: float) -> torch.Tensor:
        return truth + by * torch.randn(64, 4, generator=draws).clamp(-2, 2)

    judge = Judge(off(0.5).bfloat16(), truth)
    assert judge.fault(off(0.5)) == ""
    assert "where eager PyTorch's are" in judge.fault(off(3.0))
    assert "finite" in judge.fault(truth / 0)
    one_row = off(0.5)
    one_row[7] += 9.0 * torch.eye(4)[0]
    assert judge.fault(one_row) != ""
    exact = Judge(truth, truth)
    assert exact.fault(truth + 1e-7) == ""
    assert exact.fault(off(0.1)) != ""
