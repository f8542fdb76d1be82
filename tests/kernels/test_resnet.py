"""Whole networks through the kernels: a CIFAR ResNet, and digits certified with exact counts."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from scipy import stats
from torch import nn

from dualsmooth.engine.noise import counter_word3, standard_normal
from dualsmooth.kernels import ops, reference
from dualsmooth.kernels.errors import KernelArgumentError
from dualsmooth.kernels.folding import fold_stem
from dualsmooth.kernels.launch import ConvLaunch, StemLaunch, StemShape
from dualsmooth.kernels.resnet import FoldedBlock, FoldedResNet, resnet_features, resnet_votes
from dualsmooth.kernels.rows import Rows, seed_key

SEED = 2026


class Block(nn.Module):
    """The published basic block with a 1x1 projection where the shape changes."""

    def __init__(self, cin: int, cout: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(cin, cout, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(cout, cout, 3, 1, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(cout), nn.BatchNorm2d(cout)
        self.down = nn.Conv2d(cin, cout, 1, stride, bias=False) if cin != cout else None
        self.bn3 = nn.BatchNorm2d(cout)
        self.stride = stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + (x if self.down is None else self.bn3(self.down(x))))


class ResNet(nn.Module):
    """CIFAR ResNet of three stages."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        self.stages = [
            Block(cin if i == 0 else cout, cout, 2 if i == 0 and cout > 16 else 1)
            for cin, cout in ((16, 16), (16, 32), (32, 64))
            for i in range(blocks)
        ]
        self.body, self.fc = nn.Sequential(*self.stages), nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.body(torch.relu(self.bn(self.conv(x))))
        return self.fc(y.mean((2, 3)))  # type: ignore[no-any-return]


def random_resnet(blocks: int) -> ResNet:
    """A ResNet in evaluation mode, batch-norm statistics far from (0, 1)."""
    torch.manual_seed(11)
    net = ResNet(blocks)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
            nn.init.normal_(module.running_mean, 0, 0.3)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2.0)  # type: ignore[arg-type]
    return net.eval()


