"""What ``auto`` stands for on processors: measured once, told, and kept by a run."""

import json
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dualsmooth.engine.api import certify
from dualsmooth.engine.backends import told
from dualsmooth.engine.budget import Budget
from dualsmooth.engine.cluster.job import Job
from dualsmooth.engine.data.image_set import ImageSet
from dualsmooth.engine.data.spec import load_images
from dualsmooth.engine.errors import SamplerError
from dualsmooth.engine.methods.dual import DualSmoothing
from dualsmooth.engine.methods.fixed import FixedSmoothing
from dualsmooth.engine.models.bundle import CLASSIFIER, Bundle
from dualsmooth.engine.models.sources.load import load_bundle
from dualsmooth.engine.results.certificates import Certificates
from dualsmooth.engine.runs.certify import certify_run
from dualsmooth.engine.samplers import cpu, processors
from dualsmooth.engine.samplers.choose import make_sampler, resolve
from dualsmooth.engine.samplers.cpu import CpuSampler
from dualsmooth.engine.samplers.processors import preferred
from dualsmooth.engine.samplers.sampler import MakeSampler, Sampler
from dualsmooth.engine.settings import Settings
from dualsmooth.kernels.cpu import noise_votes

pytestmark = pytest.mark.skipif(not noise_votes.available(), reason="the loops were not built")

OURS, FASTER, LIBRARY = "loops fp32", "loops bf16", "openvino fp32"


@pytest.mark.parametrize(
    ("every", "best"),
    [
        ({}, OURS),
        ({"a": {OURS: 1.0, FASTER: 0.95, LIBRARY: 0.91}}, OURS),
        ({"a": {OURS: 1.0, FASTER: 0.89, LIBRARY: 0.81}}, FASTER),
        ({"a": {OURS: 1.0, FASTER: 0.89, LIBRARY: 0.5}}, LIBRARY),
        ({"a": {OURS: 1.0, FASTER: 0.5}, "b": {OURS: 5.0, FASTER: 5.4}}, OURS),
        ({"a": {OURS: 1.0, FASTER: 0.5}, "b": {OURS: 5.0, FASTER: 0.5}}, FASTER),
        ({"a": {OURS: 1.0, FASTER: 0.5}, "b": {OURS: 5.0, FASTER: "overflows"}}, OURS),
        ({"a": {OURS: "fails", FASTER: "fails", LIBRARY: 3.0}}, LIBRARY),
        ({"a": {OURS: float("nan"), FASTER: float("nan"), LIBRARY: float("nan")}}, OURS),
    ],
)
def test_another_than_the_first_must_be_much_faster(
    every: Mapping[str, Mapping[str, float | str]], best: str
) -> None:
    assert preferred([OURS, FASTER, LIBRARY], every) == best


class Clock:
    """Stands in for timing; counts what was timed."""

    def __init__(self, **seconds: float) -> None:
        self.seconds, self.timed = seconds, list[str]()

    def __call__(
        self, passes: Mapping[str, Callable[[], None]], seconds: Any, *limits: float
    ) -> dict[str, float]:
        self.timed += passes
        for run in passes.values():
            run()
        return {name: self.seconds[name.replace(" ", "_")] for name in passes}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Clock:
    """A processor that seems to multiply bfloat16, which is the faster there."""
    found = Clock(loops_fp32=1.0, loops_bf16=0.5, openvino_fp32=0.1)
    monkeypatch.setattr(processors, "multiplies_bf16", lambda: True)
    monkeypatch.setattr(processors, "fastest", found)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return found


def found(bundle: Bundle, **settings: Any) -> tuple[str, str]:
    resolved = resolve(Settings(device="cpu", batch_size=8, **settings), bundle)
    return resolved.backend, resolved.precision


def test_a_choice_is_measured_once_per_network_and_batch(clock: Clock, tiny_bundle: Path) -> None:
    bundle = load_bundle(tiny_bundle)
    assert found(bundle) == ("loops", "bf16")
    tried = resolve(Settings(device="cpu", batch_size=8), bundle).tried
    assert tried == {role: {OURS: 1.0, FASTER: 0.5} for role in bundle.networks}
    assert any(line == "selector: loops bf16 500.000 ms a batch" for line in told(tried))
    once = list(clock.timed)
    assert once == [OURS, FASTER] * len(bundle.networks)
    assert found(bundle) == ("loops", "bf16")
    assert resolve(Settings(device="cpu", batch_size=8), bundle, exact=True).precision == "fp32"
    assert clock.timed == once
    resolve(Settings(device="cpu", batch_size=16), bundle)
    assert len(clock.timed) == 2 * len(once)


