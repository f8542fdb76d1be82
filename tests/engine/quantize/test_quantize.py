"""Bundles of int8 networks: their own definition, their own certificates, whatever runs them."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dualsmooth.benchmarks.speed.networks import WideBlock
from dualsmooth.engine import Budget, DualSmoothing, certify, load_bundle
from dualsmooth.engine.data.spec import load_images
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.models.bundle import Bundle
from dualsmooth.engine.models.ensemble import ensemble_of
from dualsmooth.engine.models.int8 import Int8Network
from dualsmooth.engine.models.network import network_from_module
from dualsmooth.engine.models.registry import create
from dualsmooth.engine.quantize import network as making
from dualsmooth.engine.quantize.bundle import quantize
from dualsmooth.engine.quantize.calibration import Calibration
from dualsmooth.engine.quantize.network import quantized_network
from dualsmooth.engine.samplers.cpu import CpuSampler
from dualsmooth.engine.samplers.eager import TorchSampler
from dualsmooth.engine.samplers.sampler import Segment
from dualsmooth.engine.settings import Settings
from dualsmooth.kernels.cpu import int8_conv
from tests.conftest import Command

DIGITS = load_images("digits:train").images[:48]
SHAPES: dict[str, tuple[dict[str, Any], tuple[int, int, int]]] = {
    "small_convnet": ({"in_channels": 3, "image_size": (15, 12), "mean": (0.4, 0.5, 0.6),
                       "std": (0.2, 0.3, 0.25)}, (15, 12, 3)),
    "lenet": ({"mean": (0.3,), "std": (0.4,)}, (28, 28, 1)),
    "cifar_resnet20": ({}, (16, 16, 3)),
    "resnet18": ({"num_classes": 10}, (33, 40, 3)),
}  # fmt: skip


def network_of(name: str) -> tuple[nn.Module, tuple[int, int, int]]:
    kwargs, shape = SHAPES[name]
    torch.manual_seed(0)
    network = create(name, kwargs).eval()
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.bias.data.uniform_(-0.5, 0.5)
            part.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
            part.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    return network, shape


def batches(shape: tuple[int, int, int], images: int = 24) -> list[Any]:
    pixels = np.random.default_rng(0).random((images, *shape), dtype=np.float32)
    return list(Calibration(pixels).batches((0.25,), 16))


def distance(name: str) -> float:
    """How far logits are from the float32 network's, relative to how far these move."""
    network, shape = network_of(name)
    made = quantized_network(network, name, batches(shape))[1]
    x = torch.from_numpy(batches(shape, 64)[-1])
    with torch.inference_mode():
        wanted, found = network(x), made(x)
    return float((found - wanted).norm() / (wanted - wanted.mean(0)).norm())


@pytest.fixture(scope="module")
def digits_int8() -> Bundle:
    return quantize(load_bundle("digits-dual"), DIGITS)


@pytest.mark.parametrize("name", SHAPES)
def test_logits_are_near_those_of_the_network(name: str) -> None:
    assert distance(name) < 0.25


def test_a_scale_of_another_layer_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = making._constants

    def other(role: str, part: Any, numbers: list[Any], number: int, normalize: Any) -> Any:
        moved = [*numbers[:number], numbers[number - 1], *numbers[number + 1 :]]
        return right(role, part, moved, number, normalize)

    monkeypatch.setattr(making, "_constants", other)
    assert min(distance(name) for name in SHAPES) > 0.25


@pytest.mark.usefixtures("int8_loops")
@pytest.mark.parametrize("name", SHAPES)
def test_the_sampler_votes_by_the_loops_as_the_definition_does(name: str) -> None:
    network, (height, width, channels) = network_of(name)
    made = quantized_network(network, name, batches((height, width, channels)))[1]
    arguments: Any = ({"it": made}, {"it": 10}, (height, width, channels))
    image = np.full((height, width, channels), 0.5, np.float32)
    segments = [Segment(0, 3, 0.25, 3, 0, 21), Segment(0, 4, 0.5, 3, 7, 10)]
    loops = CpuSampler(*arguments, seed=5, batch_size=8, threads=2)
    assert any(isinstance(part, int8_conv.Int8Chain) for part in loops._networks["it"].modules())
    loops.load(0, image)
    fast = loops.count("it", segments)
    eager = TorchSampler(*arguments, seed=5, batch_size=8)
    eager.load(0, image)
    assert np.array_equal(fast, eager.count("it", segments))
    loops.close()
    eager.close()


