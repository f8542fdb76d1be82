import operator

import pytest
import torch
from torch import fx, nn

from dualsmooth.engine.models.registry import create
from dualsmooth.engine.samplers.fusion import onednn
from dualsmooth.engine.samplers.fusion.fold import fold_batch_norm
from dualsmooth.engine.samplers.fusion.onednn import fuse_for_cpu
from dualsmooth.kernels.cpu import direct_conv, winograd_conv

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(),  # type: ignore[no-untyped-call]
    reason="this PyTorch has no oneDNN",
)

NETWORKS = {
    "small_convnet": ({"in_channels": 3, "image_size": (11, 9)}, (3, 11, 9)),
    "lenet": ({}, (1, 28, 28)),
    "cifar_resnet20": ({}, (3, 32, 32)),
}


def batch(shape: tuple[int, int, int], rows: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    channels, height, width = shape
    return torch.rand(rows, height, width, channels, generator=generator).permute(0, 3, 1, 2)


def calls(module: nn.Module) -> list[str]:
    assert isinstance(module, fx.GraphModule)
    return [str(node.target) for node in module.graph.nodes if node.op.startswith("call")]


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05)], ids=["fp32", "bf16"]
)
def test_fused_networks_agree_with_the_network(
    name: str, dtype: torch.dtype, tolerance: float
) -> None:
    options, shape = NETWORKS[name]
    torch.manual_seed(0)
    network = create(name, options).eval()
    x = batch(shape)
    with torch.inference_mode():
        expected = network(x)
        fused = fuse_for_cpu(fold_batch_norm(network).to(dtype), x.to(dtype))
        got = fused(x.to(dtype)).float()
    scale = float(expected.abs().max())
    torch.testing.assert_close(got, expected, rtol=0.0, atol=tolerance * scale)


def test_every_convolution_sum_and_relu_of_a_resnet_is_fused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for loops in (direct_conv, winograd_conv):
        monkeypatch.setattr(loops, "available", lambda: False)
    network = fold_batch_norm(create("cifar_resnet20", {}).eval())
    names = calls(fuse_for_cpu(network, batch((3, 32, 32), 2)))
    assert sum("_convolution_pointwise" in name for name in names) == 21
    assert sum(name.endswith(".binary") for name in names) == 9
    others = [name for name in names if "pointwise" not in name]
    assert not any("relu" in name or "conv" in name for name in others)


@pytest.mark.skipif(not winograd_conv.available(), reason="needs the compiled loops and AVX2")
def test_a_resnet_is_a_chain_for_each_map_size() -> None:
    fused = fuse_for_cpu(
        fold_batch_norm(create("cifar_resnet20", {}).eval()), batch((3, 32, 32), 2)
    )
    assert isinstance(fused, fx.GraphModule)
    chains = [part for part in fused.modules() if type(part) is winograd_conv.WinogradChain]
    wirings = [chain.wiring for chain in chains]
    blocks = ((2, None), (3, 2), (4, None), (5, 4))
    assert wirings[1] == wirings[2] == ((0, 1), *blocks)  # conv2 takes the sum with a shortcut
    assert wirings[0] == ((0, None), (1, 0), (2, None), (3, 2), (4, None), (5, 4))
    names = calls(fused)
    assert sum("_convolution_pointwise" in name for name in names) == 4  # of stride two
    assert not any(name.endswith(".binary") or name == "normalize" for name in names)
    assert len(names) == 10


