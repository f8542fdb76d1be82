"""A whole CIFAR ResNet through the kernels against plain torch with batch norm."""

import pytest
import torch
from torch import nn

from dualsmooth.engine.noise.stream import counter_word3
from dualsmooth.kernels import reference
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


@pytest.mark.skipif(torch.cuda.is_available(), reason="CPU tensors: for the interpreter only")
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
    resnet_votes(images, rows, key, folded, counts, backend="triton", **launches)
    assert torch.equal(counts, expected)
    assert int(counts.sum()) == n


def test_a_block_that_changes_shape_needs_a_projection() -> None:
    w, b = torch.zeros(3, 3, 16, 32), torch.zeros(32)
    with pytest.raises(KernelArgumentError, match=r"^projection "):
        FoldedBlock(w, b, torch.zeros(3, 3, 32, 32), b)
