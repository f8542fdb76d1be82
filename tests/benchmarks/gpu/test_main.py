"""A device pass without a device: order, gates, time, partial failure, and what is written."""

import json
import os
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from _pytest.mark.expression import Expression

from dualsmooth.benchmarks.gpu import __main__ as gpu
from dualsmooth.benchmarks.gpu import child, gate, kernels, layers, processes
from dualsmooth.benchmarks.gpu.items import Item, Place, Turn, Unavailable
from dualsmooth.benchmarks.gpu.report import Report, done_before, stamp_of
from dualsmooth.engine.models.registry import create
from dualsmooth.engine.samplers.fusion.triton import folded_resnet

CPU = torch.device("cpu")


class Broken(Place):
    """A device that answers no more."""

    def synchronize(self) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")


def run(
    items: list[Item],
    tmp_path: Path,
    *,
    known: dict[str, Any] | None = None,
    seconds: float = 60.0,
    kind: type[Place] = Place,
) -> tuple[int, list[list[Any]]]:
    """Exit code, and (item, event, details) of all events but the beginnings."""
    told: list[list[Any]] = []

    def tell(name: str, event: str, **details: Any) -> None:
        told.append([name, event, details])

    place = kind(CPU, True, tmp_path)
    code = child.run(items, place, known or {}, time.monotonic() + seconds, tell)
    return code, [entry for entry in told if entry[1] != "begin"]


def fails(turn: Turn) -> None:
    turn.keep({"half": 1})
    raise ValueError("first line\nsecond line")


def absent(turn: Turn) -> None:
    raise Unavailable("no such tool")


def hangs(turn: Turn) -> None:
    raise TimeoutError("no end in 3 s")


def test_a_failure_costs_only_what_needs_it(tmp_path: Path) -> None:
    items = [
        Item("check", fails),
        Item("timed", lambda turn: 1 / 0, needs=("check",)),
        Item("tool", absent),
        Item("other", lambda turn: {"speed": 2.0, "saw": turn.passed("check")}),
        Item("instead", lambda turn: turn.results["other"]["speed"], unless="check"),
        Item("needless", lambda turn: 1 / 0, unless="other"),
    ]
    code, told = run(items, tmp_path)
    assert code == 0
    assert [entry[:2] for entry in told] == [
        ["check", "partly"], ["check", "failed"], ["timed", "not run"], ["tool", "not run"],
        ["other", "done"], ["instead", "done"], ["needless", "not run"],
    ]  # fmt: skip
    assert told[1][2]["reason"] == "ValueError: first line second line"
    assert "second line" in told[1][2]["traceback"]
    assert told[2][2]["reason"] == "needs check"
    assert told[3][2]["reason"] == "no such tool"
    assert told[4][2]["result"] == {"speed": 2.0, "saw": False}
    assert told[5][2]["result"] == 2.0


def test_nothing_begins_when_the_time_is_over(tmp_path: Path) -> None:
    code, told = run([Item("late", lambda turn: 1)], tmp_path, seconds=1.0)
    assert (code, told) == (0, [["late", "not run", {"reason": "no time left"}]])


def test_items_know_when_to_stop(tmp_path: Path) -> None:
    left = list[float]()
    run([Item("a", lambda turn: left.append(turn.left()), limit=50.0)], tmp_path)
    run([Item("a", lambda turn: left.append(turn.left()), limit=5000.0)], tmp_path)
    assert left == pytest.approx([40.0, 60.0], abs=1.0)


def test_what_is_known_is_not_run_again(tmp_path: Path) -> None:
    known = {"gate": {"state": "failed"}, "figures": {"state": "done", "result": {"x": 3}}}
    items = [
        Item("gate", lambda turn: 1 / 0), Item("figures", lambda turn: 1 / 0),
        Item("gated", lambda turn: 1 / 0, needs=("gate",)),
        Item("last", lambda turn: turn.results["figures"]["x"], needs=("figures",)),
    ]  # fmt: skip
    _, told = run(items, tmp_path, known=known)
    assert [entry[:2] for entry in told] == [["gated", "not run"], ["last", "done"]]
    assert told[1][2]["result"] == 3