def test_certificates_are_those_of_the_definition(
    digits_int8: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the loops PyTorch's operators give the same votes; the digest is the bundle's own."""
    images, settings = load_images("digits:test").images[:3], {"budget": Budget.fixed(20, 300)}

    def found() -> list[dict[str, Any]]:
        made = certify(DualSmoothing(digits_int8), images, **settings)  # type: ignore[arg-type]
        return [{**vars_of(c), "seconds": 0, "sampler": ""} for c in made]

    fast = found()
    monkeypatch.setattr(int8_conv, "available", lambda: False)
    assert found() == fast
    assert (
        {c["bundle"] for c in fast} == {digits_int8.digest} != {load_bundle("digits-dual").digest}
    )
    assert {c["precision"] for c in fast} == {"fp32"}


def vars_of(certificate: Any) -> dict[str, Any]:
    return {name: getattr(certificate, name) for name in certificate.__dataclass_fields__}


def test_selectors_with_thresholds_and_ensembles_are_made_of_int8_networks(
    ordered_bundle: Bundle,
) -> None:
    three = ensemble_of([load_bundle("digits-dual")] * 3, agree=2)
    two = ensemble_of([load_bundle("digits-dual")] * 2)
    for bundle in (ordered_bundle, three, two):
        made = quantize(bundle, DIGITS[:8])
        assert all(network.int8 for network in made.networks.values())
        assert not any(network.int8 for network in bundle.networks.values())
        for role in made.networks:
            parts = [type(part) for part in made.build(role).modules()]
            assert Int8Network in parts
            assert nn.Conv2d not in parts
        settings = Settings(budget=Budget.fixed(10, 50))
        assert certify(DualSmoothing(made), DIGITS[:1], budget=settings.budget)


class Slice(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :1]


REFUSED: Mapping[str, tuple[Callable[[], nn.Module], str]] = {
    "no ReLU between": (
        lambda: nn.Sequential(nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(),
                              nn.BatchNorm2d(16), nn.Flatten(), nn.Linear(576, 10)),
        r"network it must consist of convolutions.*layer 3 \(BatchNorm2d\).*certify it in float32",
    ),
    "groups": (
        lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, groups=2), nn.Flatten(),
                              nn.Linear(64, 10)),
        r"layer 1 \(Conv2d\) groups",
    ),
    "no linear layer": (
        lambda: nn.Sequential(nn.Conv2d(1, 10, 8), nn.Flatten()),
        "a linear layer must give the logits",
    ),
    "block with norm before": (
        lambda: nn.Sequential(nn.Conv2d(1, 4, 3), WideBlock(4, 4, 1), nn.Flatten(),
                              nn.Linear(144, 10)),
        "network it must consist of",
    ),
    "slices": (
        lambda: nn.Sequential(Slice(), nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 10)),
        "network it must consist of",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_layer_without_an_integer_form_is_named(name: str) -> None:
    make, match = REFUSED[name]
    with pytest.raises(ArgumentError, match=match):
        quantized_network(make().eval(), "it", batches((8, 8, 1)))


def test_what_cannot_be_done_is_said_before_any_work(digits_int8: Bundle) -> None:
    alone = Bundle.from_classifier(
        create("small_convnet", {}).eval(), num_classes=10, input_shape=(8, 8, 1)
    )
    with pytest.raises(ArgumentError, match=r"sigma must be given.*the level you will certify at"):
        quantize(alone, DIGITS)
    assert quantize(alone, DIGITS, sigma=0.25).sigmas == ()
    with pytest.raises(ArgumentError, match=r"leave it out: this one is calibrated at 0.12, 0.25"):
        quantize(load_bundle("digits-dual"), DIGITS, sigma=0.25)
    with pytest.raises(ArgumentError, match=r"must be in float32; received one of 8-bit integers"):
        quantize(digits_int8, DIGITS)
    with pytest.raises(ArgumentError, match="images must hold at least one"):
        quantize(alone, DIGITS[:0], sigma=0.25)
    for options, match in (
        ({"precision": "bf16"}, "precision must be auto or fp32 for int8 networks"),
        ({"backend": "openvino"}, "backend must be auto or loops for int8 networks"),
    ):
        with pytest.raises(ArgumentError, match=match):
            certify(DualSmoothing(digits_int8), DIGITS[:1], device="cpu", **options)  # type: ignore[arg-type]


def test_a_file_with_other_steps_or_types_is_refused(digits_int8: Bundle) -> None:
    network = digits_int8.networks["selector"]
    module = network.build()
    assert network_from_module(module, "int8", network.kwargs).sha256 == network.sha256
    for steps, match in (
        ([], "steps must hold at least one"),
        (["32 3x3 stride 2 pad 1x1 of 1"], "must read maps that were made before"),
        (["32 3x3 of 0"], "steps must be '32 3x3 stride 1 pad 1x1 of MAP'"),
        (["max 0x3 stride 2 pad 1x1 of 0"], "must read maps"),
    ):
        with pytest.raises(ArgumentError, match=match):
            create("int8", {**network.kwargs, "steps": steps})


def votes(line: str) -> Any:
    """What a line of the log says of an image, its votes among it."""
    certificate = json.loads(line)
    return [certificate[name] for name in ("image_id", "predicted", "radius", "counts")]


def test_the_command_writes_a_bundle_that_runs_survive_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    monkeypatch.chdir(tmp_path)
    for out in ("one", "two"):
        assert command("quantize", "digits-dual", "--images", 16, "--out", out)[0] == 0
    assert load_bundle("one").digest == load_bundle("two").digest
    assert "not about the float32 ones" in Path("one/MODEL_CARD.md").read_text()
    certify_ = ("certify", "one", "--data", "digits", "--n0", 10, "--n", 60, "--out", "run")
    assert command(*certify_, "--max", 4)[0] == 0
    log = Path("run/certificates.jsonl")
    whole = [votes(line) for line in log.read_text().splitlines()]
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:2]))
    assert command(*certify_, "--max", 4, "--resume", "--workers", 2)[0] == 0
    again = [votes(line) for line in log.read_text().splitlines()]
    assert sorted(again, key=str) == sorted(whole, key=str)
    assert command("audit", "run", "--bundle", "one", "--replay", 1.0)[0] == 0
    record = json.loads(Path("run/run.json").read_text())["configuration"]
    assert record["bundle_manifest"]["networks"]["selector"][0] == "int8"
    code, _, said = command("export", "one", "--out", "deployed")
    assert code == 2
    assert "export the float32 bundle with --int8" in said
    assert not Path("deployed").exists()
    code, _, said = command("quantize", "digits-dual", "--images", 0, "--out", "three")
    assert code == 2
    assert not Path("three").exists()


@pytest.mark.usefixtures("int8_loops")
@pytest.mark.parametrize("variant", ["one step too much", "batch mates"])
def test_loops_that_break_the_law_do_not_vote(
    variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sampler proves the loops against the definition before the first vote."""
    right = int8_conv.Int8Chain.forward

    def wrong(self: int8_conv.Int8Chain, x: torch.Tensor) -> torch.Tensor:
        if variant == "batch mates":  # scales of a batch, as dynamic quantization has
            return right(self, x / x.abs().max())
        return right(self, x + 0.05)

    monkeypatch.setattr(int8_conv.Int8Chain, "forward", wrong)
    network, shape = network_of("small_convnet")
    made = quantized_network(network, "it", batches(shape))[1]
    with pytest.warns(UserWarning, match="network it runs as it is: fused"):
        sampler = CpuSampler({"it": made}, {"it": 10}, shape, seed=5, batch_size=32, threads=1)
    sampler.close()
