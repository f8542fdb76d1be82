"""What ``auto`` tried is told, recorded and remembered; a memory never decides alone."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dualsmooth.engine.backends import AUTOMATIC, told
from dualsmooth.engine.errors import SamplerError
from dualsmooth.engine.samplers import choose, graphs, remembered
from dualsmooth.engine.samplers import cuda as cuda_sampler
from dualsmooth.engine.samplers.calibrate import Judge, fastest
from dualsmooth.engine.samplers.cuda import CudaSampler
from dualsmooth.engine.samplers.sampler import Segment

SHAPE = (8, 8, 1)


def network(seed: int) -> torch.nn.Module:
    """cuDNN's calls do not run without a device."""
    torch.manual_seed(seed)
    layers = torch.nn.Conv2d(1, 3, 3), torch.nn.ReLU(), torch.nn.AvgPool2d(6), torch.nn.Flatten()
    return torch.nn.Sequential(*layers).eval()


@pytest.fixture
def file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fake_stream: type[Any]) -> Path:
    """A machine that seems to have a CUDA device; returns where choices are kept."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(cuda_sampler, "CudaStream", fake_stream)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "dualsmooth" / "backends.json"


def make(seed: int = 0, **options: Any) -> CudaSampler:
    settings: dict[str, Any] = {"batch_size": 16, "precision": "fp32", "device": "cuda", "seed": 3}
    made = choose.make_sampler({"a": network(seed)}, {"a": 3}, SHAPE, **settings | options)
    assert isinstance(made, CudaSampler)
    return made


Count = Callable[[], int]


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch) -> Count:
    """How often backends were timed."""
    calls = list[int]()

    def counted(*arguments: Any) -> dict[str, float]:
        calls.append(1)
        return fastest(*arguments)

    monkeypatch.setattr(graphs, "fastest", counted)
    return lambda: len(calls)


def test_every_backend_is_told_with_its_time_or_its_reason(file: Path) -> None:
    sampler = make()
    assert sampler.name == "cuda:eager"
    tried = sampler.tried["a"]
    assert set(tried) == set(AUTOMATIC)
    assert isinstance(tried["eager"], float)
    assert "must not be onchip for this network; received Sequential" in str(tried["onchip"])
    lines = list(told(sampler.tried))
    assert re.fullmatch(r"a: eager \d+\.\d+ ms a batch", lines[0])
    assert "a: triton refused: backend must not be triton for this network" in "\n".join(lines)
    assert json.loads(file.read_text()).popitem()[1] == tried
    assert make(backend="eager").tried == {}


def test_a_choice_is_made_once_per_network_and_setting(file: Path, trials: Count) -> None:
    first, again = make(), make()
    assert again.name == first.name
    assert trials() == 1
    assert again.tried == first.tried
    others: tuple[Any, ...] = ({"seed": 1}, {"batch_size": 8}, {"precision": "bf16"})
    for count, changed in enumerate(others, 2):
        make(**changed)
        assert trials() == count
    assert len(json.loads(file.read_text())) == 4


def test_a_new_candidate_is_tried(
    file: Path, trials: Count, monkeypatch: pytest.MonkeyPatch
) -> None:
    for count, names in enumerate((("eager",), ("triton", "eager")), 1):
        for owner in (remembered, graphs):
            monkeypatch.setattr(owner, "AUTOMATIC", names)
        make()
        assert trials() == count


def test_votes_are_those_of_the_first_choice(file: Path) -> None:
    segment = Segment(0, 5, 0.5, 2, 0, 40)
    votes = []
    for _ in range(2):
        sampler = make()
        sampler.load(0, torch.rand(SHAPE, generator=torch.Generator().manual_seed(1)).numpy())
        votes.append(sampler.count("a", [segment]).tolist())
    assert votes[0] == votes[1]


@pytest.mark.parametrize("wrong", [{"triton": 1e-9}, {"magic": 1.0}, {"eager": "refused"}, {}, 7])
def test_a_memory_that_fails_or_is_no_memory_is_made_anew(
    file: Path, trials: Count, wrong: object
) -> None:
    make()
    kept = json.loads(file.read_text())
    file.write_text(json.dumps(dict.fromkeys(kept, wrong)))
    assert make().name == "cuda:eager"
    assert trials() == 2
    assert set(json.loads(file.read_text()).popitem()[1]) == set(AUTOMATIC)


@pytest.mark.parametrize("content", [b"", b"\xff{", b"[1]"])
def test_a_file_that_is_no_memory_costs_a_trial(file: Path, trials: Count, content: bytes) -> None:
    file.parent.mkdir()
    file.write_bytes(content)
    make()
    assert trials() == 1
    assert len(json.loads(file.read_text())) == 1


def test_a_folder_that_cannot_be_made_costs_a_trial(
    file: Path, trials: Count, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.parent.write_text("not a folder")
    assert [make().name, make().name] == ["cuda:eager"] * 2
    assert trials() == 2


def test_a_remembered_backend_passes_the_checks_again(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make()

    def wrong(self: object, scores: torch.Tensor) -> str:
        return "logits of another network"

    monkeypatch.setattr(Judge, "fault", wrong)
    with pytest.raises(SamplerError, match=r"no backend can run it; .*logits of another network"):
        make()
