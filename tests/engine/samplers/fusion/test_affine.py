"""Batch norm behind sums and concatenations: one pass each, and the network's own values."""

import copy
import operator
from collections import Counter
from collections.abc import Callable

import pytest
import torch
from torch import fx, nn

from dualsmooth.benchmarks.speed.networks import Pooled, WideBlock
from dualsmooth.engine.models.normalize import Normalize
from dualsmooth.engine.samplers.fusion import affine
from dualsmooth.engine.samplers.fusion.affine import Affine
from dualsmooth.engine.samplers.fusion.cudnn import fuse_for_cudnn
from dualsmooth.engine.samplers.fusion.fold import folded_network
from dualsmooth.kernels import ops
from tests.engine.samplers.fusion.test_cudnn import runnable

SHAPE = (4, 9, 8, 3)


def norm(channels: int) -> nn.BatchNorm2d:
    layer = nn.BatchNorm2d(channels)
    for tensor in (layer.weight.data, layer.bias.data, layer.running_mean):
        assert tensor is not None
        tensor.uniform_(-1, 1)
    assert layer.running_var is not None
    layer.running_var.uniform_(0.3, 3)
    return layer


def convolution(inputs: int, outputs: int, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, 1, 1, bias=bias)


class Dense(nn.Module):
    """Each layer reads all maps before it, as in a DenseNet."""

    def __init__(self) -> None:
        super().__init__()
        self.first = convolution(3, 12)
        self.norms = nn.ModuleList(norm(12 + 6 * i) for i in range(3))
        self.layers = nn.ModuleList(convolution(12 + 6 * i, 6) for i in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = [self.first(x)]
        for normalized, layer in zip(self.norms, self.layers, strict=True):
            maps.append(layer(torch.relu(normalized(torch.cat(maps, 1)))))
        return torch.cat(maps, 1).mean((2, 3))


class Behind(nn.Module):
    """Two convolutions, and what a test does with them."""

    def __init__(self, use: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.a, self.b = convolution(3, 5, True), convolution(3, 5, True)
        self.norm, self.other, self.use = norm(5), norm(5), use

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.use(self, self.a(x), self.b(x)).mean((2, 3))


def fused(network: nn.Module, shape: tuple[int, ...] = SHAPE) -> fx.GraphModule:
    rows, height, width, channels = shape
    made = folded_network(network, torch.float32, (rows, height, width, channels))
    example = torch.zeros(rows, channels, height, width)
    graph = fuse_for_cudnn(made, example)
    assert isinstance(graph, fx.GraphModule)
    return graph


def kinds(graph: fx.GraphModule) -> Counter[str]:
    """What is called, by name."""
    names = Counter[str]()
    for node in graph.graph.nodes:
        if node.op == "call_module":
            names[type(graph.get_submodule(str(node.target))).__name__] += 1
        elif node.op.startswith("call") and node.target is not operator.getitem:
            names[getattr(node.target, "__name__", str(node.target)).split(".")[0]] += 1
    return names


def gap(graph: nn.Module, network: nn.Module, shape: tuple[int, ...] = SHAPE) -> float:
    rows, height, width, channels = shape
    draws = torch.Generator().manual_seed(1)
    x = torch.randn(rows, height, width, channels, generator=draws).permute(0, 3, 1, 2)
    with torch.no_grad():
        wanted = copy.deepcopy(network)(x.clone())
        found = runnable(graph)(x.clone())
    return float((found - wanted).abs().max() / wanted.abs().max())


@pytest.fixture(autouse=True)
def same_weights() -> None:
    torch.manual_seed(3)


def wide() -> nn.Module:
    blocks = [WideBlock(8, 16, 1), WideBlock(16, 16, 1), WideBlock(16, 24, 2), WideBlock(24, 24, 1)]
    network = Pooled(nn.Sequential(convolution(3, 8), *blocks, norm(24), nn.ReLU(True)), 24, 10)
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.load_state_dict(norm(part.num_features).state_dict())
    return nn.Sequential(Normalize([0.5] * 3, [0.25] * 3), network).eval()


def test_a_wide_resnet_has_no_pass_but_convolutions_and_one_behind_each_sum() -> None:
    network = wide()
    graph = fused(network)
    found = kinds(graph)
    assert found["Affine"] == 4
    assert not {"BatchNorm2d", "ReLU", "relu", "relu_", "add", "iadd"} & set(found)
    passes = [part for part in graph.modules() if isinstance(part, Affine)]
    assert [part.options["keep"] for part in passes] == [False, True, False, True]  # later first
    assert gap(graph, network) <= 1e-5


def test_every_norm_of_a_dense_network_is_one_pass() -> None:
    network = Dense().eval()
    graph = fused(network)
    assert kinds(graph)["Affine"] == 3
    assert not {"BatchNorm2d", "relu"} & set(kinds(graph))
    assert gap(graph, network) <= 1e-5


def in_place(self: Behind, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    s = a + b
    t = self.norm(s)
    s += 1.0
    return torch.relu(t) + s


def before(self: Behind, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    s = a + b
    s.relu_()
    return torch.relu(self.norm(s))


def seen(self: Behind, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    s = a + b
    view = s[:, :2]
    view += 1.0
    return torch.relu(self.norm(s))


def summed_in_place(self: Behind, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    view = a[:, :2]
    a += b
    return torch.relu(self.norm(a)).mean(1, True) + view


def grown(self: Behind, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    a += b
    return torch.relu(self.norm(a))


def grown_elsewhere(self: Behind, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    c = torch.tanh(a)
    c += b
    return torch.relu(self.norm(c))


USES: dict[str, tuple[Callable[..., torch.Tensor], dict[str, int]]] = {
    "norm without ReLU": (lambda self, a, b: self.norm(a + b), {"Affine": 1}),
    "sum read again": (lambda self, a, b: (s := a + b) + torch.relu(self.norm(s)), {"Affine": 1}),
    "two norms": (
        lambda self, a, b: torch.relu(self.norm(s := a + b)) * torch.relu(self.other(s)),
        {"Affine": 2},
    ),
    "norm read twice": (lambda self, a, b: torch.relu(t := self.norm(a + b)) + t, {"Affine": 1}),
    "sum without norm": (lambda self, a, b: torch.tanh(a + b), {"Affine": 1}),
    "itself": (lambda self, a, b: torch.relu(self.norm(a + a)) + b, {"Affine": 2, "add": 1}),
    "weighted": (
        lambda self, a, b: torch.relu(self.norm(torch.add(a, b, alpha=2))),
        {"Affine": 1, "add": 1},
    ),
    "spread": (
        lambda self, a, b: torch.relu(self.norm(a + b.mean((2, 3), True))),
        {"Affine": 1, "add": 1},
    ),
    "summed in place": (grown, {"Affine": 1, "iadd": 0}),
    "summed in place of another layer": (grown_elsewhere, {"Affine": 1, "iadd": 1}),
    "changed behind": (in_place, {"Affine": 2}),
    "changed before": (before, {}),
    "changed through a view": (seen, {}),
    "read through a view": (summed_in_place, {}),
}


@pytest.mark.parametrize("use", USES)
def test_values_are_the_networks_whoever_reads_a_sum(use: str) -> None:
    network, wanted = Behind(USES[use][0]).eval(), USES[use][1]
    graph = fused(network)
    found = kinds(graph)
    assert {name: found[name] for name in wanted} == wanted
    assert gap(graph, network) <= 1e-5


@pytest.mark.parametrize("which", ["norm", "a"])
def test_hooks_are_respected(which: str) -> None:
    network = Behind(USES["sum read again"][0]).eval()
    network.get_submodule(which).register_forward_hook(lambda layer, x, y: 3 * y)
    assert gap(fused(network), network) <= 1e-5


def test_constants_are_exact_where_the_network_is_cast() -> None:
    """Batch norm in bfloat16 rounds its mean and variance to 8 bits."""
    network = wide()
    graph = fused(network).to(torch.bfloat16)
    last = next(part for part in graph.modules() if isinstance(part, Affine))
    layer = network[1].stages[-2]  # type: ignore[index]
    scale = layer.weight.detach().double() / (layer.running_var.double() + layer.eps).sqrt()
    shift = layer.bias.detach().double() - layer.running_mean.double() * scale
    assert last.norm[0] is not None
    assert torch.equal(last.norm[0], scale.float())
    assert last.norm[1] is not None
    assert float((last.norm[1] - shift).abs().max()) <= 2.0**-23
    x = torch.randn(*SHAPE, generator=torch.Generator().manual_seed(1)).permute(0, 3, 1, 2)
    with torch.no_grad():
        truth, half = network(x), copy.deepcopy(network).bfloat16()(x.bfloat16())
        found = runnable(graph)(x.bfloat16())
    assert found.dtype == torch.bfloat16
    assert float((found - truth).abs().max()) <= 1.5 * float((half - truth).abs().max())


FAULTS: dict[str, tuple[str, Callable[..., object]]] = {
    "scale and shift swapped": (
        "sum read again",
        lambda right: lambda x, scale, shift, **o: right(x, shift, scale, **o),
    ),
    "second reader of a sum lost": (
        "sum read again",
        lambda right: lambda *a, **o: (right(*a, **o)[1], right(*a, **o)[1]),
    ),
    "bias dropped": (
        "norm without ReLU",
        lambda right: lambda *a, **o: right(*a, **(o | {"bias": None})),
    ),
    "ReLU forgotten": (
        "sum read again",
        lambda right: lambda *a, **o: right(*a, **(o | {"relu": False})),
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_pass_would_fail_these_tests(
    fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use, change = FAULTS[fault]
    network = Behind(USES[use][0]).eval()
    graph = fused(network)
    monkeypatch.setattr(ops, "affine", change(ops.affine))
    assert gap(graph, network) > 1e-3


def test_a_sum_that_somebody_changes_may_not_be_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the look at its readers, values would be others."""
    monkeypatch.setattr(affine, "_reads", lambda traced, user: True)
    wrong = []
    for use in ("changed before", "changed through a view"):
        network = Behind(USES[use][0]).eval()
        wrong.append(gap(fused(network), network) > 1e-3)
    assert any(wrong)
