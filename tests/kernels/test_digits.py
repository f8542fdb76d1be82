"""Digits certified through the kernels, with exactly the votes of the engine's CPU sampler."""

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from scipy import stats
from torch import nn

from dualsmooth.engine.noise.stream import counter_word3, standard_normal
from dualsmooth.engine.samplers.eager import TorchSampler
from dualsmooth.engine.samplers.sampler import Segment, unroll
from dualsmooth.kernels import ops
from dualsmooth.kernels.folding import fold_stem
from dualsmooth.kernels.launch import ConvLaunch, StemLaunch
from dualsmooth.kernels.rows import Rows, seed_key

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="CPU tensors: for the interpreter only"
)

SEED = 2026
PHASE = 3
SHAPE = (8, 8, 1)
CALM, LOUD = 0.1, 0.5
"""At the first level images are certified; at the second their votes spread over classes."""


class Digits(nn.Module):
    """Two convolutions and a linear layer on 8x8 digits."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, 1, 1)
        self.conv2 = nn.Conv2d(16, 32, 3, 2, 1)
        self.fc = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [R, 1, 8, 8] in [0, 1] units, normalised inside."""
        y = torch.relu(self.conv1((x - 0.3) / 0.4))
        y = torch.relu(self.conv2(y))
        return self.fc(y.mean((2, 3)))  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def problem() -> tuple[Digits, torch.Tensor, list[int]]:
    """A network trained with noise, two held-out images it is sure of, and their labels."""
    from sklearn.datasets import load_digits

    data = load_digits()
    x = torch.tensor(data.images / 16.0, dtype=torch.float32)[:, None]
    y = torch.tensor(data.target)
    torch.manual_seed(3)
    net = Digits()
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(5):
        for batch in torch.randperm(1500).reshape(15, 100):
            noisy = x[batch] + 0.15 * torch.randn(len(batch), 1, 8, 8)
            optimizer.zero_grad()
            functional.cross_entropy(net(noisy), y[batch]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    with torch.no_grad():
        sure = torch.softmax(net(x[1500:]), 1).gather(1, y[1500:, None])[:, 0]
    picked = 1500 + sure.topk(2).indices
    return net.eval(), x[picked].permute(0, 2, 3, 1).contiguous(), y[picked].tolist()


def segments(draws: int, sample: int = 0) -> list[Segment]:
    """Two images at the calm level and one of them at the loud one, from sample ``sample`` on."""
    return [
        Segment(0, 1500, CALM, PHASE, sample, draws),
        Segment(1, 1501, CALM, PHASE, sample, draws),
        Segment(0, 1500, LOUD, PHASE, sample, draws),
    ]


def one_by_one(parts: list[Segment]) -> list[Segment]:
    """A segment per draw, so that a count is a single vote."""
    return [
        Segment(p.slot, p.image_id, p.sigma, p.stream, p.first + i, 1)
        for p in parts
        for i in range(p.count)
    ]


def closest_tie(net: Digits, images: torch.Tensor, parts: list[Segment]) -> float:
    """Smallest gap between the two largest logits, in float64 from the specified noise."""
    noisy = [
        images[p.slot].double()
        + p.sigma
        * torch.from_numpy(
            standard_normal(SEED, p.image_id, p.stream, p.first + np.arange(p.count), SHAPE)
        ).double()
        for p in parts
    ]
    with torch.no_grad():
        scores = net.double()(torch.cat(noisy).permute(0, 3, 1, 2))
    net.float()
    top = scores.topk(2).values
    return float((top[:, 0] - top[:, 1]).min())


def kernel_features(net: Digits, images: torch.Tensor, rows: Rows) -> torch.Tensor:
    """Stem and convolution kernels in float32: [R, 4, 4, 32]."""
    parts = [net.conv1.bias, net.conv2.bias]
    bias1, bias2 = (b.detach() for b in parts if b is not None)
    weight1, weight2 = (
        c.weight.detach().permute(2, 3, 1, 0).contiguous() for c in (net.conv1, net.conv2)
    )
    mean, std = torch.tensor([0.3]), torch.tensor([0.4])
    folded = fold_stem(weight1, bias1, mean, std, dtype=torch.float32)
    launch = StemLaunch("stored", 64)  # the fewest steps for the interpreter
    h = ops.stem(images, rows, seed_key(SEED), folded, backend="triton", launch=launch)
    return ops.conv(h, weight2, bias2, stride=2, backend="triton", launch=ConvLaunch(4096))


def kernel_counts(
    net: Digits, features: torch.Tensor, segment: torch.Tensor, segments: int
) -> torch.Tensor:
    """Vote kernel: int64 [segments, 11]."""
    counts = torch.zeros(segments, 11, dtype=torch.int64)
    weight, bias = net.fc.weight.detach().T.contiguous(), net.fc.bias.detach()
    ops.vote(features, weight, bias, segment, counts, backend="triton")
    return counts


def packed(parts: list[Segment]) -> Rows:
    """The sampler's own unrolling of segments, as kernel rows."""
    rows = unroll(parts)
    return Rows.pack(
        slot=rows["slot"].tolist(),
        sigma=rows["sigma"].tolist(),
        stream=[counter_word3(int(stream)) for stream in rows["stream"]],
        image=rows["image_id"].tolist(),
        sample=rows["sample"].tolist(),
        segment=rows["segment"].tolist(),
    )


def sampler_counts(net: Digits, images: torch.Tensor, parts: list[Segment]) -> torch.Tensor:
    sampler = TorchSampler({"m": net}, {"m": 10}, SHAPE, seed=SEED, batch_size=64, threads=1)
    for slot, image in enumerate(images.numpy()):
        sampler.load(slot, image)
    counts = torch.from_numpy(sampler.count("m", parts))
    sampler.close()
    return counts


@pytest.mark.parametrize("draws", [20, pytest.param(67, marks=pytest.mark.slow)])
def test_digits_are_certified_with_the_votes_of_the_cpu_sampler(
    problem: tuple[Digits, torch.Tensor, list[int]], draws: int
) -> None:
    """60 or 201 draws, none near a tie: every vote and every count is the sampler's."""
    net, images, labels = problem
    parts = segments(draws)
    assert closest_tie(net, images, parts) > 1e-4  # both sides are within 1e-5 of float64
    rows = packed(parts)
    features = kernel_features(net, images, rows)
    counts = kernel_counts(net, features, rows.segment, len(parts))
    assert torch.equal(counts, sampler_counts(net, images, parts))
    assert int((counts[2] > 0).sum()) >= 3  # the loud level casts more than one kind of vote

    single = one_by_one(parts)
    each = torch.arange(len(rows), dtype=torch.int32)
    votes = kernel_counts(net, features, each, len(rows))
    assert torch.equal(votes, sampler_counts(net, images, single))

    for i, label in enumerate(labels):
        won = int(counts[i, label])
        p_lower = stats.beta.ppf(1e-3, won, draws - won + 1)
        assert counts[i].argmax() == label
        assert CALM * stats.norm.ppf(p_lower) > 0.05


def test_other_samples_give_other_votes(problem: tuple[Digits, torch.Tensor, list[int]]) -> None:
    """The comparison above has power: counters one sample off change votes and counts."""
    net, images, _ = problem
    true, shifted = (sampler_counts(net, images, segments(67, sample)) for sample in (0, 1000))
    assert not torch.equal(true[2], shifted[2])
    true, shifted = (
        sampler_counts(net, images, one_by_one(segments(67, sample))) for sample in (0, 1)
    )
    assert not torch.equal(true, shifted)