def folded_conv(conv: nn.Conv2d, bn: nn.BatchNorm2d) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight [K, K, Cin, Cout] and bias [Cout] of conv + batch norm."""
    assert bn.running_var is not None
    assert bn.running_mean is not None
    scale = bn.weight / torch.sqrt(bn.running_var + bn.eps)
    weight = (conv.weight * scale[:, None, None, None]).permute(2, 3, 1, 0)
    return weight.detach().contiguous(), (bn.bias - bn.running_mean * scale).detach()


def fold(net: ResNet, mean: torch.Tensor, std: torch.Tensor) -> FoldedResNet:
    weight, bias = folded_conv(net.conv, net.bn)
    blocks = []
    for block in net.stages:
        (w1, b1), (w2, b2) = (
            folded_conv(block.conv1, block.bn1),
            folded_conv(block.conv2, block.bn2),
        )
        projection = None
        if block.down is not None:
            p, b3 = folded_conv(block.down, block.bn3)
            projection, b2 = p[0, 0].contiguous(), b2 + b3
        blocks.append(FoldedBlock(w1, b1, w2, b2, projection, block.stride))
    return FoldedResNet(
        fold_stem(weight, bias, mean, std, dtype=torch.float32),
        tuple(blocks),
        net.fc.weight.detach().T.contiguous(),
        net.fc.bias.detach(),
    )


def test_cifar_resnet_equals_torch_with_batch_norm() -> None:
    """8 layers on 8x8 images: features within rounding, counts exact on clear margins."""
    net = random_resnet(1)
    mean, std = torch.tensor([0.49, 0.48, 0.44]), torch.tensor([0.2, 0.25, 0.3])
    images = torch.rand(2, 8, 8, 3, generator=torch.Generator().manual_seed(1))
    n = 6
    rows = Rows.pack(
        slot=[0, 1] * 3,
        sigma=[0.25, 0.5, 1.0] * 2,
        stream=[counter_word3(3)] * n,
        image=[7, 8] * 3,
        sample=range(n),
        segment=[0, 1] * 3,
    )
    key, folded = seed_key(SEED), fold(net, mean, std)
    noisy = reference.noise(images, rows, key)
    with torch.no_grad():
        scores = net(((noisy - mean) / std).permute(0, 3, 1, 2))
    top = scores.topk(2).values
    assert (top[:, 0] - top[:, 1]).min() > 1e-3
    launches = dict(
        stem_launch=StemLaunch.tile(StemShape(8, 8, 3, 16, 3, 1), 8), conv_launch=ConvLaunch(512)
    )
    features = resnet_features(images, rows, key, folded, backend="triton", **launches)  # type: ignore[arg-type]
    torch.testing.assert_close(
        reference.logits(features, folded.fc_weight, folded.fc_bias), scores, rtol=0, atol=1e-4
    )
    expected = torch.zeros(2, 11, dtype=torch.int64)
    reference.vote(scores, rows.segment, expected)
    counts = torch.zeros(2, 11, dtype=torch.int64)
    resnet_votes(images, rows, key, folded, counts, backend="triton", **launches)  # type: ignore[arg-type]
    assert torch.equal(counts, expected)
    assert int(counts.sum()) == n


def test_a_block_that_changes_shape_needs_a_projection() -> None:
    w, b = torch.zeros(3, 3, 16, 32), torch.zeros(32)
    with pytest.raises(KernelArgumentError, match=r"^projection "):
        FoldedBlock(w, b, torch.zeros(3, 3, 32, 32), b)


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


def trained_digits() -> tuple[Digits, torch.Tensor, torch.Tensor]:
    """A network trained with noise on scikit-learn's digits, and its images and labels."""
    from sklearn.datasets import load_digits

    data = load_digits()
    x = torch.tensor(data.images / 16.0, dtype=torch.float32)[:, None]
    y = torch.tensor(data.target)
    torch.manual_seed(3)
    net = Digits()
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(15):
        for batch in torch.randperm(1500).reshape(15, 100):
            noisy = x[batch] + 0.15 * torch.randn(len(batch), 1, 8, 8)
            optimizer.zero_grad()
            functional.cross_entropy(net(noisy), y[batch]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return net.eval(), x, y


def test_digits_are_certified_with_exact_counts() -> None:
    """Three images, 70 draws each: the kernels' counts are plain torch's, and they certify."""
    net, x, y = trained_digits()
    draws, sigma = 70, 0.1
    with torch.no_grad():
        clean = torch.softmax(net(x[1500:]), 1).gather(1, y[1500:, None])[:, 0]
    picked = [1500 + i for i in clean.topk(3).indices.tolist()]  # held out, clearly classified
    images = x[picked].permute(0, 2, 3, 1).contiguous()
    n = draws * len(picked)
    rows = Rows.pack(
        slot=[i for i in range(3) for _ in range(draws)],
        sigma=[sigma] * n,
        stream=[counter_word3(3)] * n,
        image=[p for p in picked for _ in range(draws)],
        sample=list(range(draws)) * 3,
        segment=[i for i in range(3) for _ in range(draws)],
    )
    noise = np.concatenate(
        [standard_normal(SEED, p, 3, np.arange(draws), (8, 8, 1)) for p in picked]
    )
    noisy = images[rows.slot.long()] + torch.from_numpy(sigma * noise)
    with torch.no_grad():
        scores = net.double()(noisy.double().permute(0, 3, 1, 2))
    top = scores.topk(2).values
    assert (top[:, 0] - top[:, 1]).min() > 1e-4  # no draw is within rounding of a tie
    expected = torch.zeros(3, 11, dtype=torch.int64)
    for segment, vote in zip(rows.segment.tolist(), scores.argmax(1).tolist(), strict=True):
        expected[segment, vote] += 1

    counts = kernel_counts(net.float(), images, rows)
    assert torch.equal(counts, expected)
    for i, label in enumerate(y[picked].tolist()):
        votes = int(counts[i, label])
        p_lower = stats.beta.ppf(1e-3, votes, draws - votes + 1)
        assert counts[i].argmax() == label
        assert sigma * stats.norm.ppf(p_lower) > 0.05


def kernel_counts(net: Digits, images: torch.Tensor, rows: Rows) -> torch.Tensor:
    """Stem, convolution and vote kernels in float32."""

    def hwio(weight: torch.Tensor) -> torch.Tensor:
        return weight.detach().permute(2, 3, 1, 0).contiguous()

    folded = fold_stem(
        hwio(net.conv1.weight),
        net.conv1.bias.detach(),  # type: ignore[union-attr]
        torch.tensor([0.3]),
        torch.tensor([0.4]),
        dtype=torch.float32,
    )
    launch = StemLaunch.tile(StemShape(8, 8, 1, 16, 3, 1), 8)
    h = ops.stem(images, rows, seed_key(SEED), folded, backend="triton", launch=launch)
    h = ops.conv(
        h,
        hwio(net.conv2.weight),
        net.conv2.bias.detach(),  # type: ignore[union-attr]
        stride=2,
        backend="triton",
        launch=ConvLaunch(1024),
    )
    counts = torch.zeros(3, 11, dtype=torch.int64)
    weight, bias = net.fc.weight.detach().T.contiguous(), net.fc.bias.detach()
    ops.vote(h, weight, bias, rows.segment, counts, backend="triton")
    assert math.prod(h.shape) == len(rows) * 4 * 4 * 32
    return counts