def test_what_is_named_is_not_measured(clock: Clock, tiny_bundle: Path) -> None:
    bundle = load_bundle(tiny_bundle)
    assert found(bundle, precision="fp32") == ("loops", "fp32")
    assert found(bundle, precision="fp32", backend="openvino") == ("openvino", "fp32")
    job = Job.of(DualSmoothing(bundle), Settings(device="cpu", precision="bf16"), 2)
    assert (job.settings.backend, job.settings.precision) == ("loops", "bf16")
    assert clock.timed == []


@pytest.mark.parametrize("content", [b"", b"[1]", b'{"a": 7}'])
def test_a_file_that_is_no_memory_costs_a_trial(
    clock: Clock, tiny_bundle: Path, tmp_path: Path, content: bytes
) -> None:
    file = tmp_path / "cache" / "dualsmooth" / "backends.json"
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    bundle = load_bundle(tiny_bundle)
    assert found(bundle) == ("loops", "bf16")
    assert len(json.loads(file.read_text())) == len(bundle.networks)
    file.write_text(json.dumps({key: {"magic": 1.0} for key in json.loads(file.read_text())}))
    assert found(bundle) == ("loops", "bf16")
    assert len(clock.timed) == 4 * len(bundle.networks)


class Wide(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :, :1, :2].flatten(1) * 1.0


