"""The CPU suite: fair rounds, honest ratios, and a gate that notices wrong votes."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dualsmooth.benchmarks.speed import cpu, peers
from dualsmooth.benchmarks.speed.networks import PRODUCTS, SIZE, Products, flop_per_vote
from dualsmooth.benchmarks.speed.rounds import best, interleave, ratio, share
from dualsmooth.benchmarks.speed.tables import cpu_table, ratios
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.machine import installed_version
from dualsmooth.engine.samplers.fusion.bf16 import multiplies_bf16

CASE = cpu.Case("small_convnet", (8, 8, 1), 640, {"widths": [4], "hidden": 8})


def task(network: torch.nn.Module, classes: int) -> peers.Task:
    return peers.Task(network, CASE.image, cpu.SIGMA, classes, 64)


def draws() -> dict[str, peers.Draw]:
    return {
        "ours fp32": cpu.ours(CASE, "fp32"),
        "cohen 64": peers.cohen(task(CASE.network(), cpu.CLASSES)),
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

    votes = peers.cohen(task(Mean(), 2))(6400)
    assert abs(votes[1] / 6400 - 0.1587) < 0.025  # five standard deviations


def test_shares_are_of_the_peak_in_the_same_round() -> None:
    assert share([1.0, 2.0, 4.0], 30, [2.0, 4.0, 8.0], 100) == 0.6
    assert share([1.0, 1.0, 9.0], 50, [1.0, 1.0, 1.0], 100) == 0.5


@pytest.mark.parametrize("threads", [1, 3])
def test_the_peak_is_of_products_that_every_thread_makes(threads: int) -> None:
    products = Products(threads)
    assert products.flop == threads * PRODUCTS * 2 * SIZE**3
    before = torch.get_num_threads()
    products()
    wanted = products.left.double() @ products.right.double()
    assert all(torch.allclose(out.double(), wanted, atol=1e-3) for out in products.outs)
    assert torch.get_num_threads() == before


def test_work_is_counted_and_every_default_network_is_known() -> None:
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 5, 3, padding=1), torch.nn.Flatten(), torch.nn.Linear(5 * 8 * 6, 7)
    )
    assert flop_per_vote(network, (8, 6, 3)) == 2 * (48 * 27 * 5 + 240 * 7)
    assert set(cpu.DEFAULT) < set(cpu.CASES)
    with torch.device("meta"):
        shapes = [make()(torch.zeros(1, 3, 64, 64)).shape for make in cpu.DEEP.values()]
    assert shapes == [(1, 10), (1, 10)]


def test_the_table_has_a_row_per_contestant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cpu.CASES, "tiny", replace(CASE, peer_batches=(16, 64)))
    found = cpu.measure("tiny", 2, ["cohen"])
    kinds = cpu.OURS if installed_version("openvino") else ["ours"]
    precisions = ("fp32", "bf16") if multiplies_bf16() else ("fp32",)
    own = [f"{kind} {precision}" for kind in kinds for precision in precisions]
    assert list(found["votes_per_second"]) == [*own, "cohen 16", "cohen 64"]
    assert all(0 < speed["share_of_peak"] < 1 for speed in found["votes_per_second"].values())
    rows = cpu_table({"tiny": found}, tuple(kinds)).splitlines()
    assert len(rows) == 4 + len(own)
    assert [row.count(" to ") for row in rows if " to " in row] == [len(kinds)]
    assert {row.count("|") for row in rows} == {5 + len(kinds)}


def test_ratios_are_of_each_of_ours_to_each_peer_at_its_best() -> None:
    seconds = {"a fp32": [2.0] * 3, "a bf16": [1.0] * 3, "b fp32": [3.0] * 3,
               "loop 16": [9.0] * 3, "loop 64": [6.0] * 3}  # fmt: skip
    found = ratios(seconds, ("a", "b", "c"), ["loop", "missing"])
    medians = {own: {peer: r["median"] for peer, r in each.items()} for own, each in found.items()}
    assert medians == {"a bf16": {"loop 64": 6.0}, "b fp32": {"loop 64": 2.0}}


@pytest.mark.parametrize("name", cpu.CASES)
def test_every_thread_of_ours_has_the_same_number_of_full_batches(name: str) -> None:
    """Fewer votes than two batches would time one thread against the peers' two."""
    case = cpu.CASES[name]
    for contestant in ("ours fp32", "ours openvino bf16"):
        assert case.whole(contestant, 2) % (2 * cpu.own_batch(case)) == 0
    assert case.whole("cohen 64", 2) % 64 == 0
    assert case.n <= case.whole("ours fp32", 2) < case.n + 2 * cpu.own_batch(case)


def test_bad_options_are_named(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"^networks must be among"):
        cpu.run(3, ("vgg",), tmp_path / "new")
    with pytest.raises(ArgumentError, match=r"^rounds "):
        cpu.run(0, ("small",), tmp_path / "new")
    with pytest.raises(ArgumentError, match=r"^threads "):
        cpu.run(1, ("small",), tmp_path / "new", 0)
    assert not (tmp_path / "new").exists()
