"""The first convolution taken out of a network: what is left computes the same logits."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from dualsmooth.engine.models.normalize import Normalize
from dualsmooth.engine.models.registry import create
from dualsmooth.engine.samplers.fusion import stem as fusion
from dualsmooth.engine.samplers.fusion.fold import folded_network
from dualsmooth.engine.samplers.fusion.stem import Stemmed, take_stem
from dualsmooth.kernels import ops, reference
from dualsmooth.kernels.rows import Rows, seed_key

ROWS = Rows.pack(
    slot=[0, 1, 1], sigma=[0.25] * 3, stream=[3] * 3, image=[7, 8, 9], sample=range(3),
    segment=[0] * 3,
)  # fmt: skip


class Foreign(nn.Module):
    """Preprocessing by ``prepare``, then a convolution that two layers read."""

    def __init__(self, conv: nn.Conv2d, prepare: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.conv, self.prepare = conv, prepare
        self.norm = nn.BatchNorm2d(conv.out_channels)
        nn.init.uniform_(self.norm.weight, 0.5, 1.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(self.prepare(x))
        found: torch.Tensor = (torch.relu(self.norm(y)) + 0.1 * y).mean((2, 3))
        return found


def conv(channels: int = 3, outputs: int = 16, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(channels, outputs, **{"kernel_size": 3, "padding": 1} | options)


class Scaled(nn.Module):
    mean: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - self.mean) / 0.25 - 0.125


FITTING: dict[str, Callable[[], nn.Module]] = {
    "cifar": lambda: create("cifar_resnet20", {}),
    "imagenet": lambda: create("resnet18", {}),
    "two readers": lambda: Foreign(conv(), nn.Identity()),
    "constants": lambda: Foreign(conv(kernel_size=5, padding=2, stride=2), Scaled()),
    "gray": lambda: Foreign(conv(1), Normalize([0.3], [0.2])),
    "four": lambda: Foreign(conv(4, bias=False), nn.Identity()),
}


def taken(network: nn.Module, side: int = 32) -> Stemmed | None:
    channels = next(m for m in network.modules() if isinstance(m, nn.Conv2d)).in_channels
    return take_stem(
        folded_network(network, torch.float32, (3, side, side, channels)), torch.float32
    )


def gap(network: nn.Module, found: Stemmed) -> float:
    side, channels = 32, found.stem.weight.shape[2]
    images = torch.rand(2, side, side, channels, generator=torch.Generator().manual_seed(2))
    key = seed_key(5)
    with torch.no_grad():
        wanted = network(reference.noise(images, ROWS, key).permute(0, 3, 1, 2))
        options: Any = {"stride": found.stride, "relu": found.relu}
        y = ops.stem(images, ROWS, key, found.stem, **options)
        logits = found.rest(y.permute(0, 3, 1, 2))
    return float((logits - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize("make", FITTING.values(), ids=FITTING)
def test_stem_and_rest_are_the_network(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(1)
    network = make().eval()
    found = taken(network)
    assert found is not None
    assert gap(network, found) < 1e-4
    assert sum(isinstance(m, nn.Conv2d) for m in found.rest.modules()) == (
        sum(isinstance(m, nn.Conv2d) for m in network.modules()) - 1
    )


def test_a_forgotten_mean_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Foreign(conv(), Scaled()).eval()
    monkeypatch.setattr(fusion, "_MINUS", ())
    monkeypatch.setattr(fusion, "_OVER", (*fusion._OVER, torch.ops.aten.sub.Tensor))
    found = taken(network)
    assert found is not None
    assert gap(network, found) > 0.01


@pytest.mark.parametrize(
    "network",
    [
        Foreign(conv(2), nn.Identity()),
        Foreign(conv(outputs=24), nn.Identity()),
        Foreign(conv(outputs=8), nn.Identity()),
        Foreign(conv(padding=0), nn.Identity()),
        Foreign(conv(kernel_size=4, padding=2), nn.Identity()),
        Foreign(conv(dilation=2, padding=2), nn.Identity()),
        Foreign(conv(padding_mode="reflect"), nn.Identity()),
        Foreign(conv(stride=4), nn.Identity()),
        Foreign(conv(), torch.sigmoid),
        Foreign(conv(), lambda x: 0.5 - x),
        Foreign(conv(), lambda x: (x - 0.5) / -0.25),
        Foreign(conv(), lambda x: x - x.mean((1, 2, 3), keepdim=True)),
        Foreign(conv(), lambda x: x - torch.ones(1, 1, 1, 32)),
        Foreign(conv(), lambda x: torch.sub(x, 0.5, alpha=2)),
        nn.Sequential(nn.Flatten(), nn.Linear(3072, 4)),
    ],
)
def test_other_beginnings_stay(network: nn.Module) -> None:
    images = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    if images:
        assert taken(network.eval()) is None
    else:
        assert take_stem(folded_network(network.eval(), torch.float32, (3, 32, 32, 3)),
                         torch.float32) is None  # fmt: skip