def test_openvino_is_tried_on_large_images_and_told_where_it_fails(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {"openvino": "1"}
    monkeypatch.setattr(processors, "installed_version", known.get)
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    for side, names in ((127, 2), (128, 4)):
        only = Bundle.from_classifier(Wide().eval(), num_classes=2, input_shape=(side, side, 1))
        resolved = resolve(Settings(device="cpu", batch_size=8), only)
        assert (resolved.backend, resolved.precision) == ("loops", "bf16")
        assert len(resolved.tried["classifier"]) == names
    assert "needs the package openvino" in str(resolved.tried["classifier"]["openvino bf16"])
    assert clock.timed == [OURS, FASTER] * 2


class Sums(torch.nn.Module):
    """A convolution and a linear layer; ``gated`` something between that OpenVINO may do faster."""

    def __init__(self, gated: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head = torch.nn.Conv2d(3, 16, 3), torch.nn.Linear(16, 3)
        self.gate = torch.nn.Sigmoid() if gated else torch.nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.gate(self.conv(x)).mean((2, 3)))
        return logits


@pytest.mark.parametrize(
    ("gated", "seconds", "broken", "chosen", "calls"),
    [
        (False, 0.1, False, "cpu", {"folded_network": 1, "fuse_for_cpu": 1, "first_proved": 1}),
        (True, 2.0, False, "cpu", {"folded_network": 1, "fuse_for_cpu": 1, "first_proved": 1,
                                   "converted_network": 1}),
        (True, 0.1, False, "cpu:openvino", {"folded_network": 1, "fuse_for_cpu": 1,
                                            "converted_network": 1, "openvino_network": 1}),
        (True, 0.1, True, "cpu", {"folded_network": 1, "fuse_for_cpu": 1, "first_proved": 1,
                                  "converted_network": 1, "openvino_network": 1}),
    ],
    ids=["OpenVINO cannot win", "loses", "wins", "wins, but is refused by its proof"],
)  # fmt: skip
def test_a_start_makes_each_thing_once_and_proves_what_it_chose(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, gated: bool, seconds: float,
    broken: bool, chosen: str, calls: dict[str, int],
) -> None:  # fmt: skip
    pytest.importorskip("openvino", reason="OpenVINO is not installed (extra cpu)")
    monkeypatch.setattr(processors, "multiplies_bf16", lambda: False)
    monkeypatch.setattr(processors, "LARGE", 1)
    clock.seconds["openvino_fp32"] = seconds
    seen = Counter[str]()

    def count(name: str) -> None:
        usual = getattr(cpu, name)

        def counted(*arguments: Any) -> Any:
            seen[name] += 1
            if broken and name == "openvino_network":
                raise SamplerError("rows move")
            return usual(*arguments)

        monkeypatch.setattr(cpu, name, counted)

    for name in ("folded_network", "fuse_for_cpu", "first_proved", "converted_network",
                 "openvino_network"):  # fmt: skip
        count(name)
    only = Bundle.from_classifier(Sums(gated).eval(), num_classes=3, input_shape=(12, 12, 3))
    for start in ("first", "second"):
        found = certify(only, np.zeros((1, 12, 12, 3), np.float32), sigma=0.25, n=8, n0=8)
        assert found[0].sampler == chosen
        if start == "first":
            assert seen == calls
    assert clock.timed == [OURS, LIBRARY] * gated
    file = json.loads((tmp_path / "cache" / "dualsmooth" / "backends.json").read_text())
    why = {False: processors.WHOLE, True: "SamplerError: rows move" if broken else seconds}
    assert [tried[LIBRARY] for tried in file.values()] == [why[gated]]


@pytest.mark.parametrize(
    ("chosen", "proof"), [(LIBRARY, "openvino_network"), (FASTER, "first_proved")]
)
def test_a_choice_that_fails_at_a_later_start_is_dropped_with_one_line(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, chosen: str, proof: str
) -> None:
    """A run that is resumed keeps its backend, and says why it cannot."""
    if chosen == LIBRARY:
        pytest.importorskip("openvino", reason="OpenVINO is not installed (extra cpu)")
        monkeypatch.setattr(processors, "multiplies_bf16", lambda: False)
        monkeypatch.setattr(processors, "LARGE", 1)
    only = Bundle.from_classifier(Sums(True).eval(), num_classes=3, input_shape=(12, 12, 3))
    data = ImageSet(np.zeros((2, 12, 12, 3), np.float32), np.zeros(2, np.int64), "two", ())
    settings = Settings(Budget.fixed(8, 8), device="cpu", batch_size=8)

    def run(name: str, images: int, resume: bool = False) -> Any:
        method, ids, folder = FixedSmoothing(only, 0.25), list(range(images)), tmp_path / name
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            certify_run(method, data, ids, settings, folder, resume=resume)
        configuration = json.loads((folder / "run.json").read_text())["configuration"]
        return configuration["sampler"], configuration["precision"], [str(w.message) for w in told]

    usual = getattr(cpu, proof)

    def broken(*arguments: Any) -> Any:
        if chosen == LIBRARY or arguments[2].dtype == torch.bfloat16:
            raise SamplerError("rows move")
        return usual(*arguments)

    first = ("cpu:openvino", "fp32") if chosen == LIBRARY else ("cpu", "bf16")
    assert run("first", 1) == (*first, [])
    monkeypatch.setattr(cpu, proof, broken)
    line = f"{chosen}, chosen at an earlier start, is dropped: SamplerError: rows move"
    assert run("second", 1) == ("cpu", "fp32", [line])
    assert run("third", 1) == ("cpu", "fp32", [])
    with pytest.raises(SamplerError, match="rows move"):
        run("first", 2, resume=True)
    assert clock.timed == [OURS, chosen]


def test_a_run_keeps_what_it_began_with(clock: Clock, tiny_bundle: Path, tmp_path: Path) -> None:
    method, data = DualSmoothing(load_bundle(tiny_bundle)), load_images("digits")
    settings = Settings(Budget.fixed(10, 100), device="cpu", batch_size=16)

    def run(resume: bool) -> list[Any]:
        certify_run(method, data, list(range(6)), settings, tmp_path / "run", resume=resume)
        lines = (tmp_path / "run" / "certificates.jsonl").read_text().splitlines()
        return sorted(str([json.loads(line)[name] for name in ("image_id", "precision", "counts")])
                      for line in lines)  # fmt: skip

    whole = run(resume=False)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["configuration"]["precision"] == "bf16"
    assert record["configuration"]["sampler"] == "cpu"
    assert record["machine"]["backends"]["selector"] == {OURS: 1.0, FASTER: 0.5}
    log = tmp_path / "run" / "certificates.jsonl"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:2]))
    (tmp_path / "cache" / "dualsmooth" / "backends.json").unlink()
    clock.seconds["loops_bf16"] = 9.0
    assert found(load_bundle(tiny_bundle)) == ("loops", "fp32")
    assert run(resume=True) == whole
    certify_run(method, data, [0], settings, tmp_path / "other")
    again = json.loads((tmp_path / "other" / "run.json").read_text())
    assert again["configuration"]["precision"] == "fp32"


