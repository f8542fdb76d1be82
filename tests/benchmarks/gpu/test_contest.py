"""The parts of a device's contest at small sizes on the CPU, and that its checks notice faults."""

import time
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from dualsmooth.benchmarks.gpu import contest, peers, votes
from dualsmooth.benchmarks.gpu.votes import Subject, Work, work_of
from dualsmooth.benchmarks.speed.networks import resnet18_cifar, resnet50, wrn_28_10
from dualsmooth.engine.models.registry import create
from dualsmooth.engine.samplers.null import HostStream

CPU = torch.device("cpu")
SMALL = Subject("small", partial(create, "cifar_resnet20", {}), 8, 32, 150, 60, ("triton", "eager"))
NETWORK = SMALL.balanced(16)


def make(backend: str = "eager", **options: Any) -> Any:
    return SMALL.sampler(
        NETWORK, backend, **{"stream": HostStream(), "precision": "fp32"} | options
    )


def test_samplers_pass_their_checks() -> None:
    figures = votes.check_repeats(make(), 150)
    assert figures["votes"] >= 150
    assert figures["largest share"] < 0.9
    half = make("triton", precision="bf16")
    small = make("triton", precision="bf16", batch_size=8)
    assert votes.check_same("the batch shape", half, small, 60)
    assert votes.check_reference(make(), NETWORK, SMALL, 60, 0.05)["moved"] <= 0.05
    assert votes.check_no_worse(half, make(precision="bf16"), make(), 150)["moved"] < 0.5


class Rolled(torch.nn.Module):
    """Every vote for the class after the right one."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.roll(1, 1)


def test_checks_notice_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    sampler, other = make(), torch.nn.Sequential(NETWORK, Rolled()).eval()
    with pytest.raises(AssertionError, match="share of votes moved"):
        votes.check_reference(sampler, other, SMALL, 60, 0.05)
    wrong = SMALL.sampler(other, "eager", stream=HostStream(), precision="fp32")
    with pytest.raises(AssertionError, match="share of votes moved beyond eager's"):
        votes.check_no_worse(wrong, sampler, sampler, 150)
    with pytest.raises(AssertionError, match="changed by the attempt"):
        votes.check_same("the attempt", sampler, make(attempt=1), 60)
    count = sampler.submit

    def first_row_differs(model: str, parts: Any) -> Any:
        result = count(model, parts)()
        result[0] = np.roll(result[0], 1)
        return lambda: result

    monkeypatch.setattr(sampler, "submit", first_row_differs)
    with pytest.raises(AssertionError, match="changed by the order"):
        votes.check_repeats(sampler, 150)


def test_a_library_without_float32_is_noted_and_its_precision_checked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sampler, broken = Subject.sampler, ["cudnn"]

    def refuses(self: Subject, network: Any, backend: str, **options: Any) -> Any:
        if backend in broken and options.get("precision") == "fp32":
            raise RuntimeError("GET was unable to find an engine\nsecond line")
        return sampler(self, network, backend.replace("cudnn", "eager"), **options)

    monkeypatch.setattr(Subject, "sampler", refuses)
    found = contest.check(SMALL, NETWORK, "cudnn", HostStream, HostStream)
    assert found["float32"] == "not run: RuntimeError: GET was unable to find an engine second line"
    assert {"repeats", "graph", "eager float32", "precision"} < set(found)
    broken.append("eager")
    with pytest.raises(AssertionError, match="nothing could be run to compare"):
        contest.check(SMALL, NETWORK, "cudnn", HostStream, HostStream)


def test_a_choice_within_a_backend_is_made_once_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another contest could end otherwise: other votes without a fault."""
    sampler, asked = Subject.sampler, list[str]()

    def chosen(self: Subject, network: Any, backend: str, **options: Any) -> Any:
        asked.append(backend)
        made = sampler(self, network, "eager", **options)
        if backend == "picked":
            made.name = "cuda:picked.stem.cp"
        return made

    monkeypatch.setattr(Subject, "sampler", chosen)
    found = contest.check(SMALL, NETWORK, "picked", HostStream, HostStream)
    assert asked == ["picked", "picked.stem.cp", "eager", "eager"]
    assert found["backend"] == "picked.stem.cp"


