"""Convolutions chosen by a contest: the choice is the sampler's name, and gives its votes again."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from torch import nn

from dualsmooth.benchmarks.gpu.votes import Subject
from dualsmooth.benchmarks.speed.networks import Pooled
from dualsmooth.engine.backends import AUTOMATIC
from dualsmooth.engine.budget import Budget
from dualsmooth.engine.data.spec import load_images
from dualsmooth.engine.errors import ArgumentError, DualSmoothError, SamplerError
from dualsmooth.engine.methods.fixed import FixedSmoothing
from dualsmooth.engine.models.architectures.deep_resnet import Bottleneck
from dualsmooth.engine.models.sources.load import load_bundle
from dualsmooth.engine.runs import describe
from dualsmooth.engine.runs.audit import audit
from dualsmooth.engine.runs.certify import certify_run
from dualsmooth.engine.runs.record import read_configuration
from dualsmooth.engine.runs.replay import Choice, replay
from dualsmooth.engine.samplers import choose, graphs, passes
from dualsmooth.engine.samplers import cuda as cuda_sampler
from dualsmooth.engine.samplers.cuda import CudaSampler
from dualsmooth.engine.samplers.fusion.kernels import KERNELS, Convolution, Kernel, Run
from dualsmooth.engine.samplers.sampler import Segment
from dualsmooth.engine.samplers.stream import CudaStream
from dualsmooth.engine.settings import Settings

SHAPE, ROWS, PICKS = (8, 8, 3), 16, "pptppptp"
PARTS = [Segment(0, 7, 0.5, 3, 0, 40), Segment(1, 8, 0.25, 3, 5, 23)]
IMAGES = np.random.default_rng(0).random((2, *SHAPE)).astype(np.float32)


def network() -> nn.Module:
    """A bottleneck network whose noisy images spread over its classes."""
    torch.manual_seed(3)
    layers = nn.Conv2d(3, 16, 3, 1, 1), nn.ReLU(), Bottleneck(16, 16, 1), Bottleneck(64, 16, 2)
    make = partial(Pooled, nn.Sequential(*layers), 64, 10)
    return Subject("bottlenecks", make, SHAPE[0]).balanced()


@pytest.fixture
def picky(
    fake_stream: type[Any], monkeypatch: pytest.MonkeyPatch, cudnn: None
) -> Callable[[Mapping[str, float]], list[str]]:
    """Makes the contests of a machine end as told: letter -> seconds; returns what was timed."""
    del cudnn
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(cuda_sampler, "CudaStream", fake_stream)
    seen = list[str]()

    def made(times: Mapping[str, float]) -> list[str]:
        def timed(passes: Mapping[str, Any], *rest: object) -> dict[str, float]:
            seen.append(" ".join(passes))
            names = {name: name.partition(".")[0] for name in passes}
            found = {name: times.get(kind, 9.0) for name, kind in names.items()}
            return dict(sorted(found.items(), key=lambda entry: entry[1]))

        monkeypatch.setattr(graphs, "fastest", timed)
        return seen

    return made


def sampler(backend: str, **options: Any) -> CudaSampler:
    settings: dict[str, Any] = {
        "batch_size": ROWS,
        "precision": "bf16",
        "device": "cuda",
        "seed": 3,
    }
    made = choose.make_sampler(
        {"m": network()}, {"m": 10}, SHAPE, backend=backend, **settings | options
    )
    assert isinstance(made, CudaSampler)
    for slot, image in enumerate(IMAGES):
        made.load(slot, image)
    return made


Picky = Callable[[Mapping[str, float]], list[str]]
OURS = {"p": 1.0, "t": 1.0, "c": 2.0}


def test_the_name_carries_the_choice_and_a_named_choice_is_not_timed(picky: Picky) -> None:
    seen = picky(OURS)
    chosen = sampler("picked")
    assert chosen.name == f"cuda:picked.stem.{PICKS}"
    assert seen == [f"c {letter}" for letter in PICKS]
    seen.clear()
    named = sampler(f"picked.stem.{PICKS}")
    assert (named.name, seen) == (chosen.name, [])
    votes = chosen.count("m", PARTS)
    assert_array_equal(named.count("m", PARTS), votes)
    plain = sampler(f"picked.stem.{'c' * len(PICKS)}")
    assert_array_equal(plain.count("m", PARTS), sampler("stem").count("m", PARTS))
    assert np.abs(votes - plain.count("m", PARTS)).sum() <= 6  # near ties
    assert votes.sum(0).max() < 40


@pytest.mark.parametrize(
    ("backend", "noise", "begins"),
    [
        ("picked", "gaussian", "stem."),
        ("picked", "integer", "cudnn.c"),
        ("picked.cudnn", "gaussian", "cudnn.c"),
    ],
)
def test_what_the_network_begins_with_is_part_of_the_name(
    picky: Picky, backend: str, noise: str, begins: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Our stem where it can be, or what is named."""
    picky({"p": 1.0, "c": 2.0})
    monkeypatch.setitem(globals(), "IMAGES", np.round(IMAGES * 255) / np.float32(255))
    made = sampler(backend, noise=noise)
    assert made.name == f"cuda:picked.{begins}{PICKS.replace('t', 'c')}"
    assert made.count("m", PARTS).sum() == 63


def test_bad_choices_are_named(picky: Picky) -> None:
    picky(OURS)
    for backend, precision, message in (
        ("picked", "fp32", "must not be picked in float32; received torch.float32 .use cudnn"),
        ("picked.stem.pp", "bf16", "must name 8 kernels for this network.*received pp .use picked"),
        (f"picked.cudnn.{PICKS}", "bf16", "must name 9 kernels for this network"),
        (f"picked.tiledstem.{PICKS}", "bf16", "its first convolution fits stem only"),
        ("picked.stem.P", "bf16", "must be one of auto, fused"),
        ("picked.triton", "bf16", "must be one of auto, fused"),
    ):
        with pytest.raises(ArgumentError, match=f"^backend .*{message}"):
            sampler(backend, precision=precision)


