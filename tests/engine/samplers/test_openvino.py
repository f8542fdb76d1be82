"""Networks run by OpenVINO: the votes of PyTorch's, each row by itself, or a refusal."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dualsmooth.engine.errors import ArgumentError, SamplerError
from dualsmooth.engine.machine import available_cores
from dualsmooth.engine.models.architectures.ordered import OrderedLevels
from dualsmooth.engine.models.ensemble import Consensus, SoftVoting
from dualsmooth.engine.models.registry import create
from dualsmooth.engine.samplers import openvino as openvino_network
from dualsmooth.engine.samplers.choose import make_sampler
from dualsmooth.engine.samplers.cpu import CpuSampler
from dualsmooth.engine.samplers.eager import TorchSampler
from dualsmooth.engine.samplers.sampler import Segment
from dualsmooth.kernels.cpu import noise_votes
from tests.engine.samplers.test_agreement import SEGMENTS, segment

openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed (extra cpu)")
pytestmark = pytest.mark.skipif(
    not noise_votes.available(), reason="the compiled loops were not built"
)

needs_bf16 = pytest.mark.skipif(
    "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"),
    reason="OpenVINO has no bfloat16 on this processor",
)

SHAPE, CLASSES = (8, 12, 3), 5
IMAGES = np.random.default_rng(0).random((3, *SHAPE)).astype(np.float32)


class ConvNet(torch.nn.Module):
    def __init__(self, seed: int = 5, channels: int = 3, outputs: int = CLASSES) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.conv = torch.nn.Conv2d(channels, 16, 3, padding=1, stride=2)
        self.norm = torch.nn.BatchNorm2d(16)
        self.head = torch.nn.Linear(16 * 4 * 6, outputs)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2
        self.norm.running_var = torch.full((16,), 1.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(torch.relu(self.norm(self.conv(x))).flatten(1))
        return logits


def consensus() -> torch.nn.Module:
    return Consensus([ConvNet(seed) for seed in (5, 6, 7)], 2, rows=4)


def small() -> torch.nn.Module:
    kwargs = {"in_channels": 3, "num_classes": CLASSES, "image_size": SHAPE[:2], "widths": [8, 8]}
    torch.manual_seed(1)
    network = create("small_convnet", kwargs).eval()
    noisy = torch.from_numpy(IMAGES[2]).permute(2, 0, 1) + torch.randn(64, 3, 8, 12)
    with torch.no_grad():
        list(network.parameters())[-1].sub_(network(noisy).mean(0))
    return network


NETWORKS: dict[str, Callable[[], torch.nn.Module]] = {
    "convolution": ConvNet,
    "small": small,
    "ensemble": lambda: SoftVoting([ConvNet(5), ConvNet(6)]),
    "consensus": consensus,
    "ordered": lambda: OrderedLevels(ConvNet(5, 4, 1), [0.1, 0.2, 0.4, 0.8, 1.6], 0.3),
}


def sampler(network: torch.nn.Module, kind: type[Any] = CpuSampler, **options: Any) -> Any:
    if kind is CpuSampler:
        options = {"backend": "openvino"} | options
    options = {"seed": 7, "batch_size": 32, "threads": 1} | options
    made = kind({"m": network}, {"m": CLASSES}, SHAPE, **options)
    for slot in range(3):
        made.load(slot, IMAGES[slot])
    return made


def votes(network: torch.nn.Module, part: Segment, **options: Any) -> NDArray[np.int64]:
    made = sampler(network, **options)
    found: NDArray[np.int64] = made.count("m", [part])[0]
    made.close()
    return found


def test_integer_noise_votes_are_those_of_pytorch() -> None:
    counted = []
    for backend in ("auto", "openvino"):
        made = CpuSampler({"m": small()}, {"m": CLASSES}, SHAPE, seed=7, batch_size=32, threads=1,
                          backend=backend, noise="integer")  # fmt: skip
        made.load(2, np.round(255 * IMAGES[2]).astype(np.float32) / np.float32(255))
        counted.append(made.count("m", [segment(2, 1.0, 0, 2000)])[0])
    assert np.abs(counted[0] - counted[1]).sum() <= 2 * 2


@pytest.mark.parametrize("name", NETWORKS)
def test_votes_are_those_of_pytorch_but_for_near_ties(name: str) -> None:
    """Both draw the same noise; at most one vote in a thousand may move."""
    part, network = segment(2, 1.0, 0, 2000), NETWORKS[name]()
    plain = votes(network, part, kind=TorchSampler)
    assert (plain > 20).sum() >= 3
    assert np.abs(plain - votes(network, part)).sum() <= 2 * 2


@needs_bf16
def test_bfloat16_moves_few_votes() -> None:
    part = segment(2, 1.0, 0, 2000)
    exact, rounded = votes(small(), part), votes(small(), part, precision="bf16")
    assert 0 < np.abs(exact - rounded).sum() <= 2 * 40


@pytest.mark.parametrize(
    ("name", "precision"),
    [("small", "fp32"), pytest.param("small", "bf16", marks=needs_bf16), ("consensus", "fp32")],
)
def test_votes_do_not_depend_on_batch_mates_order_or_threads(
    name: str, precision: str, votes_stay: Callable[..., None]
) -> None:
    network = NETWORKS[name]()
    base = sampler(network, precision=precision).count("m", SEGMENTS)
    for threads in (1, 3):
        other = sampler(network, threads=threads, precision=precision)
        votes_stay(base, partial(other.count, "m"), SEGMENTS)
        other.close()


def test_logits_stay_when_the_network_runs_again() -> None:
    """OpenVINO gives its own memory away unless it is asked for a copy."""
    network = openvino_network.converted_network("m", ConvNet().eval(), (4, *SHAPE), "fp32", 1)
    first = network(torch.ones(4, 3, 8, 12))
    kept = first.clone()
    network(torch.zeros(4, 3, 8, 12))
    assert torch.equal(first, kept)


def test_logits_that_are_not_finite_are_invalid_votes() -> None:
    class Logarithm(ConvNet):
        """NaN where a pixel is below -1, which no row of the trial is in this place."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + (x[:, :1, 0, 0] + 1.75).log()

    part = segment(0, 1.0, 0, 2000)
    found, plain = votes(Logarithm(), part), votes(Logarithm(), part, kind=TorchSampler)
    assert found[-1] == plain[-1] > 0


