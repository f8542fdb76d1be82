"""The parts of `benchmarks/gpu.py` at small sizes on the CPU, and that its checks notice faults."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch


class Immediate:
    """A device stream that is the CPU itself."""

    device = torch.device("cpu")

    def pinned(self, *shape: int, dtype: torch.dtype) -> torch.Tensor:
        return torch.zeros(shape, dtype=dtype)

    zeros = pinned

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        target.copy_(source)

    def zero(self, tensor: torch.Tensor) -> None:
        tensor.zero_()

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        return work

    def mark(self) -> Any:
        return SimpleNamespace(wait=lambda: None)

    def run(self, work: Callable[[], Any]) -> Any:
        return work()


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script, with images of 8x8 pixels and small batches."""
    from dualsmooth.benchmarks import gpu, gpu_peers, gpu_votes

    images = gpu_votes.IMAGES[:, :8, :8].copy()
    monkeypatch.setattr(gpu_votes, "SHAPE", (8, 8, 3))
    monkeypatch.setattr(gpu_votes, "IMAGES", images)
    monkeypatch.setattr(gpu_peers, "IMAGES", images)
    monkeypatch.setattr(gpu, "BATCH", 32)
    return gpu


def make(gpu: Any, backend: str = "eager", **options: Any) -> Any:
    network = gpu.votes.balanced("cifar_resnet20", 16)
    return gpu.sampler_of(network, backend, precision="fp32", stream=Immediate(), **options)


def test_samplers_pass_their_checks(gpu: Any) -> None:
    eager, triton = make(gpu), make(gpu, "triton")
    figures = gpu.votes.check_repeats(eager, 150)
    assert figures["votes"] >= 150
    assert figures["largest share"] < 0.9
    assert gpu.votes.check_same("the batch shape", triton, make(gpu, "triton", batch_size=8), 60)
    network = gpu.votes.balanced("cifar_resnet20", 16)
    assert gpu.votes.check_reference(eager, network, 60, 0.05)["moved"] <= 0.05


def test_checks_notice_faults(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    votes, sampler = gpu.votes, make(gpu)
    other = torch.nn.Sequential(gpu.votes.balanced("cifar_resnet20", 16), Rolled()).eval()
    with pytest.raises(AssertionError, match="share of votes moved"):
        votes.check_reference(sampler, other, 60, 0.05)
    with pytest.raises(AssertionError, match="changed by the attempt"):
        votes.check_same("the attempt", sampler, make(gpu, attempt=1), 60)
    count = sampler.submit

    def first_row_differs(model: str, parts: Any) -> Any:
        result = count(model, parts)()
        result[0] = np.roll(result[0], 1)
        return lambda: result

    monkeypatch.setattr(sampler, "submit", first_row_differs)
    with pytest.raises(AssertionError, match="changed by the order"):
        votes.check_repeats(sampler, 150)


class Rolled(torch.nn.Module):
    """Every vote for the class after the right one."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.roll(1, 1)


def test_loops_draw_the_votes_they_are_timed_for(gpu: Any) -> None:
    network, cpu = gpu.votes.balanced("cifar_resnet20", 16), torch.device("cpu")
    loops = {
        "cohen": gpu.cohen(network, cpu, 50, 20, fast=True),
        "loop": gpu.compiled(network, cpu, 50, 16, compile=False),
        "ours eager": gpu.ours(make(gpu), 50),
    }
    seconds = gpu.timed(loops, 50, 2, time.monotonic(), warm=0.0)
    assert {name: len(times) for name, times in seconds.items()} == dict.fromkeys(loops, 2)
    with pytest.raises(AssertionError, match="cohen: votes do not add up"):
        gpu.timed(loops, 51, 2, time.monotonic(), warm=0.0)


def test_rounds_stop_when_the_time_is_over(gpu: Any) -> None:
    loops = {"a": lambda number: np.array([5])}
    assert len(gpu.timed(loops, 5, 9, time.monotonic() - 1, warm=0.0)["a"]) == 3
    assert len(gpu.timed(loops, 5, 9, time.monotonic() + 60, warm=0.0)["a"]) == 9


def test_ratios_are_to_the_best_peer_round_by_round(gpu: Any) -> None:
    seconds = {"slow": [9.0] * 3, "peer": [2.0, 4.0, 6.0], "ours": [1.0, 2.0, 2.0]}
    table = gpu.summary(seconds, 100, gpu.MATRIX_FLOP / 200)
    assert table["ours"]["speedup"] == 2.0
    assert (table["ours"]["speedup_low"], table["ours"]["speedup_high"]) == (2.0, 3.0)
    assert table["peer"]["speedup"] == 1.0
    assert table["ours"]["draws_per_s"] == 50.0
    assert table["ours"]["of_matrix_floor"] == 0.25


def test_a_failure_is_kept_and_stops_nothing_else(gpu: Any, tmp_path: Path) -> None:
    report = gpu.Report(device="test")
    assert report.attempt(report.times, "good", lambda: {"a": {"speed": 1.0}})
    assert not report.attempt(report.times, "bad", lambda: 1 / 0)
    report.write(tmp_path)
    text = (tmp_path / "gpu.txt").read_text()
    assert "FAILED bad: ZeroDivisionError" in text
    assert "speed 1" in text
    assert json.loads((tmp_path / "gpu.json").read_text())["times"] == {"good": {"a": {"speed": 1}}}


def test_dual_and_fixed_are_compared_on_digits(gpu: Any) -> None:
    pytest.importorskip("sklearn")
    found = gpu.dual_and_fixed(n=50, most=8)
    assert len(found) == 2
    assert all(row["draws_per_s"] > 0 and row["occupancy"] > 0 for row in found.values())


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_without_a_device_the_script_says_so(gpu: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main([]) == 0
    assert capsys.readouterr().out == "no CUDA device: nothing checked, nothing timed\n"
