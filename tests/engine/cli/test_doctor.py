"""What ``doctor`` says, against what the machine has."""

import re
from pathlib import Path

import pytest
import torch

from dualsmooth.engine.cli import doctor
from dualsmooth.engine.machine import installed_version
from dualsmooth.kernels.cpu import noise_votes


def test_every_part_is_said_once_and_speeds_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "SECONDS", 0.02)
    lines = list(doctor.examine())
    assert lines[0] == "dualsmooth doctor"
    for part in (
        "python",
        "torch",
        "processor",
        "instructions",
        "loops",
        "bf16 loops",
        "cuda",
        "triton ",
    ):
        assert any(line.startswith(f"  {part}") for line in lines), part
    rates = [re.search(r"votes/s +([\d,]+)  ([\w:]+)", line) for line in lines if "votes/s" in line]
    samplers = [found[2] for found in rates if found]
    assert len(samplers) == len(rates)
    assert samplers[0] == "torch"
    assert ("cpu" in samplers) == noise_votes.available()
    both = noise_votes.available() and installed_version("openvino") is not None
    assert ("cpu:openvino" in samplers) == both
    assert all(int(found[1].replace(",", "")) > 100 for found in rates if found)
    assert f"  torch        {installed_version('torch')}" in lines


def test_a_failing_sampler_is_a_line_and_not_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(make: object) -> tuple[str, float]:
        raise RuntimeError("driver")

    monkeypatch.setattr(doctor, "_rate", broken)
    lines = list(doctor.examine())
    assert any("TorchSampler fp32 failed: RuntimeError: driver" in line for line in lines)
    assert lines[-1].startswith("  faster:")


def test_advice_names_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise_votes, "available", lambda: False)
    assert any("C compiler" in line for line in doctor.advice())
    monkeypatch.setattr(noise_votes, "available", lambda: True)
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(doctor, "DRIVER", Path(__file__))
    assert any("PyTorch built for CUDA" in line for line in doctor.advice())
    assert not any("C compiler" in line for line in doctor.advice())