@pytest.mark.parametrize(("work", "kind"), [(fails, Broken), (hangs, Place)])
def test_a_broken_device_or_a_program_without_end_asks_for_a_new_process(
    work: Any, kind: type[Place], tmp_path: Path
) -> None:
    code, told = run([Item("a", work), Item("b", lambda turn: 1)], tmp_path, kind=kind)
    assert code == child.BROKEN
    assert told[-1][:2] == ["a", "failed"]


def test_a_device_that_breaks_silently_fails_the_item(tmp_path: Path) -> None:
    """Work on a device is asynchronous: a result alone proves nothing."""
    code, told = run([Item("a", lambda turn: 1)], tmp_path, kind=Broken)
    assert code == child.BROKEN
    assert told == [["a", "failed", told[0][2]]]


PROGRAM = """
import json, os, sys, time
plan = json.loads(open(sys.argv[1]).read())
print("process", sorted(plan["known"]))
def tell(**event):
    with open(plan["events"], "a") as file:
        file.write(json.dumps(event) + "\\n")
for name in ("good", "crash", "hang", "child", "last"):
    if name in plan["known"]:
        continue
    tell(item=name, event="begin", limit=0.5 if name == "hang" else 60)
    tell(item=name, event="partly", result={"so far": 1.0})
    if name == "crash":
        os._exit(9)
    if name == "hang":
        time.sleep(60)
    if name == "child":
        tell(item=name, event="failed", reason="ValueError: no", traceback="Traceback ..")
        continue
    tell(item=name, event="done", result={"rate": 2.5, "row": {"a": 1.0}}, seconds=0.1)
"""


BESIDE = """
import json, os, sys, time
plan = json.loads(open(sys.argv[1]).read())
def tell(**event):
    with open(plan["events"], "a") as file:
        file.write(json.dumps(event) + "\\n")
for name in [plan["alone"]] if plan["alone"] else ["timed"]:
    if name == "silent":
        sys.exit(5)
    limit = 0.5 if name == "hang" else 60
    tell(item=name, event="begin", limit=limit)
    if name == "crash":
        os._exit(9)
    time.sleep(60 if name == "hang" else 0.6)
    known = sorted(plan["known"])
    tell(item=name, event="done", result={"known": known}, seconds=0.1)
"""


@pytest.fixture
def report(tmp_path: Path) -> Report:
    return Report(tmp_path / "out", "device_1", 9.0)


def conduct(program: str, report: Report, tmp_path: Path, monkeypatch: Any,
            seconds: float = 60.0, beside: Sequence[str] = ()) -> None:  # fmt: skip
    script = tmp_path / "child.py"
    script.write_text(program)
    monkeypatch.setattr(processes, "CHILD", (str(script),))
    monkeypatch.setattr(processes, "POLL", 0.02)
    monkeypatch.setattr(processes, "GRACE", 0.2)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    deadline = time.monotonic() + seconds
    plan = processes.Plan(1, "cpu", True, tmp_path / "work", {}, deadline)
    processes.conduct(plan, report, beside)


