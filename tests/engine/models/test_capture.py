"""Captured networks compute what the network computes, whatever Python did on the way."""

import copy
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import pytest
import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional

from dualsmooth.engine.models import capture as module
from dualsmooth.engine.models.capture import capture, is_known
from dualsmooth.engine.models.registry import create

X = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """A convolution with batch norm, a sum, pooling and a head, called in many ways."""

    def __init__(self, forward: Callable[[Any, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.bn = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.aux, self.head = nn.BatchNorm2d(8), nn.Linear(8 * 16, 4)
        self.aux.running_mean.fill_(2.0)  # type: ignore[union-attr]
        self.offset, self.plain, self.body = (
            nn.Parameter(torch.ones(4)),
            torch.ones(3, 1, 1),
            forward,
        )

    def forward(self, x: torch.Tensor, domain: object = None) -> torch.Tensor:
        return self.body(self, x) if domain is None else self.aux(x)

    def rest(self, maps: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(functional.max_pool2d(maps, 2).flatten(1))
        return logits


def in_place(net: Any, x: torch.Tensor) -> Any:
    bias = torch.zeros(4)
    bias += net.offset
    maps = net.bn(net.conv(x))
    maps += maps.mean((2, 3), keepdim=True)
    return net.rest(maps.relu_()) + bias


def view_of_changed(net: Any, x: torch.Tensor) -> Any:
    maps = net.bn(net.conv(x))
    maps.view(len(x), -1).relu_()
    functional.relu(maps, inplace=True)
    return net.rest(maps).add_(net.offset, alpha=2)


WAYS: dict[str, Callable[[Any, torch.Tensor], torch.Tensor]] = {
    "in place": in_place,
    "view of what is changed": view_of_changed,
    "types": lambda net, x: net.rest(net.bn(net.conv(x if isinstance(x, torch.Tensor) else -x))),
    "is_tensor": lambda net, x: net.rest(net.conv(x) if torch.is_tensor(x) else net.conv(-x)),
    "plain attribute": lambda net, x: net.rest(torch.relu(net.bn(net.conv(x - net.plain)))),
    "same layer twice": lambda net, x: net.rest(net.bn(net.conv(x)) + net.bn(net.conv(2 * x))),
    "norm of maps read again": lambda net, x: net.rest(net.bn(net.conv(x)) + net.conv(x)),
    "functional": lambda net, x: net.rest(functional.conv2d(x, net.conv.weight, None, 1, "same")),
    "size of the batch": lambda net, x: net.rest(net.conv(x).view(x.shape[0], 8, 8, 8)),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_captured_network_is_the_network(way: str) -> None:
    net = Net(WAYS[way]).eval()
    captured = capture(net, X)
    assert captured is not None
    with torch.inference_mode():
        for _ in range(2):
            assert torch.equal(captured(X), net(X))


@pytest.mark.parametrize("place", ["whole", "layer", "before"])
def test_hooks_are_captured(place: str) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 8), nn.Flatten()).eval()
    plain = net(X)
    if place == "before":
        net.register_forward_pre_hook(lambda module, args: (1 - args[0],))
    else:
        part = net if place == "whole" else net[0]
        part.register_forward_hook(lambda module, args, output: 2 * output)  # type: ignore[no-untyped-call, unused-ignore]
    assert not is_known(net)
    captured = capture(net, X)
    assert captured is not None
    assert torch.equal(captured(X), net(X))
    assert not torch.equal(net(X), plain)


def test_what_depends_on_values_is_not_captured(capsys: pytest.CaptureFixture[str]) -> None:
    for way in (
        lambda net, x: net.rest(net.conv(x if x.sum() > 0 else -x)),
        lambda net, x: net.rest(net.conv(x)) * float(x.max()),
        lambda net, x: torch.from_numpy(net.rest(net.conv(x)).numpy()),
    ):
        assert capture(Net(way).eval(), X) is None
    assert not any(capsys.readouterr())


def test_a_loop_over_rows_is_not_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its graph would have the operators of every row; capturing one took minutes."""
    net = Net(lambda net, x: torch.cat([net.rest(net.conv(row[None])) for row in x])).eval()
    assert capture(net, X) is not None
    monkeypatch.setattr("dualsmooth.engine.models.capture.MOST_OPERATORS", 20)
    assert capture(net, X) is None


def test_what_stands_in_for_a_missing_device_outlives_the_thread_that_captures(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """PyTorch's builds for CUDA keep it in the thread that first has tensors without values."""
    threads, made = list[threading.Thread](), module._stand_in

    class Noted(FakeTensorMode):
        def __enter__(self) -> Any:
            threads.append(threading.current_thread())
            return super().__enter__()  # type: ignore[no-untyped-call]

    made()  # that of this process stays
    monkeypatch.setattr(module, "_stand_in", cache(made.__wrapped__))
    monkeypatch.setattr(module, "FakeTensorMode", Noted)
    net = Net(lambda net, x: net.rest(net.conv(x if x.sum() > 0 else -x))).eval()
    for _ in range(2):
        thread = threading.Thread(target=capture, args=(net, X))
        thread.start()
        thread.join()
    keeper, *others = threads
    assert keeper.is_alive()
    assert len(others) == 2
    assert not any(other.is_alive() for other in others)


def test_layers_are_known_again() -> None:
    """The fusing passes see through a foreign network as they see through their own."""
    captured = capture(Net(WAYS["types"]).eval(), X)
    assert isinstance(captured, fx.GraphModule)
    kinds = [type(part) for part in captured.children()]
    for kind in (nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d, nn.Linear):
        assert kind in kinds


def test_only_known_code_is_known() -> None:
    class Deeper(nn.Conv2d):
        pass

    def patched() -> nn.Module:
        net = nn.Sequential(nn.ReLU())
        net[0].forward = lambda x: -x
        return net

    assert is_known(create("cifar_resnet20", {}).eval())
    assert is_known(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()).eval())
    unknown = (
        patched(), nn.Sequential(Deeper(3, 4, 1)), nn.Sequential(nn.Flatten(0)),
        nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False)),
        nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)),
    )  # fmt: skip
    assert not any(is_known(net.eval(), read=True) for net in unknown)
    deep = create("resnet50", {"num_classes": 2}).eval()
    assert (is_known(deep), is_known(deep, read=True)) == (False, True)
    assert not is_known(nn.Sequential(nn.ReLU()))


