"""Passes noted without values: the shapes and bits of PyTorch, and what is left to its exporter."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx, nn
from torch.nn import functional

from dualsmooth.engine.models.graph.layers import Layers
from dualsmooth.engine.models.graph.recorded import recorded

X = torch.rand(5, 4, 9, 11, generator=torch.Generator().manual_seed(0)) - 0.5
W = torch.linspace(-1, 1, 6 * 4 * 9).view(6, 4, 3, 3)
Body = Callable[[torch.Tensor], torch.Tensor]


class Net(nn.Module):
    """A function as a network, with a tensor of its own."""

    def __init__(self, body: Callable[[Any, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.body, self.gain = body, nn.Parameter(torch.full((4, 1, 1), 1.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(self, x)


KNOWN: dict[str, Callable[[Any, torch.Tensor], torch.Tensor]] = {
    "convolution": lambda net, x: functional.conv2d(x, W, None, (2, 1), (0, 2), (1, 3)),
    "convolution of groups": lambda net, x: functional.conv2d(x, W[:, :2].clone(), groups=2),
    "padded": lambda net, x: functional.pad(x, (1, 2, 0, 1), value=0.5),
    "one image": lambda net, x: functional.conv2d(x[0], W, padding="same"),
    "linear": lambda net, x: functional.linear(x.flatten(2).mean(2), W[:, :, 0, 0].clone()),
    "product": lambda net, x: x.flatten(1) @ x.flatten(1).t(),
    "pooling": lambda net, x: functional.max_pool2d(x, 3, 2, 1, 2),
    "mean pooling": lambda net, x: functional.avg_pool2d(x, (3, 2), padding=(1, 0)),
    "pooling to a size": lambda net, x: functional.adaptive_avg_pool2d(x, (3, 5)),
    "pooling to one": lambda net, x: functional.adaptive_avg_pool2d(x, 1),
    "reductions": lambda net, x: x.mean((2, -1), keepdim=True) + x.sum(1, keepdim=True) + x.amax(0),
    "broadcast": lambda net, x: (2 * x - net.gain) / (x[:1] + 3) * x[:, :, :1].clone(),
    "in place": lambda net, x: (x + 1).relu_().mul_(net.gain).add_(x),
    "views": lambda net, x: x.permute(0, 2, 3, 1)[:, 1:, None].squeeze(2).transpose(1, 2).clone(),
    "joined": lambda net, x: torch.cat([x[:, 1:3].clone(), x, x[:, :1].clone()], -3).neg().exp(),
    "activations": lambda net, x: functional.gelu(functional.silu(x)) * functional.hardswish(x),
    "relu6": lambda net, x: functional.relu6(x).clamp(0.1).sigmoid().tanh().sqrt().rsqrt().abs(),
    "norm": lambda net, x: functional.batch_norm(x, net.gain.view(-1), net.gain.view(-1) + 1),
}  # fmt: skip


@pytest.mark.parametrize("kind", KNOWN)
def test_every_result_has_the_shape_and_bits_that_pytorch_gives(kind: str) -> None:
    net = Net(KNOWN[kind])
    lifted, graph = recorded(net, X, 100)

    class Compare(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            result = super().run_node(n)
            if n.op == "call_function":
                stand = n.meta["val"]
                assert (result.shape, result.stride()) == (stand.shape, stand.stride()), n
            return result

    with torch.inference_mode():
        Compare(fx.GraphModule(lifted, graph)).run(X.clone())
        assert torch.equal(Layers(lifted, graph).graph_module()(X), net(X))


def _writes(tensor: Any) -> Callable[[Any, torch.Tensor], torch.Tensor]:
    return lambda net, x: (tensor(net, x).view(-1).mul_(2), x + 1)[1]


REFUSED: dict[str, Callable[[Any, torch.Tensor], Any]] = {
    "a value": lambda net, x: x if x.sum() > 0 else -x,
    "a list": lambda net, x: x * x.flatten().tolist()[0],
    "an array": lambda net, x: torch.from_numpy(x.numpy()),
    "an own value": lambda net, x: x * net.gain.sum().item(),
    "a write to the input": _writes(lambda net, x: x),
    "a write to a weight": _writes(lambda net, x: net.gain.data),
    "other numbers": lambda net, x: x.double(),
    "integers": lambda net, x: x * torch.arange(11),
    "chance": lambda net, x: functional.dropout(x),
    "statistics of the batch": lambda net, x: functional.batch_norm(x, None, None, training=True),
    "places of maxima": lambda net, x: functional.max_pool2d(x, 2, return_indices=True)[1],
    "not contiguous": lambda net, x: torch.relu(x.transpose(2, 3)),
    "rounding up": lambda net, x: functional.max_pool2d(x, 2, ceil_mode=True),
    "transposed": lambda net, x: functional.conv_transpose2d(x, W.transpose(0, 1).contiguous()),
    "a sequence": lambda net, x: functional.conv1d(x[:, :, 0].clone(), W[..., 0].clone()),
    "nothing": lambda net, x: None,
    "too many": lambda net, x: sum((x + i for i in range(60)), x),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_it_does_not_know_is_an_error(kind: str) -> None:
    kept = X.clone()
    with pytest.raises(Exception):  # noqa: B017, PT011 (of PyTorch's as of ours)
        recorded(Net(REFUSED[kind]), X, 100)
    assert torch.equal(X, kept)


def test_processors_wait_for_neither_the_compiler_nor_what_cuda_needs() -> None:
    code = (
        "import sys, torch\nfrom torch import nn\n"
        "from dualsmooth.engine.models.capture import capture\n"
        "class Mine(nn.Sequential): pass\n"
        "net = Mine(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),\n"
        "           nn.Flatten(), nn.Linear(72, 5)).eval()\n"
        "assert capture(net, torch.zeros(2, 3, 8, 8)) is not None\n"
        "import dualsmooth.engine.samplers.choose\n"
        "late = {'torch._dynamo', 'sympy', 'dualsmooth.engine.samplers.cuda'}\n"
        "print(*late & sys.modules.keys())\n"
    )
    run = [sys.executable, "-c", code]
    assert subprocess.run(run, capture_output=True, text=True, check=True).stdout == "\n"
