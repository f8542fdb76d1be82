"""Both samplers: eager PyTorch, and compiled loops around a fused network."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from dualsmooth.engine.draws import Draw, Phase
from dualsmooth.engine.errors import ArgumentError, SamplerError
from dualsmooth.engine.models.architectures.ordered import OrderedScore
from dualsmooth.engine.models.joint import class_votes, level_votes
from dualsmooth.engine.models.registry import create
from dualsmooth.engine.noise.stream import standard_normal
from dualsmooth.engine.samplers.choose import make_sampler
from dualsmooth.engine.samplers.cpu import CpuSampler
from dualsmooth.engine.samplers.eager import TorchSampler
from dualsmooth.engine.samplers.sampler import Segment
from dualsmooth.kernels.cpu import noise_votes

SHAPE = (9, 7, 3)
CLASSES = 5


class ConvNet(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.conv = torch.nn.Conv2d(3, 16, 3, padding=1)
        self.norm = torch.nn.BatchNorm2d(16)
        self.head = torch.nn.Linear(16, CLASSES)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
        self.head.bias.data.zero_()
        self.norm.running_var = torch.full((16,), 1.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.conv(x)))
        logits: torch.Tensor = self.head(x[:, :, 4, 3] - 0.5)
        return logits


Make = Callable[..., TorchSampler | CpuSampler]


@pytest.fixture
def sampler(kind: Make) -> Make:
    def make(network: torch.nn.Module | None = None, /, **options: Any) -> Any:
        options = {"seed": 7, "batch_size": 32, "threads": 1} | options
        made = kind({"m": network or ConvNet()}, {"m": CLASSES}, SHAPE, **options)
        for slot in range(3):
            made.load(slot, IMAGES[slot])
        return made

    return make


IMAGES = np.random.default_rng(0).random((3, *SHAPE)).astype(np.float32)


def segment(slot: int, sigma: float, first: int, count: int, stream: int = 2) -> Segment:
    return Segment(slot, 100 + slot, sigma, stream, first, count)


SEGMENTS = [
    segment(0, 0.5, 0, 41),
    segment(1, 0.1, 5, 1),
    segment(2, 1.0, 7, 77, stream=2 + 16),
    segment(0, 0.25, 0, 13, stream=3),
]


def test_votes_equal_a_plain_loop(sampler: Make) -> None:
    """Specification noise, unfolded network, NCHW, one image at a time."""
    counts = sampler().count("m", SEGMENTS)
    network = ConvNet().eval()
    for row, part in zip(counts, SEGMENTS, strict=True):
        samples = np.arange(part.first, part.first + part.count)
        noise = standard_normal(7, part.image_id, part.stream, samples, SHAPE)
        noisy = torch.from_numpy(IMAGES[part.slot] + np.float32(part.sigma) * noise)
        with torch.no_grad():
            logits = network(noisy.permute(0, 3, 1, 2))
        expected = torch.bincount(logits.argmax(1), minlength=CLASSES + 1)
        assert_array_equal(row, expected.numpy())
    assert len({tuple(row) for row in counts}) > 1


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_votes_do_not_depend_on_batch_mates_order_or_threads(
    sampler: Make, precision: str, votes_stay: Callable[..., None]
) -> None:
    base = sampler(precision=precision).count("m", SEGMENTS)
    for threads in (1, 2, 3):
        other = sampler(threads=threads, precision=precision)
        votes_stay(base, partial(other.count, "m"), SEGMENTS)


def test_calls_under_way_together_give_the_votes_of_calls_one_by_one(sampler: Make) -> None:
    """Votes are read in another order, and images come into other slots, new ones too."""
    base, other = sampler().count("m", SEGMENTS), sampler(threads=2)
    pending = []
    for turn, part in enumerate(SEGMENTS):
        pending.append(other.submit("m", [part]))
        other.load(3 + turn, IMAGES[turn % 3])
    for _ in range(2):
        votes = [collect()[0] for collect in reversed(pending)]
        assert_array_equal(votes[::-1], base)


def test_seed_attempt_phase_image_and_sample_change_votes(sampler: Make) -> None:
    base = sampler().count("m", [SEGMENTS[2]])
    for options in ({"seed": 8}, {"attempt": 1}):
        assert not np.array_equal(sampler(**options).count("m", [SEGMENTS[2]]), base)
    for changed in (
        segment(2, 1.0, 90, 77, stream=18),
        segment(2, 1.0, 7, 77, stream=19),
        Segment(2, 55, 1.0, 18, 7, 77),
    ):
        assert not np.array_equal(sampler().count("m", [changed]), base)


def test_non_finite_logits_are_invalid_and_ties_go_to_the_lowest_index(sampler: Make) -> None:
    class Odd(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits = torch.zeros(len(x), CLASSES)
            value = x[:, 0, 0, 0]
            logits[:, 1] = logits[:, 3] = 1.0
            logits[value > 0.5, 2] = float("nan")
            logits[value < 0.0, 4] = float("inf")
            return logits

    part = segment(0, 1.0, 0, 400)
    counts = sampler(Odd()).count("m", [part])[0]
    noise = standard_normal(7, part.image_id, part.stream, np.arange(400), SHAPE)
    value = IMAGES[0, 0, 0, 0] + noise[:, 0, 0, 0]
    invalid = int(((value > 0.5) | (value < 0.0)).sum())
    assert_array_equal(counts, [0, 400 - invalid, 0, 0, 0, invalid])


def test_a_training_mode_network_is_put_into_evaluation_mode(sampler: Make) -> None:
    network = ConvNet().train()
    assert_array_equal(sampler(network).count("m", SEGMENTS), sampler().count("m", SEGMENTS))


def test_a_network_that_looks_at_its_batch_has_no_form_that_may_run(sampler: Make) -> None:
    class BatchStatistics(ConvNet):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits = super().forward(x)
            return logits - logits.mean(0)

    with pytest.raises(SamplerError, match=r"^m: a row's logits must not depend on the other rows"):
        sampler(BatchStatistics())


@pytest.mark.parametrize(
    ("options", "argument"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"threads": 0}, "threads"),
        ({"precision": "fp8"}, "precision"),
    ],
)
def test_bad_options(sampler: Make, options: dict[str, object], argument: str) -> None:
    with pytest.raises(ArgumentError, match=f"^{argument} "):
        sampler(**options)


def test_wrong_shapes_are_named(sampler: Make) -> None:
    with pytest.raises(ArgumentError, match=r"^image must have shape \(9, 7, 3\)"):
        sampler().load(0, np.zeros((3, 9, 7), np.float32))
    with pytest.raises(ArgumentError, match=r"^m must return 5 logits"):
        sampler(torch.nn.Flatten()).count("m", SEGMENTS)


def test_main_thread_settings_are_left_alone(sampler: Make) -> None:
    before = torch.get_num_threads()
    sampler(threads=2).count("m", [Segment.of(Draw("m", 0.5, Phase.CLASS_GUESS, 0, 9), 0, 0, 0, 9)])
    assert torch.get_num_threads() == before


@pytest.mark.skipif(not noise_votes.available(), reason="the compiled loops were not built")
def test_the_compiled_sampler_is_used_where_there_is_one() -> None:
    made = make_sampler({"m": ConvNet()}, {"m": CLASSES}, SHAPE, seed=7, batch_size=32)
    assert isinstance(made, CpuSampler)


@pytest.mark.skipif(not noise_votes.available(), reason="the compiled loops were not built")
def test_samplers_agree_where_no_logits_are_close() -> None:
    """Both draw the same noise; only rounding inside the network can move a vote."""
    part = segment(2, 1.0, 0, 1500)
    votes = []
    for kind in (TorchSampler, CpuSampler):
        made = kind({"m": ConvNet()}, {"m": CLASSES}, SHAPE, seed=7, batch_size=64, threads=1)
        made.load(2, IMAGES[2])
        votes.append(made.count("m", [part])[0])
    assert np.abs(votes[0] - votes[1]).sum() <= 4


@pytest.mark.skipif(not noise_votes.available(), reason="the compiled loops were not built")
def test_a_network_that_needs_float32_is_named_at_the_start() -> None:
    class Float32(ConvNet):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.conv2d(x, torch.ones(CLASSES, 3, 9, 7)).flatten(1)

    with pytest.raises(ArgumentError, match=r"^precision must suit the network .*try fp32"):
        CpuSampler({"m": Float32()}, {"m": CLASSES}, SHAPE, seed=0, precision="bf16")
    CpuSampler({"m": Float32()}, {"m": CLASSES}, SHAPE, seed=0, precision="fp32").close()


class Outputs(torch.nn.Module):
    """Some outputs of a network."""

    def __init__(self, network: torch.nn.Module, which: slice) -> None:
        super().__init__()
        self.network, self.which = network, which

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.network(x)
        return outputs[:, self.which]


@pytest.mark.parametrize("kind", [TorchSampler, CpuSampler])
def test_sums_of_joint_votes_are_the_votes_of_either_head(kind: type[Any]) -> None:
    if kind is CpuSampler and not noise_votes.available():
        pytest.skip("the compiled loops were not built")
    torch.manual_seed(2)
    trunk = create("small_convnet", {"widths": [4], "hidden": 8, "num_classes": 6}).eval()
    networks = {
        "pairs": OrderedScore(trunk, [-0.05, 0.05], joint=True),
        "levels": OrderedScore(Outputs(trunk, slice(5, 6)), [-0.05, 0.05]),
        "classes": Outputs(trunk, slice(5)),
    }
    outputs = {"pairs": 15, "levels": 3, "classes": 5}
    ready = {name: network.eval() for name, network in networks.items()}
    sampler = kind(ready, outputs, (8, 8, 1), seed=7, batch_size=32, threads=1)
    for slot in range(3):
        sampler.load(slot, np.random.default_rng(slot).random((8, 8, 1)).astype(np.float32))
    pairs, levels, classes = (sampler.count(name, SEGMENTS) for name in networks)
    for row, level, label in zip(pairs, levels, classes, strict=True):
        assert_array_equal(level_votes(row, 3), level)
        assert_array_equal(class_votes(row, 3), label)
    assert (levels > 0).any(0).sum() > 1
    assert (classes > 0).any(0).sum() > 1
    sampler.close()
