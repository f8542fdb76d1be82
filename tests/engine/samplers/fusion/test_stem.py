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


class Products(Scaled):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 0.25 + self.mean * (x + -0.5)


FITTING: dict[str, Callable[[], nn.Module]] = {
    "cifar": lambda: create("cifar_resnet20", {}),
    "imagenet": lambda: create("resnet18", {}),
    "two readers": lambda: Foreign(conv(), nn.Identity()),
    "constants": lambda: Foreign(conv(kernel_size=5, padding=2, stride=2), Scaled()),
    "to both sides": lambda: Foreign(conv(), lambda x: 2 * x - 1),
    "products": lambda: Foreign(conv(), Products()),
    "a layer for nothing": lambda: create("lenet", {"in_channels": 3, "image_size": (32, 32)}),
    "gray": lambda: Foreign(conv(1), Normalize([0.3], [0.2])),
    "four": lambda: Foreign(conv(4, bias=False), nn.Identity()),
    "patches": lambda: Foreign(conv(outputs=24, kernel_size=4, stride=4, padding=0), Scaled()),
    "a rest": lambda: Foreign(conv(outputs=8, kernel_size=5, stride=6, padding=0), Scaled()),
    "overlapping": lambda: Foreign(conv(kernel_size=7, stride=4, padding=2), Scaled()),
    "valid": lambda: Foreign(conv(padding=0), nn.Identity()),
}


def taken(network: nn.Module, side: int = 32, pools: bool = False) -> Stemmed | str:
    channels = next(m for m in network.modules() if isinstance(m, nn.Conv2d)).in_channels
    folded = folded_network(network, torch.float32, (3, side, side, channels))
    return take_stem(folded, torch.float32, pools)


def gap(network: nn.Module, found: Stemmed) -> float:
    side, channels = 32, found.stem.weight.shape[2]
    images = torch.rand(2, side, side, channels, generator=torch.Generator().manual_seed(2))
    key = seed_key(5)
    with torch.no_grad():
        wanted = network(reference.noise(images, ROWS, key).permute(0, 3, 1, 2))
        options: Any = {"stride": found.stride, "relu": found.relu}
        y = ops.stem(images, ROWS, key, found.stem, **options).permute(0, 3, 1, 2)
        if found.pool:
            y = nn.functional.max_pool2d(y, found.pool, 2, found.pool // 3)
        logits = found.rest(y)
    return float((logits - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize("make", FITTING.values(), ids=FITTING)
def test_stem_and_rest_are_the_network(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(1)
    network = make().eval()
    found = taken(network)
    assert isinstance(found, Stemmed)
    assert gap(network, found) < 1e-4
    assert sum(isinstance(m, nn.Conv2d) for m in found.rest.modules()) == (
        sum(isinstance(m, nn.Conv2d) for m in network.modules()) - 1
    )


def test_a_forgotten_mean_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Foreign(conv(), Scaled()).eval()
    monkeypatch.setitem(fusion._CALLS, torch.ops.aten.sub.Tensor, "/")
    found = taken(network)
    assert isinstance(found, Stemmed)
    assert gap(network, found) > 0.01


POOLINGS: list[tuple[nn.Module, int]] = [
    (nn.MaxPool2d(3, 2, 1), 3),
    (nn.MaxPool2d(2), 2),
    (nn.MaxPool2d(3, 2), 0),
    (nn.MaxPool2d(3, 2, 1, ceil_mode=True), 0),
    (nn.MaxPool2d(3, 2, 1, dilation=2), 0),
    (nn.MaxPool2d(2, 1), 0),
    (nn.AvgPool2d(2), 0),
]


@pytest.mark.parametrize(("pooling", "size"), POOLINGS, ids=str)
@pytest.mark.parametrize("relu", [True, False])
def test_a_pooling_behind_the_stem_is_its_own(pooling: nn.Module, size: int, relu: bool) -> None:
    """One that the kernels do not have, or are not asked for, stays in the rest."""
    torch.manual_seed(1)
    parts = [conv(outputs=32), *[nn.ReLU()][: int(relu)], pooling, nn.Flatten()]
    network = nn.Sequential(*parts, nn.LazyLinear(5)).eval()
    network(torch.zeros(1, 3, 32, 32))
    for pools in (True, False):
        found = taken(network, pools=pools)
        assert isinstance(found, Stemmed)
        assert (found.pool, found.relu) == (size if pools else 0, relu)
        assert gap(network, found) < 1e-4


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (Foreign(conv(2), nn.Identity()), "begins with Conv2d(2, 16"),
        (Foreign(conv(kernel_size=(4, 2), padding=0), nn.Identity()), "kernel_size=(4, 2)"),
        (Foreign(conv(padding=2), nn.Identity()), "padding=(2, 2)"),
        (Foreign(conv(padding=(1, 0)), nn.Identity()), "padding=(1, 0)"),
        (Foreign(conv(dilation=2, padding=2), nn.Identity()), "dilation=(2, 2)"),
        (Foreign(conv(padding_mode="reflect"), nn.Identity()), "begins with aten.pad"),
        (Foreign(conv(stride=(2, 1)), nn.Identity()), "stride=(2, 1)"),
        (Foreign(conv(), torch.sigmoid), "sigmoid"),
        (Foreign(conv(), lambda x: 0.5 - x), "rsub"),
        (Foreign(conv(), lambda x: (x - 0.5) / -0.25), "divides its images by [-0.25"),
        (Foreign(conv(), lambda x: x * -4), "divides its images by [-0.25"),
        (Foreign(conv(), lambda x: x * 0.0), "divides its images by [inf"),
        (Foreign(conv(), lambda x: x + x), "begins with <built-in method add"),
        (
            Foreign(conv(), lambda x: x - x.mean((1, 2, 3), keepdim=True)),
            "reads its images more than once",
        ),
        (Foreign(conv(), lambda x: x - torch.ones(1, 1, 1, 32)), "begins with aten.sub"),
        (Foreign(conv(), lambda x: torch.sub(x, 0.5, alpha=2)), "begins with aten.sub"),
        (nn.Sequential(nn.Flatten(), nn.Linear(3072, 4)), "begins with Flatten"),
    ],
)
def test_other_beginnings_stay_and_are_told(network: nn.Module, reason: str) -> None:
    channels = next((m.in_channels for m in network.modules() if isinstance(m, nn.Conv2d)), 3)
    folded = folded_network(network.eval(), torch.float32, (3, 32, 32, channels))
    found = take_stem(folded, torch.float32)
    assert isinstance(found, str)
    assert reason in found