class BatchStatistics(ConvNet):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = super().forward(x)
        return logits - logits.mean(0)


class Place(ConvNet):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + 1e-3 * torch.arange(len(x))[:, None]


@pytest.mark.parametrize("network", [BatchStatistics, Place])
def test_networks_whose_rows_depend_on_each_other_are_refused(network: type[ConvNet]) -> None:
    with pytest.raises(SamplerError, match=r"^m: a row's logits must not depend on the other "):
        sampler(network())


def test_networks_that_branch_on_values_are_refused() -> None:
    class Branch(ConvNet):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) if x.sum() > 0 else super().forward(-x)

    with pytest.raises(
        ArgumentError, match=r"^backend must suit the network m .*openvino \(use --backend auto in"
    ):
        sampler(Branch())


def test_a_conversion_that_loses_something_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    exported = openvino_network.exported_network

    def other(stage: torch.nn.Module, batch: torch.Tensor) -> Any:
        changed = copy.deepcopy(stage)
        next(changed.parameters()).data[0, 0, 0, 0] += 0.05
        return exported(changed, batch)

    monkeypatch.setattr(openvino_network, "exported_network", other)
    with pytest.raises(ArgumentError, match=r"^backend must give the logits of the network m "):
        sampler(ConvNet())


def compile_with(monkeypatch: pytest.MonkeyPatch, **other: Any) -> None:
    """Let OpenVINO compile networks with other properties than it is asked for."""
    import openvino

    compile_model = openvino.compile_model

    def compile_(model: Any, device: str, properties: dict[str, Any]) -> Any:
        return compile_model(model, device, properties | other)

    monkeypatch.setattr(openvino, "compile_model", compile_)


@pytest.mark.skipif(available_cores() < 2, reason="a stream of two threads needs two cores")
def test_batches_divided_among_threads_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    compile_with(monkeypatch, NUM_STREAMS=1, INFERENCE_NUM_THREADS=2)
    with pytest.raises(SamplerError, match="received 2 threads in 1 streams"):
        sampler(ConvNet(), threads=2)


def test_a_precision_that_the_processor_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO would run the network in float32 without a word."""
    compile_with(monkeypatch, INFERENCE_PRECISION_HINT="f32")
    sampler(ConvNet(), precision="fp32").close()
    with pytest.raises(ArgumentError, match=r"^precision must be one .*; received bf16 \(use"):
        sampler(ConvNet(), precision="bf16")


def test_without_the_compiled_loops_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise_votes, "available", lambda: False)
    with pytest.raises(ArgumentError, match=r"^backend must be auto without the compiled loops"):
        make_sampler({"m": ConvNet()}, {"m": CLASSES}, SHAPE, seed=0, backend="openvino")
