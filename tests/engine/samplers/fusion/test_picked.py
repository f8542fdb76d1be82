"""Convolutions by kernels of ours: the same network, whichever of them a contest prefers."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import fx, nn

from dualsmooth.benchmarks.speed.networks import Pooled, resnet18_cifar, resnet50
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.models.architectures.deep_resnet import Bottleneck
from dualsmooth.engine.samplers.fusion import kernels
from dualsmooth.engine.samplers.fusion import picked as module
from dualsmooth.engine.samplers.fusion.cudnn import fuse_for_cudnn
from dualsmooth.engine.samplers.fusion.fold import folded_network
from dualsmooth.engine.samplers.fusion.kernels import Convolution, Kernel, Ours
from dualsmooth.engine.samplers.fusion.patterns import channels_last
from dualsmooth.engine.samplers.fusion.picked import Race, picked

pytestmark = pytest.mark.usefixtures("cudnn")
ROWS, SIDE = 3, 32


def bottlenecks() -> nn.Module:
    """All that our kernels have, some of it twice, behind a convolution that none has."""
    blocks = Bottleneck(16, 16, 1), Bottleneck(64, 16, 1), Bottleneck(64, 16, 1)
    layers = nn.Conv2d(3, 16, 3, 1, 1), nn.ReLU(), *blocks, Bottleneck(64, 32, 2)
    return Pooled(nn.Sequential(*layers), 128, 10)


NETWORKS = {"bottlenecks": bottlenecks, "ResNet-18": resnet18_cifar, "ResNet-50": resnet50}
LETTERS = {"bottlenecks": "cpptpppptp", "ResNet-18": "cttpcccpcccpccc"}
LETTERS["ResNet-50"] = "cpptpp" + 3 * "ppcppc"
"""Of networks whose every convolution that fits is ours."""


def images(side: int = SIDE) -> torch.Tensor:
    draws = torch.Generator().manual_seed(1)
    return torch.rand(ROWS, side, side, 3, generator=draws).permute(0, 3, 1, 2)


def fused(make: Callable[[], nn.Module]) -> fx.GraphModule:
    torch.manual_seed(0)
    made = make().eval()
    for layer in made.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.bias, -0.3, 0.3)
    folded = folded_network(made, torch.float32, (ROWS, SIDE, SIDE, 3))
    network = fuse_for_cudnn(folded, images())
    assert isinstance(network, fx.GraphModule)
    return network


def race(ours: float, seen: list[Mapping[str, Any]] | None = None) -> Race:
    """Ours take that share of cuDNN's time."""

    def run(calls: Mapping[str, Callable[[], None]]) -> dict[str, float]:
        if seen is not None:
            seen.append(calls)
        return {name: 2.0 if name == module.CUDNN else 2.0 * ours for name in calls}

    return run


def never(calls: object) -> dict[str, float]:
    raise AssertionError("nothing is to be timed")


def gap(network: nn.Module, other: nn.Module) -> float:
    with torch.no_grad():
        wanted, found = network(images()), other(images())
    return float((found - wanted).abs().max() / wanted.abs().max())


def by_name(network: fx.GraphModule, picks: str) -> nn.Module:
    return picked(copy.deepcopy(network), picks, never, every=False)[0]


def ours(network: nn.Module) -> list[Ours]:
    return [layer for layer in network.modules() if isinstance(layer, Ours)]


