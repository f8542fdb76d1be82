"""Runs whose networks OpenVINO runs: recorded, resumed, replayed, shared by workers, or refused."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dualsmooth.engine.budget import Budget
from dualsmooth.engine.cluster.job import facts_of
from dualsmooth.engine.machine import installed_version
from dualsmooth.engine.methods.dual import DualSmoothing
from dualsmooth.engine.models.sources.load import load_bundle
from dualsmooth.engine.runtime.session import Session
from dualsmooth.engine.settings import Settings
from dualsmooth.kernels.cpu import noise_votes
from tests.conftest import Command

pytest.importorskip("openvino", reason="OpenVINO is not installed (extra cpu)")
pytestmark = pytest.mark.skipif(
    not noise_votes.available(), reason="the compiled loops were not built"
)

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_bundle: Path, command: Command
) -> Run:
    """A command on a run of a few digits in ``run``; returns exit code and all output."""
    monkeypatch.chdir(tmp_path)

    def call(verb: str, *options: object) -> tuple[int, str]:
        arguments: list[object] = ["run", "--replay", 1, "--bundle", tiny_bundle]
        if verb == "certify":
            arguments = [tiny_bundle, "--n0", 10, "--n", 200, "--max", 6, "--batch-size", 16,
                         "--precision", "fp32", "--device", "cpu", "--out", "run"]  # fmt: skip
        code, out, err = command(verb, *arguments, "--data", "digits", *options)
        return code, out + err

    return call


def test_runs_record_it_and_are_resumed_and_replayed_with_it(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("certify", "--backend", "openvino")[0] == 0
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["configuration"]["sampler"] == "cpu:openvino"
    assert record["machine"]["versions"]["openvino"]
    log = tmp_path / "run" / "certificates.jsonl"
    whole = log.read_text()
    log.write_text("".join(whole.splitlines(keepends=True)[:2]))
    assert run("certify", "--resume")[0] == 0
    votes = [[json.loads(line)["counts"] for line in t.splitlines()]
             for t in (whole, log.read_text())]  # fmt: skip
    assert sorted(map(str, votes[0])) == sorted(map(str, votes[1]))
    code, output = run("audit")
    assert (code, "sampler cpu:openvino, compared exactly" in output) == (0, True), output
    monkeypatch.setattr("dualsmooth.engine.machine.installed_version", lambda name: "2025.0")
    code, output = run("audit")
    assert (code, "sampler cpu, with independent noise" in output) == (4, True), output


def test_workers_must_have_the_same_openvino(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(Budget.fixed(10, 100), device="cpu", backend="openvino", batch_size=16)
    with Session.open(DualSmoothing(load_bundle(tiny_bundle)), settings) as session:
        here = facts_of(session)
        versions = {"openvino": "2025.0"}
        monkeypatch.setattr(
            "dualsmooth.engine.machine.installed_version",
            lambda name: versions.get(name) or installed_version(name),
        )
        assert facts_of(session) == here | {"openvino": "2025.0"} != here


def test_a_missing_package_is_one_line_with_a_hint(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    code, output = run("certify", "--backend", "openvino")
    assert (code, output.count("\n")) == (2, 1)
    hint = "(python -m pip install 'openvino>=2025.1')"
    assert f"needs the package openvino; received openvino {hint}" in output
    assert not (tmp_path / "run").exists()


def test_a_backend_of_another_device_is_one_line_with_a_hint(run: Run, tmp_path: Path) -> None:
    code, output = run("certify", "--backend", "cudnn")
    assert (code, output.count("\n")) == (2, 1)
    assert (
        "backend must be one of auto, loops, openvino on cpu; received cudnn (use --device cuda)"
        in (output)
    )
    assert not (tmp_path / "run").exists()