class Leaky(nn.Module):
    """Convolutions in a row of which one in the middle is read again at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList(nn.Conv2d(16, 16, 3, padding=1) for _ in range(6))
        self.head = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = torch.relu(self.parts[0](x))
        middle = self.parts[2](torch.relu(self.parts[1](first)))
        last = self.parts[5](self.parts[4](self.parts[3](middle)) + first)
        logits: torch.Tensor = self.head((last * middle).mean((2, 3)))
        return logits


@pytest.mark.skipif(not winograd_conv.available(), reason="needs the compiled loops and AVX2")
def test_a_chain_ends_where_others_read_its_results() -> None:
    torch.manual_seed(6)
    network, x = Leaky().eval(), batch((16, 9, 7))
    with torch.inference_mode():
        fused = fuse_for_cpu(network, x)
        torch.testing.assert_close(fused(x), network(x), rtol=1e-4, atol=1e-5)
    kinds = (winograd_conv.WinogradChain, winograd_conv.WinogradConv)
    assert isinstance(fused, fx.GraphModule)
    called = [fused.get_submodule(name) for name in calls(fused) if name.startswith("fused_")]
    assert [type(part) for part in called[:3]] == [kinds[1], kinds[0], kinds[0]]


@pytest.mark.skipif(not direct_conv.available(), reason="needs the compiled loops and AVX2")
def test_lenets_convolutions_are_one_chain_and_flattened_without_a_copy() -> None:
    fused = fuse_for_cpu(create("lenet", {}).eval(), batch((1, 28, 28), 2))
    names = calls(fused)
    assert names[1:4] == ["fused_fused__1", "permute", "flatten"]
    assert len(names) == 5  # the last is a chain of the three linear layers
    assert isinstance(fused, fx.GraphModule)
    maps = fused.get_submodule("fused_fused__1")(batch((1, 28, 28)))
    assert maps.permute(0, 2, 3, 1).is_contiguous()


@pytest.mark.skipif(not direct_conv.available(), reason="needs the compiled loops and AVX2")
@pytest.mark.parametrize(
    ("side", "channels", "chained"),
    [(32, 32, True), (8, 32, False), (32, 48, False)],
    ids=["alike", "lines too short", "many channels"],
)
def test_a_strided_convolution_follows_in_the_chain_where_it_is_fast(
    side: int, channels: int, chained: bool
) -> None:
    torch.manual_seed(7)
    options = {"in_channels": 3, "image_size": [side, side], "widths": [channels, 64]}
    network, x = create("small_convnet", options).eval(), batch((3, side, side), 9)
    fused = fuse_for_cpu(fold_batch_norm(network), x)
    with torch.inference_mode():
        torch.testing.assert_close(fused(x), network(x), rtol=1e-4, atol=1e-5)
        assert torch.equal(fused(x.flip(0)).flip(0), fused(x))
    kinds = [type(part) for part in fused.modules()]
    assert (direct_conv.DirectChain in kinds) == chained
    assert (direct_conv.DirectConv in kinds) != chained


class Pooled(nn.Module):
    """Traps for pooling and flattening, each after a convolution of few channels."""

    def __init__(self, pooling: nn.Module, flatten: nn.Module) -> None:
        super().__init__()
        self.conv, self.pooling, self.flatten = nn.Conv2d(3, 5, 3), pooling, flatten
        self.head = nn.LazyLinear(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = self.conv(x)
        logits: torch.Tensor = self.head(self.flatten(self.pooling(maps)))
        logits += maps.mean((1, 2, 3))[:, None]
        return logits


@pytest.mark.parametrize("shared", [False, True], ids=["read once", "read twice"])
@pytest.mark.parametrize(
    "pooling",
    [
        nn.MaxPool2d(2),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.MaxPool2d(2, stride=1),
        nn.MaxPool2d(2, padding=1),
        nn.MaxPool2d(3, stride=2),
        nn.MaxPool2d((2, 1), stride=2),
        nn.AvgPool2d(2),
        nn.Sequential(nn.ReLU(), nn.MaxPool2d((2, 2))),
        nn.Sequential(nn.MaxPool2d(2), nn.ReLU()),
    ],
    ids=str,
)
def test_other_poolings_and_shared_maps_give_the_same(pooling: nn.Module, shared: bool) -> None:
    torch.manual_seed(5)
    x = batch((3, 9, 7))
    flatten = nn.Flatten(-3) if shared else nn.Flatten()
    network = Pooled(pooling, flatten).eval()
    whole: nn.Module = network
    if not shared:
        whole = nn.Sequential(network.conv, pooling, flatten, network.head)
    with torch.inference_mode():
        network(x)
        torch.testing.assert_close(fuse_for_cpu(whole, x)(x), whole(x), rtol=1e-5, atol=1e-5)


class Shared(nn.Module):
    """Traps: a sum of other shape, a convolution read twice, a ReLU of a sum with a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 1)
        self.wide = nn.Conv2d(8, 1, 1)
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = self.first(x)
        b = torch.relu(a) + a
        c = torch.relu(self.second(b) + 1.0)
        d = self.wide(c) + c
        e = self.second(d) + self.second(c)
        logits: torch.Tensor = torch.relu(self.head(e.mean((2, 3)))) - 0.5
        return logits