def test_a_kernel_whose_rows_depend_on_their_place_is_refused(
    picky: Picky, monkeypatch: pytest.MonkeyPatch
) -> None:
    picky(OURS)
    product = KERNELS["p"]

    def placed(kind: Convolution, *parts: torch.Tensor) -> Run:
        run = product.make(kind, *parts)

        def moved(x: torch.Tensor, residual: torch.Tensor | None) -> torch.Tensor:
            return run(x, residual=residual) + 0.01 * torch.arange(len(x)).view(-1, 1, 1, 1).to(x)

        return moved

    monkeypatch.setitem(KERNELS, "p", Kernel(product.fits, placed))
    with pytest.raises(SamplerError, match="must not depend on its place in the batch"):
        sampler("picked")
    assert sampler("auto").name == "cuda:stem"


def test_auto_remembers_the_choice_with_the_backend(
    picky: Picky, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    seen = picky(OURS | {"picked": 1.0, "stem": 2.0})
    first = sampler("auto")
    assert first.name == f"cuda:picked.stem.{PICKS}"
    assert set(first.tried["m"]) == {f"picked.stem.{PICKS}", *AUTOMATIC} - {"picked"}
    assert len(seen) == len(PICKS) + 1
    again = sampler("auto")
    assert (again.name, again.tried, len(seen)) == (first.name, first.tried, len(PICKS) + 1)
    assert_array_equal(again.count("m", PARTS), first.count("m", PARTS))


@pytest.fixture
def certified(picky: Picky, tmp_path: Path) -> tuple[Path, Callable[..., None]]:
    """A run whose sampler chose one kernel of ours, and what certifies more into its folder."""
    picky(OURS)
    bundle, data = load_bundle("digits-dual"), load_images("digits")
    settings = Settings(Budget.fixed(10, 60), device="cuda", precision="bf16", backend="picked")
    method = FixedSmoothing(bundle, 0.25)

    def certify(count: int = 4, **options: Any) -> None:
        folder, changed = tmp_path / "run", replace(settings, **options)
        certify_run(method, data, list(range(count)), changed, folder, resume=folder.exists())

    certify()
    return tmp_path / "run", certify


def test_a_run_records_its_choice_and_an_audit_draws_the_same(
    certified: tuple[Path, Callable[..., None]], picky: Picky
) -> None:
    folder, _ = certified
    assert read_configuration(folder)["sampler"] == "cuda:picked.stem.t"
    lines = (folder / "certificates.jsonl").read_text().splitlines()
    assert {json.loads(line)["sampler"] for line in lines} == {"cuda:picked.stem.t"}
    seen = picky({"c": 1.0})
    bundle, data = load_bundle("digits-dual"), load_images("digits")
    found = audit(folder, data)
    assert found.plan is not None
    replay(found, found.plan, bundle, data, Choice(1.0, 3, "exact"))
    assert found.findings == []
    assert "sampler cuda:picked.stem.t, compared exactly" in found.passed[-1]
    assert len(seen) == 1


def test_a_run_goes_on_with_its_choice_whatever_is_faster_today(
    certified: tuple[Path, Callable[..., None]], picky: Picky
) -> None:
    folder, certify = certified
    seen = picky({"c": 1.0})
    for backend in ("auto", "picked"):
        certify(backend=backend)
        assert read_configuration(folder)["sampler"] == "cuda:picked.stem.t"
    assert len(seen) == 1
    for backend in ("picked.stem.c", "cudnn"):
        with pytest.raises(DualSmoothError, match=r"sampler.*cuda:picked.stem.t"):
            certify(backend=backend)


def test_a_choice_that_is_not_taken_again_is_noticed(
    certified: tuple[Path, Callable[..., None]], picky: Picky, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: a resumed run has a contest of its own."""
    picky({"c": 1.0})
    monkeypatch.setattr(describe, "answers", lambda recorded, asked: asked == "auto")
    with pytest.raises(DualSmoothError, match=r"sampler.*cuda:picked.stem.t"):
        certified[1](backend="picked")


def test_without_the_choice_samplers_of_other_kernels_would_have_one_name(
    picky: Picky, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: the last two are equal to resume, audit and memory."""
    honest, names = passes._library, list[str]()
    for times in (OURS, {"c": 1.0}):
        picky(times)
        names.append(sampler("picked").name)
        with monkeypatch.context() as changed:
            changed.setattr(passes, "_library", lambda *parts: honest(*parts[:2]))
            names.append(sampler("picked").name)
    assert names[0] != names[2]
    assert names[1] == names[3] == "cuda:picked"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_every_kernel_of_ours_on_a_device() -> None:
    """All of ours, cuDNN's alone, and what a contest takes: near ties aside, the same votes."""
    options: dict[str, Any] = {"batch_size": 64, "stream": CudaStream()}
    parts = [replace(part, count=500) for part in PARTS]
    votes = {}
    for backend in (f"picked.stem.{PICKS}", f"picked.stem.{'c' * len(PICKS)}", "picked", "eager"):
        made = sampler(backend, **options)
        votes[backend] = made.count("m", parts)
        assert_array_equal(made.count("m", parts[::-1])[::-1], votes[backend])
        assert np.abs(votes[backend] - votes[f"picked.stem.{PICKS}"]).sum() <= 60
