"""Which device a run uses, and that runs on a CUDA sampler are recorded, resumed and replayed."""

import json
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dualsmooth.engine.budget import Budget
from dualsmooth.engine.certificate import Certificate
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.methods.dual import DualSmoothing
from dualsmooth.engine.models.sources.load import load_bundle
from dualsmooth.engine.records import digest_of
from dualsmooth.engine.runtime.session import Session
from dualsmooth.engine.samplers import choose as native
from dualsmooth.engine.samplers import cuda as cuda_sampler
from dualsmooth.engine.settings import Settings
from dualsmooth.kernels.cpu import noise_votes
from tests.conftest import Command


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch, fake_stream: type[Any], tmp_path: Path) -> None:
    """A machine that seems to have a CUDA device."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(cuda_sampler, "CudaStream", fake_stream)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("device", "switch", "said"),
    [
        ("cpu", "set_float32_matmul_precision('medium')", "mkldnn.matmul.*received bf16.*highest"),
        ("cpu", "backends.mkldnn.fp32_precision = 'bf16'", "mkldnn.matmul.*received bf16"),
        ("cpu", "backends.mkldnn.conv.fp32_precision = 'bf16'", "mkldnn.conv.*conv.*= 'ieee'"),
        ("cuda", "backends.fp32_precision = 'tf32'", "float32 on CUDA must be PyTorch's own"),
    ],
)
def test_float32_of_fewer_bits_is_refused(device: str, switch: str, said: str) -> None:
    """In a process of its own: PyTorch does not take all of these back."""
    code = (
        f"import torch\ntorch.{switch}\nfrom dualsmooth.engine.samplers import choose\n"
        f"choose.make_sampler({{}}, {{}}, (8, 8, 1), device={device!r}, batch_size=8, seed=0)"
    )
    run = [sys.executable, "-c", code]
    ended = subprocess.run(run, capture_output=True, text=True, timeout=120, check=False)
    assert re.search(f"ArgumentError: torch.*{said}", ended.stderr), ended.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_without_a_device_auto_is_the_cpu_and_cuda_is_refused() -> None:
    assert native.device_kind("auto") == "cpu"
    with pytest.raises(
        ArgumentError, match=r"^device must be one .*; received cuda .*--device cpu"
    ):
        native.device_kind("cuda")


@pytest.mark.usefixtures("cuda")
def test_with_a_device_auto_is_cuda_bfloat16_and_large_batches() -> None:
    bundle = load_bundle("digits-dual")
    settings = native.resolve(Settings(), bundle)
    assert (settings.device, settings.precision) == ("cuda", "bf16")
    assert [settings.padded_batch((n, n, 3)) for n in (8, 32, 224)] == [4096, 4096, 512]
    cpu = native.resolve(Settings(device="cpu"), bundle)
    assert (cpu.device, cpu.padded_batch((32, 32, 3))) == ("cpu", 256)


def certificates(bundle: Path, **options: Any) -> list[Certificate]:
    settings: dict[str, Any] = {"batch_size": 64, "precision": "fp32", "seed": 5} | options
    method = DualSmoothing(load_bundle(str(bundle)))
    images = np.random.default_rng(1).random((9, 8, 8, 1)).astype(np.float32)
    with Session.open(method, Settings(Budget.fixed(20, 300), 0.01, **settings)) as session:
        return sorted(session.certify(images), key=lambda c: c.image_id)


def statistics(certificate: Certificate) -> tuple[object, ...]:
    return certificate.predicted, certificate.radius, certificate.counts, certificate.bounds


@pytest.mark.usefixtures("cuda")
@pytest.mark.parametrize("depth", [1, 2])
def test_a_session_gives_the_reference_certificates(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, depth: int
) -> None:
    """Slots are given away and images loaded again while other batches are under way."""
    monkeypatch.setattr(cuda_sampler.CudaSampler, "depth", depth)
    monkeypatch.setattr(cuda_sampler, "BATCHES", 2)
    found = certificates(tiny_bundle, device="cuda", backend="eager", slots=3)
    assert {(c.device, c.sampler, c.precision) for c in found} == {("cuda", "cuda:eager", "fp32")}
    monkeypatch.setattr(noise_votes, "available", lambda: False)
    wanted = certificates(tiny_bundle, device="cpu", threads=1)
    assert {c.sampler for c in wanted} == {"torch"}
    assert [statistics(c) for c in found] == [statistics(c) for c in wanted]


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_bundle: Path, command: Command
) -> Command:
    """Certify a few digits into ``run``."""
    monkeypatch.chdir(tmp_path)
    votes = ("--n0", 10, "--n", 50, "--max", 3, "--batch-size", 16, "--precision", "fp32")
    return partial(command, "certify", tiny_bundle, "--data", "digits", *votes, "--out", "run")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_missing_device_is_one_line_with_a_hint(run: Command) -> None:
    code, _, error = run("--device", "cuda")
    assert code == 2
    assert "received cuda (use --device cpu" in error


def test_an_unknown_backend_is_one_line(run: Command) -> None:
    code, _, error = run("--backend", "magic")
    assert code == 2
    assert "backend must be one of auto, fused, onchip" in error


@pytest.mark.usefixtures("cuda")
def test_what_auto_tried_is_recorded_and_said(run: Command, tmp_path: Path) -> None:
    code, _, error = run("--verbose")
    assert code == 0
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    tried = record["machine"]["backends"]
    assert set(tried) == {"selector", "classifier"}
    assert all("must not be triton" in networks["triton"] for networks in tried.values())
    assert "selector: onchip refused: backend must not be onchip for this network" in error
    assert run("--resume")[0] == 0


@pytest.mark.usefixtures("cuda")
def test_the_backend_is_recorded_and_kept_when_a_run_is_resumed(
    run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("--backend", "selector=eager,classifier=eager")[0] == 0
    record = tmp_path / "run" / "run.json"
    assert json.loads(record.read_text())["configuration"]["sampler"] == "cuda:eager"

    def measured(*arguments: object) -> None:
        raise AssertionError("a backend was chosen again")

    with monkeypatch.context() as patch:
        patch.setattr("dualsmooth.engine.samplers.graphs.fastest", measured)
        assert run("--resume")[0] == 0
        with pytest.raises(AssertionError, match="chosen again"):
            run("--fresh")
    other = json.loads(record.read_text())
    other["configuration"]["sampler"] = "cuda:cudnn"
    covered = {name: other[name] for name in ("configuration", "machine")}
    other["fingerprint"] = digest_of(covered)
    record.write_text(json.dumps(other))
    code, _, error = run("--resume", "--backend", "eager")
    assert code == 2
    assert "sampler 'cuda:cudnn' -> 'cuda:eager'" in error
