import pytest
import torch
from torch import nn

from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.models.registry import create
from dualsmooth.engine.samplers.fusion.fold import fold_batch_norm

X = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def settled(module: nn.Module) -> nn.Module:
    """Eval mode, with statistics that differ from their defaults."""
    torch.manual_seed(1)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d) and part.running_mean is not None:
            nn.init.normal_(part.running_mean)
            nn.init.uniform_(part.running_var, 0.2, 3)  # type: ignore[arg-type]
            if part.affine:
                nn.init.uniform_(part.weight, -2, 2)
                nn.init.normal_(part.bias)
    return module.eval()


def norms(module: nn.Module) -> int:
    return sum(isinstance(part, nn.BatchNorm2d) for part in module.modules())


class Residual(nn.Module):
    """The output of the convolution has a second reader."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        out: torch.Tensor = self.bn(y) + y
        return out


class SharedConv(nn.Module):
    """One convolution, called twice, before two batch norms."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.bn1, self.bn2 = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.bn2(self.conv(self.bn1(self.conv(x))))
        return out


class SharedWeight(nn.Module):
    """The weight of the convolution is read a second time, by a function."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn(self.conv(x))
        return torch.nn.functional.conv2d(y, self.conv.weight, padding=1)


class SharedNorm(nn.Module):
    """Two convolutions before the same batch norm: both can be folded."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1)
        self.bn = nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.bn(self.one(x)) + self.bn(self.two(x))
        return out


class Branching(nn.Module):
    """Control flow on values, which cannot be captured."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.bn(self.conv(x))
        return out if out.sum() > 0 else -out


def hooked() -> nn.Module:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    net[0].register_forward_hook(lambda module, args, out: out.abs())
    return net


@pytest.mark.parametrize(
    ("module", "left"),
    [
        (create("cifar_resnet20", {}), 0),
        (create("small_convnet", {"in_channels": 3, "image_size": (16, 16)}), 0),
        (nn.Sequential(nn.Conv2d(3, 4, 3, bias=True), nn.BatchNorm2d(4)), 0),
        (nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4, affine=False)), 0),
        (nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), nn.BatchNorm2d(6, eps=0.1)), 0),
        (SharedNorm(), 0),
        (nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3)), 1),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)), 1),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4)), 1),
        (nn.Sequential(nn.ConvTranspose2d(3, 4, 3), nn.BatchNorm2d(4)), 1),
        (Residual(), 1),
        (SharedConv(), 0),
        (SharedWeight(), 0),
        (Branching(), 1),
        (hooked(), 1),
    ],
)
def test_same_function_with_fewer_norms(module: nn.Module, left: int) -> None:
    net = settled(module)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    folded = fold_batch_norm(net, X)
    with torch.inference_mode():
        expected, got = net(X), folded(X)
        exact = net.double()(X.double())
    assert norms(folded) == left
    scale = exact.abs().max()
    assert (got - exact).abs().max() <= 2e-6 * scale + 2 * (expected - exact).abs().max()
    net.float()
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_a_second_norm_is_folded_by_a_second_call() -> None:
    net = settled(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4)))
    folded = fold_batch_norm(fold_batch_norm(net))
    assert norms(folded) == 0
    assert torch.allclose(folded(X), net(X), atol=1e-4)


def test_norm_of_batch_statistics_stays() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)).eval()
    assert fold_batch_norm(net, X) is net


def test_untraceable_and_plain_modules_come_back_unchanged() -> None:
    for net in (Branching().eval(), nn.Linear(3, 2).eval()):
        assert fold_batch_norm(net, X) is net


def test_training_mode_is_refused() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    net[1].train()
    with pytest.raises(ArgumentError, match="eval mode; received '1'"):
        fold_batch_norm(net)