def test_shared_layers_broadcast_sums_and_constants() -> None:
    torch.manual_seed(3)
    network, x = Shared().eval(), batch((3, 7, 5))
    with torch.inference_mode():
        torch.testing.assert_close(fuse_for_cpu(network, x)(x), network(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("call", [False, True], ids=["operator", "function"])
def test_a_sum_into_another_tensor_still_changes_it(call: bool) -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            total = alias = x * 2.0
            if call:
                operator.iadd(total, self.conv(x))  # type: ignore[no-untyped-call]
            else:
                total += self.conv(x)  # torch.fx traces this as total = total + self.conv(x)
            return total * 3.0 + alias

    network, x = InPlace().eval(), batch((3, 4, 4))
    with torch.inference_mode():
        torch.testing.assert_close(fuse_for_cpu(network, x)(x), network(x))


def test_layers_with_hooks_are_left_alone() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(4, 2)).eval()
    network[1].register_forward_hook(lambda module, inputs, output: output + 7.0)
    network[3].register_forward_hook(lambda module, inputs, output: output * 2.0)
    x = batch((3, 1, 1))
    with torch.inference_mode():
        torch.testing.assert_close(fuse_for_cpu(network, x)(x), network(x))


def test_a_network_that_cannot_be_traced_is_returned_as_it_is() -> None:
    class Branching(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if bool(x.sum() > 0) else -x

    network = Branching().eval()
    assert fuse_for_cpu(network, batch((3, 2, 2))) is network


def test_the_network_itself_is_not_changed() -> None:
    convolution = nn.Conv2d(3, 4, 1)
    network = nn.Sequential(convolution, nn.ReLU()).eval()
    before, weight = str(network), convolution.weight.clone()
    fuse_for_cpu(network, batch((3, 4, 4)))
    assert str(network) == before
    assert torch.equal(convolution.weight, weight)


class Sums(nn.Module):
    """A sum of two convolutions; who else reads one of them. Read later, it is not written over."""

    def __init__(self, reader: str) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Conv2d(32, 32, 1) for _ in range(3))
        self.reader = reader

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept = self.first(x)
        source = {"before": self.second(kept), "view": kept[:, :], "itself": kept}
        total = torch.relu(self.third(source.get(self.reader, x)) + kept)
        return torch.relu(self.second(kept) + total) if self.reader == "later" else total


@pytest.mark.parametrize(
    ("reader", "in_place"), [("none", 1), ("before", 1), ("itself", 0), ("later", 1), ("view", 0)]
)
def test_a_sum_is_written_over_what_nothing_reads_again(
    reader: str, in_place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    network, x = Sums(reader).eval(), batch((32, 10, 9))
    with torch.inference_mode():
        fused = fuse_for_cpu(network, x)
        assert sum("_convolution_pointwise_.binary" in name for name in calls(fused)) == in_place
        monkeypatch.setattr(onednn, "_add_in_place", lambda traced: None)
        apart = fuse_for_cpu(network, x)
        assert torch.equal(fused(x), apart(x))
        torch.testing.assert_close(fused(x), network(x), rtol=0.0, atol=1e-5)
