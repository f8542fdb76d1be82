"""Structure of networks rewritten for cuDNN, and their values with cuDNN's calls spelt out."""

from typing import Any

import pytest
import torch
from torch import fx, nn
from torch.nn import functional

from dualsmooth.engine.models.registry import create
from dualsmooth.engine.samplers.fusion.cudnn import fuse_for_cudnn
from dualsmooth.engine.samplers.fusion.fold import fold_batch_norm

RELU = torch.ops.aten.cudnn_convolution_relu.default
ADD_RELU = torch.ops.aten.cudnn_convolution_add_relu.default


def relu(x: Any, weight: Any, bias: Any, *geometry: Any) -> torch.Tensor:
    """What cuDNN computes, argument by argument as in the operator's schema."""
    return torch.relu(functional.conv2d(x, weight, bias, *geometry))


def add_relu(x: Any, weight: Any, z: Any, alpha: Any, bias: Any, *geometry: Any) -> torch.Tensor:
    assert x.shape[0] == z.shape[0]
    return torch.relu(functional.conv2d(x, weight, bias, *geometry) + alpha * z)


def runnable(module: nn.Module) -> nn.Module:
    """The same graph with cuDNN's operators, which need a GPU, spelt out."""
    assert isinstance(module, fx.GraphModule)
    for node in module.graph.nodes:
        if node.target in (RELU, ADD_RELU):
            node.target = relu if node.target is RELU else add_relu
    module.recompile()
    return module


def calls(module: nn.Module) -> list[Any]:
    assert isinstance(module, fx.GraphModule)
    return [node.target for node in module.graph.nodes if node.op.startswith("call")]


def images(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


def test_every_relu_of_a_resnet_is_inside_a_cudnn_call() -> None:
    fused = fuse_for_cudnn(fold_batch_norm(create("cifar_resnet20", {}).eval()), images(2, 3, 8, 8))
    targets = calls(fused)
    assert targets.count(RELU) == 10
    assert targets.count(ADD_RELU) == 9
    assert not any("relu" in str(target) for target in targets if target not in (RELU, ADD_RELU))
    # Where a shortcut has a convolution, it is one of the two that are summed, without a ReLU.
    left = {target for target in targets if isinstance(target, str)}
    assert left == {
        "normalize", "layer2.0.downsample.0", "layer3.0.downsample.0", "fc", "mean",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["small_convnet", "lenet", "cifar_resnet20"])
def test_values_are_those_of_the_network(name: str) -> None:
    torch.manual_seed(0)
    network, x = create(name, {}).eval(), images(3, 3, 32, 32)
    if name != "cifar_resnet20":
        side = 8 if name == "small_convnet" else 28
        x = x[:, :1, :side, :side]
    with torch.no_grad():
        fused = runnable(fuse_for_cudnn(fold_batch_norm(network), x))
        torch.testing.assert_close(fused(x), network(x), rtol=1e-4, atol=1e-4)


class Sum(nn.Module):
    """Two convolutions whose sum ends in a ReLU; the second may be read elsewhere, or twice."""

    def __init__(self, bias: bool, first: bool, use: str) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1, bias=bias), nn.Conv2d(3, 4, 1)
        self.first, self.use = first, use

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = self.b(x) if self.first else None
        y = self.a(x)
        z = self.b(x) if z is None else z
        out: torch.Tensor = torch.relu(y + z)
        if self.use == "read":
            out = out + z
        if self.use == "called":
            out = out + self.b(x.flip(3))
        return out


def biased(module: nn.Module) -> list[str]:
    """Convolutions left with a bias that PyTorch would add by itself."""
    parts = module.named_modules()
    return [name for name, part in parts if isinstance(part, nn.Conv2d) and part.bias is not None]


@pytest.mark.parametrize("first", [True, False], ids=["shortcut first", "shortcut last"])
@pytest.mark.parametrize("bias", [True, False], ids=["two biases", "one bias"])
def test_both_biases_of_a_sum_are_in_its_call(bias: bool, first: bool) -> None:
    torch.manual_seed(5)
    network, x = Sum(bias, first, "").eval(), images(2, 3, 6, 5)
    fused = fuse_for_cudnn(network, x)
    assert biased(fused) == []
    assert calls(fused).count(ADD_RELU) == 1
    with torch.no_grad():
        torch.testing.assert_close(runnable(fused)(x), network(x), rtol=1e-5, atol=1e-5)
    assert len(biased(network)) == 1 + bias


@pytest.mark.parametrize(("use", "left"), [("read", 1), ("called", 0)])
def test_a_bias_that_somebody_else_needs_stays(use: str, left: int) -> None:
    """The network's values would be others without it; each call has a bias of its own to lose."""
    torch.manual_seed(5)
    network, x = Sum(True, True, use).eval(), images(2, 3, 6, 5)
    fused = fuse_for_cudnn(network, x)
    assert len(biased(fused)) == left
    with torch.no_grad():
        torch.testing.assert_close(runnable(fused)(x), network(x), rtol=1e-5, atol=1e-5)


def test_no_convolution_of_a_resnet_leaves_its_bias_to_pytorch() -> None:
    network = fold_batch_norm(create("cifar_resnet20", {}).eval())
    assert len(biased(network)) == 21
    assert biased(fuse_for_cudnn(network, images(2, 3, 8, 8))) == []


class Traps(nn.Module):
    """Strides, dilation and groups; a sum without ReLU; a shortcut of another shape; no bias."""

    # Circular padding is captured as a pad of its own, so that what follows it is replaced, too.

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=(2, 1), stride=(1, 2), dilation=(2, 1))
        self.second = nn.Conv2d(8, 8, 1, groups=4, bias=False)
        self.wide = nn.Conv2d(8, 1, 1)
        self.circular = nn.Conv2d(8, 8, 3, padding=1, padding_mode="circular")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = torch.relu(self.first(x))
        b = self.second(a) + a
        c = torch.relu(b + self.second(b))
        d = torch.relu(self.wide(c) + c)
        e: torch.Tensor = torch.relu(self.circular(d)).mean((2, 3))
        return e


def test_only_what_cudnn_computes_is_replaced() -> None:
    torch.manual_seed(3)
    network, x = Traps().eval(), images(2, 3, 7, 6)
    fused = fuse_for_cudnn(network, x)
    assert [target for target in calls(fused) if target in (RELU, ADD_RELU)] == [
        RELU,
        ADD_RELU,
        RELU,
    ]
    with torch.no_grad():
        torch.testing.assert_close(runnable(fused)(x), network(x), rtol=1e-5, atol=1e-5)


def test_swapped_geometry_would_fail_these_tests() -> None:
    torch.manual_seed(3)
    network, x = Traps().eval(), images(2, 3, 7, 6)
    fused = fuse_for_cudnn(network, x)
    assert isinstance(fused, fx.GraphModule)
    node = next(node for node in fused.graph.nodes if node.target is RELU)
    source, weight, bias, stride, padding, *rest = node.args
    node.args = (source, weight, bias, padding, stride, *rest)
    with pytest.raises((AssertionError, RuntimeError)), torch.no_grad():
        torch.testing.assert_close(runnable(fused)(x), network(x), rtol=1e-5, atol=1e-5)