def test_triton_is_not_compiled_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    sampler, asked = Subject.sampler, set[tuple[str, str]]()

    def noted(self: Subject, network: Any, backend: str, **options: Any) -> Any:
        asked.add((backend, options.get("precision", "bf16")))
        return sampler(self, network, backend, **options)

    monkeypatch.setattr(Subject, "sampler", noted)
    found = contest.check(SMALL, NETWORK, "triton", HostStream, HostStream)
    assert asked == {("triton", "bf16"), ("eager", "fp32"), ("eager", "bf16")}
    assert {"batch shape", "eager float32", "precision"} < set(found)


def test_loops_draw_the_votes_they_are_timed_for() -> None:
    makers = {
        "cohen": partial(peers.cohen, NETWORK, SMALL, CPU, 20, fast=True),
        "torch": partial(peers.careful, NETWORK, SMALL, CPU),
        "ours eager": lambda: contest.ours(make(), 16),
        "broken": lambda: lambda number, draws: np.array([draws - 1]),
        "absent": lambda: 1 / 0,
    }
    loops, failed = contest.ready(makers, 50)  # type: ignore[arg-type]
    assert failed == {
        "broken": "CheckFailed: votes do not add up",
        "absent": "ZeroDivisionError: division by zero",
    }
    seconds = contest.timed(loops, 50, 2, time.monotonic())
    assert {name: len(times) for name, times in seconds.items()} == dict.fromkeys(loops, 2)
    assert int(loops["ours eager"](0, 70).sum()) == 70
    with pytest.raises(AssertionError, match="x: votes do not add up"):
        contest.timed({"x": lambda number, draws: np.array([draws + round(number)])}, 5, 2, 0.0)


def test_rounds_stop_when_the_time_is_over_and_are_kept_meanwhile() -> None:
    loops = {"a": lambda number, draws: np.array([draws])}
    kept = list[int]()
    keep = lambda seconds: kept.append(len(seconds["a"]))  # noqa: E731
    assert len(contest.timed(loops, 5, 9, time.monotonic() - 1, keep)["a"]) == 3
    assert kept == [3]
    assert len(contest.timed(loops, 5, 9, time.monotonic() + 60)["a"]) == 9


def test_the_most_votes_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    def loop(number: int, draws: int) -> np.ndarray:
        clock[0] += 1e-4 * draws
        return np.array([draws])

    sizes = (1000, 100, 10)
    assert contest.fitting_draws({"a": loop}, 5, 60.0, sizes) == 1000
    assert contest.fitting_draws({"a": loop}, 5, 0.2, sizes) == 100
    assert contest.fitting_draws({"a": loop}, 5, 0.0, sizes) == 10


def test_ratios_are_to_the_best_peer_round_by_round() -> None:
    seconds = {"slow": [9.0] * 3, "peer": [2.0, 4.0, 6.0], "ours": [1.0, 2.0, 2.0]}
    table = contest.summary(seconds, 100, floor=0.5)
    assert table["ours"]["speedup"] == 2.0
    assert (table["ours"]["speedup_low"], table["ours"]["speedup_high"]) == (2.0, 3.0)
    assert table["peer"]["speedup"] == 1.0
    assert table["ours"]["draws_per_s"] == 50.0
    assert table["ours"]["of_floor"] == 0.25
    assert contest.ratios(seconds) == {"ours": {"slow": 4.5, "peer": 2.0}}


@pytest.mark.parametrize(
    ("network", "side", "gflop", "megabytes", "millions"),
    [
        (create("cifar_resnet110", {}), 32, 0.5063, 5.30, 1.73),
        (resnet18_cifar(), 32, 1.1108, 3.05, 11.17),
        (wrn_28_10(), 32, 10.487, 12.56, 36.48),
        (resnet50(), 224, 8.174, 54.6, 23.53),
    ],
    ids=["ResNet-110", "ResNet-18", "WRN-28-10", "ResNet-50"],
)
def test_work_of_networks(
    network: torch.nn.Module, side: int, gflop: float, megabytes: float, millions: float
) -> None:
    """Operations as counted by hand from layer shapes, parameters as published (ten classes)."""
    work = work_of(network, (side, side, 3))
    assert work.flop == pytest.approx(gflop * 1e9, rel=1e-3)
    assert work.bytes == pytest.approx(megabytes * 1e6, rel=1e-2)
    weights = sum(parameter.numel() for parameter in network.parameters())
    assert weights == pytest.approx(millions * 1e6, rel=1e-3)


def test_the_larger_of_two_times_is_the_floor() -> None:
    assert Work(6.0, 1.0).floor(10, copy=2.0, matrix=3.0) == 20.0
    assert Work(3.0, 8.0).floor(10, copy=2.0, matrix=3.0) == 40.0
