"""The CPU suite: fair rounds, honest ratios, and a gate that notices wrong votes."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dualsmooth.benchmarks import cpu, peers
from dualsmooth.benchmarks.rounds import best, interleave, ratio
from dualsmooth.engine.errors import ArgumentError

CASE = cpu.Case("small_convnet", (8, 8, 1), 640, {"widths": [4], "hidden": 8})


def draws() -> dict[str, peers.Draw]:
    return {
        "ours fp32": cpu.ours(CASE, "fp32"),
        "cohen 64": peers.cohen(CASE.network(), CASE.image, cpu.SIGMA, cpu.CLASSES, 64),
    }


def test_every_contestant_runs_once_per_round_in_changing_order() -> None:
    calls: list[str] = []
    seconds = interleave({name: partial(calls.append, name) for name in "abc"}, 7)
    assert {name: len(times) for name, times in seconds.items()} == {"a": 7, "b": 7, "c": 7}
    rounds = ["".join(calls[i : i + 3]) for i in range(0, 24, 3)]
    assert {"".join(sorted(round_)) for round_ in rounds} == {"abc"}
    assert len(set(rounds)) > 1


def test_ratios_are_of_paired_rounds() -> None:
    fast = [1.0, 2.0, 4.0, 8.0, 3.0]
    figures = ratio([3 * t for t in fast], fast)
    assert (figures["median"], figures["interval_95"], figures["rounds"]) == (3.0, [3.0, 3.0], 5)
    assert best({"x": [2.0, 2.0, 9.0], "y": [3.0, 1.0, 4.0]}, ["x", "y"]) == "x"


def test_votes_of_ours_and_of_the_loop_pass_the_gate_and_differ_by_class() -> None:
    contestants = draws()
    cpu.check(contestants, CASE.n)
    assert (contestants["cohen 64"](CASE.n) > 0).sum() >= 3


@pytest.mark.parametrize("fault", ["shifted", "lost"])
def test_the_gate_notices_wrong_votes(fault: str) -> None:
    contestants, true = draws(), draws()["ours fp32"]

    def faulty(n: int) -> NDArray[np.int64]:
        return np.roll(true(n), 1) if fault == "shifted" else true(n - 1)

    with pytest.raises(AssertionError):
        cpu.check(contestants | {"ours fp32": faulty}, CASE.n)


def test_the_loop_adds_noise_of_the_right_size() -> None:
    class Mean(torch.nn.Module):
        """Votes 1 if the mean of the noisy image is above that of the image."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            above = x.mean((1, 2, 3)) - float(CASE.image.mean())
            limit = cpu.SIGMA / 8  # one standard deviation of the mean of 64 pixels
            return torch.stack([torch.zeros(len(x)), above - limit], 1)

    votes = peers.cohen(Mean(), CASE.image, cpu.SIGMA, 2, 64)(6400)
    assert abs(votes[1] / 6400 - 0.1587) < 0.025  # five standard deviations


def test_bad_options_are_named(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"^networks must be among"):
        cpu.run(3, ("vgg",), tmp_path / "new")
    with pytest.raises(ArgumentError, match=r"^rounds "):
        cpu.run(0, ("small",), tmp_path / "new")
    assert not (tmp_path / "new").exists()