def backends_of(folder: Path) -> Any:
    """What a run's record says of what was tried for it."""
    return json.loads((folder / "run.json").read_text())["machine"].get("backends")


def test_a_run_records_what_was_tried_for_it_alone(
    clock: Clock, tiny_bundle: Path, tmp_path: Path
) -> None:
    """Not for an earlier call in the process, nor for one between the votes and the record."""
    options: dict[str, Any] = {"n": 50, "device": "cpu", "batch_size": 16}
    bundle = load_bundle(tiny_bundle)
    images = np.full((2, *bundle.input_shape), 0.5, np.float32)
    measured = certify(bundle, images, sigma=0.25, **options)
    named = certify(bundle, images, sigma=0.25, precision="fp32", **options)
    tried = {role: {OURS: 1.0, FASTER: 0.5} for role in bundle.networks}
    for name, found, expected in (("a", named, None), ("b", measured, tried)):
        assert backends_of(found.save(tmp_path / name)) == expected
    again = Certificates.load(tmp_path / "b")
    assert backends_of(again.save(tmp_path / "c")) == tried


def test_a_run_that_grows_keeps_what_was_tried_when_it_began(
    clock: Clock, tiny_bundle: Path, tmp_path: Path
) -> None:
    bundle, settings = load_bundle(tiny_bundle), Settings(Budget.fixed(10, 50), device="cpu")
    for images in (1, 2):
        method, ids = FixedSmoothing(bundle, 0.25), list(range(images))
        certify_run(method, load_images("digits"), ids, settings, tmp_path / "run", resume=True)
        clock.seconds["loops_bf16"] = 9.0
        assert backends_of(tmp_path / "run")["classifier"] == {OURS: 1.0, FASTER: 0.5}


def test_a_run_inside_another_leaves_its_record_alone(
    clock: Clock, tiny_bundle: Path, tmp_path: Path
) -> None:
    """The inner one is tried, votes and is recorded after the outer one was tried."""
    two, data = load_bundle(tiny_bundle), load_images("digits")
    one = replace(two, tau=None, networks={CLASSIFIER: two.networks[CLASSIFIER]})

    def run(bundle: Bundle, name: str, make: MakeSampler) -> None:
        settings = Settings(Budget.fixed(10, 50), device="cpu", batch_size=16)
        certify_run(FixedSmoothing(bundle, 0.25), data, [0], settings, tmp_path / name, make=make)

    def make(*arguments: Any, **options: Any) -> Sampler:
        run(one, "inner", make_sampler)
        return make_sampler(*arguments, **options)

    run(two, "outer", make)
    for name, bundle in (("inner", one), ("outer", two)):
        assert set(backends_of(tmp_path / name)) == set(bundle.networks)


def test_without_a_doubt_nothing_is_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The bundled models on a processor without bfloat16: float32, by our own path."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(processors, "multiplies_bf16", lambda: False)
    monkeypatch.setattr(processors, "CpuSampler", None)
    for name in ("digits-dual", "fashion-dual"):
        assert found(load_bundle(name)) == ("loops", "fp32")
    assert not list(tmp_path.iterdir())
    assert np.prod(load_bundle("fashion-dual").input_shape[:2]) < processors.LARGE


class Branches(torch.nn.Module):
    """Asks for a value, so that no graph of it is right for every batch."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)[:, :2] * (1.0 if bool(x.isfinite().all()) else 2.0)


def test_why_a_network_runs_unfused_is_told() -> None:
    arguments: dict[str, Any] = {"seed": 0, "batch_size": 8, "threads": 1}
    with CpuSampler({"net": Branches().eval()}, {"net": 2}, (4, 4, 1), **arguments) as sampler:
        (line,) = told(sampler.tried)
    assert line.startswith("net on cpu: fused refused: it cannot be captured: ")
    known = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2)).eval()
    with CpuSampler({"net": known}, {"net": 2}, (4, 4, 1), **arguments) as sampler:
        assert sampler.tried == {}