class Elsewhere(nn.Module):
    """Not one of the known layers."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x - 0.5)


@pytest.mark.parametrize(("layer", "error"), [(nn.ReLU(), 0.0), (Elsewhere(), 1e-6)])
def test_threads_may_capture_and_run_networks_at_once(layer: nn.Module, error: float) -> None:
    """Known networks to the bit; `torch.export` changes how other threads round."""
    x = torch.rand(4, 3, 8, 8)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), layer, nn.Flatten(), nn.Linear(144, 5)).eval()
    voting = copy.deepcopy(network)
    with torch.inference_mode():
        wanted = network(x)
    call, over = nn.Module.__call__, threading.Event()

    def vote() -> int:
        passes = 0
        while not over.is_set():
            with torch.inference_mode():
                torch.testing.assert_close(voting(x), wanted, rtol=0, atol=error)
            passes += 1
        return passes

    def graphs() -> list[fx.GraphModule | None]:
        return [capture(network, x) for _ in range(5)]

    with ThreadPoolExecutor(3) as pool:
        votes, *made = pool.submit(vote), pool.submit(graphs), pool.submit(graphs)
        found = [graph for future in made for graph in future.result()]
        over.set()
        assert votes.result() > 0
    assert nn.Module.__call__ is call
    for graph in found:
        assert graph is not None
        torch.testing.assert_close(graph(x), wanted)
