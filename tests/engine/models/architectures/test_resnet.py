import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from dualsmooth.engine.models.architectures.resnet import CIFAR10_MEAN, CIFAR10_STD, BasicBlock
from dualsmooth.engine.models.registry import create


@pytest.mark.parametrize(
    ("name", "flops", "parameters", "convolutions"),
    [
        ("cifar_resnet20", 81_626_368, 272_474, 21),
        ("cifar_resnet56", 251_495_680, 855_770, 57),
        # 0.253 G multiply-adds: the published count for ResNet-110 with 1x1 shortcuts.
        ("cifar_resnet110", 506_299_648, 1_730_714, 111),
    ],
)
def test_flops(name: str, flops: int, parameters: int, convolutions: int) -> None:
    """One 32x32 image; two FLOP per multiply-add of the convolutions and the linear layer."""
    network = create(name, {}).eval()
    with FlopCounterMode(display=False) as counter:
        logits = network(torch.rand(1, 3, 32, 32))
    assert logits.shape == (1, 10)
    assert counter.get_total_flops() == flops
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert sum(isinstance(m, torch.nn.Conv2d) for m in network.modules()) == convolutions


def test_names_are_those_of_published_checkpoints() -> None:
    names = set(create("cifar_resnet20", {}).state_dict())
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    expected = {"conv1.weight", "fc.weight", "fc.bias", *(f"bn1.{part}" for part in norm)}
    for stage in (1, 2, 3):
        for block in range(3):
            place = f"layer{stage}.{block}"
            expected |= {f"{place}.conv1.weight", f"{place}.conv2.weight"}
            expected |= {f"{place}.bn{i}.{part}" for i in (1, 2) for part in norm}
        if stage > 1:
            expected |= {f"layer{stage}.0.downsample.0.weight"}
            expected |= {f"layer{stage}.0.downsample.1.{part}" for part in norm}
    assert names == expected


def test_normalization_comes_first() -> None:
    torch.manual_seed(0)
    network = create("cifar_resnet20", {}).eval()
    plain = create("cifar_resnet20", {"mean": (0.0,) * 3, "std": (1.0,) * 3}).eval()
    plain.load_state_dict(network.state_dict())
    x = torch.rand(2, 3, 32, 32)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (CIFAR10_MEAN, CIFAR10_STD))
    assert torch.equal(network(x), plain((x - mean) / std))
    assert not torch.equal(network(x), plain(x))


def test_shortcuts_and_order_of_operations() -> None:
    """A block is relu(bn2(conv2(relu(bn1(conv1 x)))) + shortcut), computed here by hand."""
    torch.manual_seed(0)
    block = BasicBlock(16, 32, 2).eval()
    for part in block.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            assert part.running_mean is not None
            assert part.running_var is not None
            torch.nn.init.normal_(part.running_mean)
            torch.nn.init.uniform_(part.running_var, 0.5, 2)
    x = torch.rand(2, 16, 8, 8)
    f = torch.nn.functional
    inner = torch.relu(block.bn1(f.conv2d(x, block.conv1.weight, stride=2, padding=1)))
    outer = block.bn2(f.conv2d(inner, block.conv2.weight, padding=1))
    assert block.downsample is not None
    conv, norm = block.downsample.children()
    assert isinstance(conv, torch.nn.Conv2d)
    shortcut = norm(f.conv2d(x, conv.weight, stride=2))
    assert torch.allclose(block(x), torch.relu(outer + shortcut), atol=1e-6)