def watch(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether what our kernels get lies where the network's tensor does."""
    found = list[bool]()

    def last(x: torch.Tensor) -> torch.Tensor:
        given = channels_last(x)
        found.append(given.data_ptr() == x.data_ptr())
        return given

    monkeypatch.setattr(kernels, "channels_last", last)
    return found


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_of_our_kernels_is_the_network_and_copies_nothing(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = fused(NETWORKS[name])
    made, picks = picked(copy.deepcopy(network), "", race(0.5), every=False)
    assert picks == LETTERS[name]
    views = watch(monkeypatch)
    assert gap(network, made) < 1e-4
    assert len(views) >= len(ours(made)) > 0
    assert all(views)
    again = by_name(network, picks)
    with torch.no_grad():
        assert torch.equal(again(images()), made(images()))
    assert len(ours(again)) == len(ours(made))
    assert gap(network, by_name(network, module.CUDNN * len(picks))) == 0.0


def test_a_copy_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    views, layer = watch(monkeypatch), Ours(lambda x, residual: x)
    layer(images())
    layer(images().contiguous())
    assert views == [True, False]


def test_a_letter_is_about_its_kind_of_convolution(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of the graph; letters in another order name other layers, or none that fits."""
    network, made = fused(bottlenecks), list[Convolution]()
    honest = module._ours

    def noted(graph: fx.GraphModule, node: fx.Node, kind: Convolution, letter: str) -> Ours:
        made.append(kind)
        return honest(graph, node, kind, letter)

    monkeypatch.setattr(module, "_ours", noted)
    for place, count in ((1, 1), (2, 1), (3, 3), (4, 3), (5, 2), (6, 1), (8, 1), (9, 1)):
        letters = ["c"] * 10
        letters[place] = LETTERS["bottlenecks"][place]
        made.clear()
        assert gap(network, by_name(network, "".join(letters))) < 1e-4
        assert len(made) == count
        assert len(set(made)) == 1
        assert made[0].kernel == (3 if letters[place] == "t" else 1)


def test_broken_layers_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of another layer of the kind, a sum left out, a ReLU left out, and a bias."""
    network, picks = fused(bottlenecks), LETTERS["bottlenecks"]
    parameters, inputs, product = module._parameters, module._inputs, kernels.KERNELS["p"]
    first: dict[torch.Size, Any] = {}

    def earlier(graph: fx.GraphModule, node: fx.Node) -> Any:
        found = parameters(graph, node)
        return first.setdefault(found[0].shape, found)

    def unbiased(graph: fx.GraphModule, node: fx.Node) -> Any:
        return parameters(graph, node)[0], None

    def linear(kind: Convolution, *parts: torch.Tensor) -> kernels.Run:
        made: Any = product.make(kind, *parts)
        return lambda x, residual: made(x, residual=residual, relu=False)

    wrong = dict(kernels.KERNELS, p=Kernel(product.fits, linear))
    for name, value in (
        ("_parameters", earlier),
        ("_parameters", unbiased),
        ("_inputs", lambda node: inputs(node)[:1]),
        ("KERNELS", wrong),
    ):
        with monkeypatch.context() as changed:
            changed.setattr(module, name, value)
            assert gap(network, by_name(network, picks)) > 1e-3


def test_a_contest_is_of_equals_at_a_full_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once for each kind; both sides compute the same of the same."""
    seen, state, network = list[str](), torch.get_rng_state(), fused(bottlenecks)
    monkeypatch.setattr(module, "_call", lambda run, given: lambda: run(*given))

    def compared(calls: Mapping[str, Callable[[], Any]]) -> dict[str, float]:
        with torch.no_grad():
            wanted, found = (call() for call in calls.values())
        assert len(found) == ROWS
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
        seen.append("".join(calls))
        return dict.fromkeys(calls, 1.0)

    torch.set_rng_state(state)
    picked(network, "", compared, every=False)
    assert seen == [f"c{letter}" for letter in LETTERS["bottlenecks"] if letter != "c"]
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("share", "margin", "wins"), [
    (0.96, 0.03, True), (0.98, 0.03, False), (1.5, 0.03, False), (0.98, 0.0, True),
])  # fmt: skip
def test_ours_is_taken_if_it_wins_by_the_margin(
    share: float, margin: float, wins: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last case is wrong: it ignores the margin."""
    monkeypatch.setattr(module, "MARGIN", margin)
    _, picks = picked(fused(bottlenecks), "", race(share), every=False)
    assert picks == (LETTERS["bottlenecks"] if wins else "c" * 10)


def test_the_fastest_of_several_is_taken_and_one_that_fails_takes_no_part(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(*parts: object) -> kernels.Run:
        raise RuntimeError("out of resources: shared memory")

    product = kernels.KERNELS["p"]
    more = {"q": product, "r": Kernel(product.fits, fails)}
    monkeypatch.setattr(module, "KERNELS", kernels.KERNELS | more)
    monkeypatch.setattr(module, "FREE", "pqrt")
    times = {"c": 2.0, "p": 1.0, "q": 0.9, "t": 3.0}
    seen = list[Mapping[str, Any]]()

    def run(calls: Mapping[str, Any]) -> dict[str, float]:
        seen.append(calls)
        return {name: times[name] for name in calls}

    network = fused(bottlenecks)
    made, picks = picked(copy.deepcopy(network), "", run, every=False)
    assert picks == LETTERS["bottlenecks"].replace("p", "q").replace("t", "c")
    assert {tuple(calls) for calls in seen} == {("c", "p", "q"), ("c", "t")}
    assert gap(network, made) < 1e-4


def test_kernels_that_are_not_free_take_part_by_name_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FREE", "p")
    network, whole = fused(bottlenecks), LETTERS["bottlenecks"]
    found = [picked(copy.deepcopy(network), "", race(0.5), e)[1] for e in (False, True)]
    assert found == [whole.replace("t", "c"), whole]
    assert len(ours(by_name(network, whole))) == 14


def test_a_contest_is_of_so_many_kinds_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that move the most memory."""
    monkeypatch.setattr(module, "MOST", 2)
    seen = list[Mapping[str, Any]]()
    _, picks = picked(fused(bottlenecks), "", race(0.5, seen), every=False)
    assert (len(seen), picks) == (2, "ccccppcccc")


@pytest.mark.parametrize(
    "picks", ["p", "c" * 9, "c" * 11, "cppppppptp", "xccccccccc", "Cccccccccc"]
)
def test_letters_that_do_not_fit_the_network_are_refused(picks: str) -> None:
    message = r"^backend must name 10 kernels for this network, one of each of c cp cp ct cp "
    with pytest.raises(ArgumentError, match=f"{message}.*received {picks} .use picked"):
        by_name(fused(bottlenecks), picks)


class Others(nn.Module):
    """Convolutions that no kernel of ours has: each would fit but for one thing."""

    def __init__(self) -> None:
        super().__init__()
        self.grouped, self.dilated = (
            nn.Conv2d(16, 16, 1, groups=2),
            nn.Conv2d(16, 16, 3, dilation=2),
        )
        self.odd, self.valid = nn.Conv2d(16, 24, 1), nn.Conv2d(24, 16, 3)
        self.uneven, self.wide = (
            nn.Conv2d(16, 16, 1, (2, 1)),
            nn.Conv2d(16, 16, (1, 3), padding=(0, 1)),
        )
        self.hooked, self.last = nn.Conv2d(16, 16, 3, 2, 1), nn.Conv2d(16, 128, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.dilated(self.grouped(x.repeat(1, 6, 1, 1)[:, :16]))
        x = self.wide(self.uneven(self.valid(self.odd(x))))
        return self.last(self.hooked(x)).mean((2, 3))  # type: ignore[no-any-return]


def test_convolutions_that_our_kernels_lack_stay_with_cudnn() -> None:
    for network in (Others(), nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 4))):
        with pytest.raises(ArgumentError, match=r"not be picked for this .*convolution fits our"):
            picked(fused(lambda made=network: made), "", never, every=True)  # type: ignore[misc]
    with pytest.raises(
        ArgumentError, match=r"not be picked for this .*Linear .its graph cannot be"
    ):
        picked(nn.Linear(3, 3), "c", never, every=True)