def test_a_crash_and_a_hang_cost_one_item_each(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conduct(PROGRAM, report, tmp_path, monkeypatch)
    written = json.loads(report.json.read_text())
    assert set(written) == {"started", "minutes", "stamp", "items"}
    items = written["items"]
    assert {name: entry["state"] for name, entry in items.items()} == {
        "good": "done", "crash": "failed", "hang": "failed", "child": "failed", "last": "done",
    }  # fmt: skip
    assert items["crash"]["reason"] == "the process ended with code 9"
    assert items["hang"]["reason"] == "no end in 0 s"
    assert items["hang"]["result"] == {"so far": 1.0}
    assert items["good"]["result"]["rate"] == 2.5
    text = report.table.read_text()
    assert "rate 2.5" in text
    assert "FAILED crash: the process ended with code 9" in text
    assert text.endswith("2 of 5 items done\n")
    assert report.failures.read_text() == "== child\nTraceback ..\n"
    assert report.log.read_text().count("process") == 3


def test_checks_run_side_by_side_before_anything_is_timed(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three at once, of which one crashes, one hangs and one never begins; each costs itself."""
    names = ["one", "crash", "hang", "two", "silent", "three"]
    conduct(BESIDE, report, tmp_path, monkeypatch, beside=names)
    states = {name: entry["state"] for name, entry in report.items.items()}
    assert states == dict.fromkeys(("one", "two", "three", "timed"), "done") | dict.fromkeys(
        ("crash", "hang", "silent"), "failed"
    )
    assert list(states)[-1] == "timed"
    assert report.items["timed"]["result"]["known"] == sorted(names)
    assert report.items["crash"]["reason"] == "the process ended with code 9"
    assert report.items["hang"]["reason"] == "no end in 0 s"
    assert report.items["silent"]["reason"] == "ended with 5"
    assert "one" not in report.items["two"]["result"]["known"]


def test_nothing_timed_runs_beside_anything(tmp_path: Path) -> None:
    timed = (
        *("kernel times", "on-chip times", "on-chip channels", "ceiling"),
        *("table", "profile", "batches", "dual"),
    )
    for part, votes in ((1, 11), (2, 19), (3, 0)):
        items = child.items_of(part, Place(torch.device("cuda"), False, tmp_path))
        beside = [item for item in items if item.beside]
        assert not [item.name for item in beside if item.name.startswith(timed)]
        assert all(not item.needs and not item.uses for item in beside)
        assert sum(item.name.startswith("votes") for item in beside) == votes


@pytest.mark.parametrize("part", [1, 2, 3])
def test_a_part_ends_in_time_even_if_every_item_takes_its_limit(part: int, tmp_path: Path) -> None:
    """Alone, with nothing known from an earlier part; the three fit into a quarter of an hour."""
    items = child.items_of(part, Place(torch.device("cuda"), False, tmp_path))
    assert processes.latest(items, gpu.CORES, {})[-1][1] <= 60 * gpu.MINUTES[part]
    assert sum(gpu.MINUTES[part] for part in (1, 2, 3)) <= 13.5
    assert sum(item.name.startswith("command line") for item in items) == (7 if part == 1 else 0)


def test_what_is_done_of_the_same_sources_is_not_run_again(tmp_path: Path) -> None:
    """Of any part; what failed is, and everything of other sources."""
    report = Report(tmp_path / "out", "device_1", 4.0, "these", {}, tmp_path / "work")
    for name, event in (("good", "done"), ("bad", "failed")):
        report.tell({"item": name, "event": event, "result": 1})
    earlier = done_before(tmp_path / "work", "these")
    assert list(earlier) == ["good"]
    assert done_before(tmp_path / "work", "others") == {}
    again = Report(tmp_path / "out", "device_2", 4.0, "these", earlier)
    _, told = run(
        [Item("good", fails), Item("timed", lambda turn: turn.passed("good"), ("good",))],
        tmp_path,
        known=again.ended(),
    )
    assert told == [["timed", "done", told[0][2]]]
    assert told[0][2]["result"] is True


def test_a_stamp_follows_the_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "benchmarks/gpu/report.py"
    module.parent.mkdir(parents=True)
    monkeypatch.setattr("dualsmooth.benchmarks.gpu.report.__file__", str(module))
    before = stamp_of("cpu", True)
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels/stem.cu").write_text("// changed")
    assert before != stamp_of("cpu", True) == stamp_of("cpu", True) != stamp_of("cpu", False)


def test_the_pass_ends_with_its_time(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = time.monotonic()
    program = PROGRAM.replace("limit=0.5 if", "limit=60 if").replace('"crash"', '"crush"', 1)
    conduct(program, report, tmp_path, monkeypatch, seconds=1.5)
    assert time.monotonic() - start < 10
    assert report.items["hang"]["reason"] == "cut off at the end of the time"
    assert "child" not in report.items


def test_a_process_that_cannot_start_is_told_once(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conduct("import no_such_module", report, tmp_path, monkeypatch)
    assert report.items["process"]["reason"] == "ended with 1"
    assert "no_such_module" in report.log.read_text()


def test_every_item_rests_on_earlier_ones(tmp_path: Path) -> None:
    for device in ("cpu", "cuda"):
        for part in child.PARTS:
            place = Place(torch.device(device), device == "cpu", tmp_path)
            met = set[str]()
            for item in child.items_of(part, place):
                assert {*item.needs, *item.uses} <= met, item.name
                assert not item.unless or item.unless in met, item.name
                assert item.name not in met
                met.add(item.name)


def test_the_plan_adds_up_what_is_before_an_item(capsys: pytest.CaptureFixture[str]) -> None:
    beside = [Item(name, fails, limit=9.0, beside=True) for name in ("a", "b", "c", "d")]
    items = [*beside, Item("e", fails, limit=5.0), Item("f", fails, unless="e"), Item("g", fails)]
    found = processes.latest(items, 4, {"b": 2.0, "e": 1.0})
    assert found == [
        ("a", 0), ("b", 0), ("c", 0), ("d", 2), ("e", 11), ("g", 12), ("the end", 72)
    ]  # fmt: skip
    for part in child.PARTS:
        assert gpu.main([str(part), "--plan"]) == 0
        assert "the end" in capsys.readouterr().out


def test_what_is_timed_waits_for_checks_of_its_own_pass(tmp_path: Path) -> None:
    items = child.items_of(3, Place(torch.device("cuda"), False, tmp_path))
    needed = {item.name: item.needs for item in items}
    assert needed["kernel times"] == gate.KERNELS
    assert needed["on-chip times"] == gate.ON_CHIP
    assert needed["on-chip choices"] == (gate.STAGES,)
    assert needed["ResNet-50's layers"] == (gate.POINTWISE, gate.CUDNN)
    checks = [i.name for i in child.items_of(1, Place(torch.device("cuda"), False, tmp_path))]
    assert gate.TILED_CONV in checks


def named(name: str, word: str, /, **_: object) -> bool:
    return word.lower() in name


def test_each_check_at_real_sizes_is_of_one_gate() -> None:
    """pytest looks for words in names whatever their case: ``stem`` is in ``StemShape``, too."""
    pytest.importorskip("triton")
    from tests.kernels.test_real_sizes import REAL

    gates = [Expression.compile(words) for words in (gate.NEWEST | gate.GATES).values()]
    for name in map(str.lower, REAL):
        found = [g.evaluate(partial(named, name)) for g in gates]
        assert sum(found) == 1, name


@pytest.mark.parametrize("name", ["1x1 512-2048 7px", "1x1 256-512 56px, stride 2"])
def test_our_convolutions_of_resnet_50_are_what_they_are_timed_against(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The calls of cuDNN stand in for themselves: there are none on a CPU."""
    monkeypatch.setattr(layers, "IMAGENET_BATCH", 1)
    monkeypatch.setattr(layers, "_ATEN", Cudnn())
    torch.manual_seed(0)
    theirs, *ours = [c.call() for c in layers.pointwise_rivals(name, CPU)]
    assert len(ours) == 3
    assert isinstance(theirs, torch.Tensor)
    for found in ours:
        assert isinstance(found, torch.Tensor)
        gap = (found.permute(0, 3, 1, 2).float() - theirs).abs().max()
        assert float(gap / theirs.abs().max()) < 0.02


@pytest.mark.parametrize("adds", [False, True])
def test_tiled_convolutions_are_timed_once_their_check_has_passed(
    adds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU ours, of which no other kernel is asked."""
    monkeypatch.setattr(layers, "IMAGENET_BATCH", 1)
    monkeypatch.setattr(layers, "_ATEN", Cudnn())
    monkeypatch.setattr(layers, "shared_memory", lambda device: 227 * 1024)
    made = layers.wide_rivals(CPU, adds, tiled=False)
    assert [c.name.split("px ")[1].removeprefix("and a sum ") for c in made] == ["cudnn", "ours"]
    theirs, ours = (c.call() for c in made)
    assert isinstance(theirs, torch.Tensor)
    assert isinstance(ours, torch.Tensor)
    gap = (ours.permute(0, 3, 1, 2).float() - theirs).abs().max()
    assert float(gap / theirs.abs().max()) < 0.02
    tiled = layers.wide_rivals(CPU, adds, tiled=True)[2:]
    assert ["4 warps" in c.name for c in tiled] == [True, False]
    assert all(" adds " in c.name for c in tiled) is adds


class Cudnn:
    """What cuDNN's calls do, in float32."""

    def cudnn_convolution_relu(
        self, x: Any, w: Any, b: Any, stride: Any, padding: Any, *rest: Any
    ) -> Any:
        made = torch.nn.functional.conv2d(x.float(), w.float(), b.float(), stride, padding)
        return made.relu()

    def cudnn_convolution_add_relu(
        self, x: Any, w: Any, z: Any, alpha: float, b: Any, stride: Any, padding: Any, *rest: Any
    ) -> Any:
        made = torch.nn.functional.conv2d(x.float(), w.float(), b.float(), stride, padding)
        return (made + alpha * z.float()).relu()


def test_networks_on_chip_and_tiled_stems_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU the networks run layer by layer."""
    cpu = torch.device("cpu")
    network = folded_resnet(create("cifar_resnet20", {}).eval(), torch.bfloat16, cpu)
    assert network is not None
    with pytest.raises(Unavailable, match="shared memory"):
        kernels.on_chip_kernels(cpu, network)
    monkeypatch.setattr(kernels, "shared_memory", lambda device: 227 * 1024)
    for name in ("CIFAR_BATCH", "IMAGENET_BATCH"):
        monkeypatch.setattr(kernels, name, 2)
    made = kernels.on_chip_kernels(cpu, network)
    assert [c.name for c in made] == [
        "ResNet-110 with stages on chip", "ResNet-110 in three kernels",
        "tiled stem 224x224 7x7 s2 to 64 pool 3", "tiled stem 224x224 7x7 s2 to 64",
        "tiled stem 224x224 3x3 s1 to 64 pool 2", "tiled stem 224x224 3x3 s2 to 32",
        "tiled stem 32x32 3x3 s1 to 64", "tiled stem 32x32 3x3 s1 to 16",
    ]  # fmt: skip
    for contestant in made[:2]:
        contestant.call()


def test_what_is_timed_beside_each_other_computes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the processor, where ours are the references."""
    monkeypatch.setattr(kernels, "CIFAR_BATCH", 4)
    monkeypatch.setattr(kernels, "NORMS", ((24, 3),))
    cpu = torch.device("cpu")
    ours, theirs = kernels.sums_and_norms(cpu)
    assert ours.batch == theirs.batch == 2
    found: Any = ours.call(), theirs.call()
    (total, y), (other_total, z) = found
    assert torch.equal(total.permute(0, 3, 1, 2), other_total)
    assert float((y.permute(0, 3, 1, 2) - z).abs().max()) <= 2.0**-6 * float(z.abs().max())
    network = folded_resnet(create("cifar_resnet20", {}).eval(), torch.bfloat16, cpu)
    assert network is not None
    for contestant in kernels.layers(cpu, network):
        contestant.call()


def test_only_some_items_and_what_they_use(tmp_path: Path) -> None:
    options = {"only": "table ResNet-18"}
    place = Place(torch.device("cuda"), False, tmp_path, options)
    names = [item.name for item in child.items_of(2, place)]
    assert "table ResNet-18" in names
    assert {"votes ResNet-18 cudnn", "ceiling: copy"} < set(names)
    assert not any("110" in name for name in names)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_without_a_device_the_script_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["2"]) == 0
    assert capsys.readouterr().out == "no CUDA device: nothing checked, nothing timed\n"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="Triton's interpreter")
@pytest.mark.parametrize("part", child.PARTS)
def test_rehearsal(part: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything but what needs a device."""
    monkeypatch.setenv("OUT", str(tmp_path / "out"))
    pytest.importorskip("triton")
    assert gpu.main([str(part), "--rehearse", "--work", str(tmp_path / "work")]) == 0
    items = json.loads((tmp_path / f"out/device_{part}.json").read_text())["items"]
    assert sum(entry["state"] == "done" for entry in items.values()) >= 6
