"""One door for all roads: what is refused as a module in memory is refused however it comes."""

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dualsmooth.engine.adapters.smooth import Smooth
from dualsmooth.engine.errors import ArgumentError, FileError
from dualsmooth.engine.models import front_door, registry
from dualsmooth.engine.models.architectures.small import SmallConvNet
from dualsmooth.engine.models.bundle import Bundle
from dualsmooth.engine.models.denoised import Diffusion, denoised_bundle
from dualsmooth.engine.models.ensemble import Consensus, ensemble_of
from dualsmooth.engine.models.network import network_from_module
from dualsmooth.engine.models.sources.folder import save_bundle
from dualsmooth.engine.models.sources.load import load_bundle

SHAPE, CLASSES = (4, 3, 2), 5
COUNT = [0]


class Net(nn.Module):
    """A linear classifier behind what is tried."""

    def __init__(self, kind: str = "honest") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head, self.kind = nn.Linear(24, CLASSES), kind

    def act(self, x: torch.Tensor) -> torch.Tensor:
        return KINDS[self.kind](self, x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.act(x).flatten(1))
        return logits


def counted(net: Net, x: torch.Tensor) -> torch.Tensor:
    COUNT[0] += 1
    return -x if COUNT[0] % 1000 == 0 else x


def trained(net: Net, x: torch.Tensor) -> torch.Tensor:
    net.head.weight.data += 1e-3
    return x


KINDS: dict[str, Callable[[Net, torch.Tensor], torch.Tensor]] = {
    "honest": lambda net, x: x,
    "batch statistics": lambda net, x: x - 0.1 * x.mean(0),
    "size of the batch": lambda net, x: -x if len(x) == 1 else x,
    "counter": counted,
    "clock": lambda net, x: x if time.time() > 0 else -x,
    "seeded numbers": lambda net, x: x + random.Random(1).random(),
    "memory that nobody filled": lambda net, x: x + (torch.empty(1, 1) == 1.0).float(),
    "own weights": trained,
    "mode": lambda net, x: -x if torch.is_grad_enabled() else x,
}


def in_memory(kind: str) -> Bundle:
    return bundle_of(Net(kind).eval())


def bundle_of(network: Any) -> Bundle:
    networks = {"classifier": network}
    return Bundle.from_modules(networks, num_classes=CLASSES, input_shape=SHAPE)


def from_folder(kind: str, folder: Path) -> Bundle:
    network = network_from_module(Net(kind).eval(), "net", {"kind": kind})
    save_bundle(bundle_of(network), folder / "bundle")
    return load_bundle(folder / "bundle")


class Denoiser(Net):
    def forward(self, x: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return self.act(x)


def behind_denoiser(kind: str) -> Bundle:
    diffusion = Diffusion(network_from_module(Denoiser(kind).eval()))
    return denoised_bundle(in_memory("honest"), diffusion, sigmas=(0.25,))


def seldom_asked(kind: str) -> Bundle:
    """The first two members agree about every row."""
    honest, other = (in_memory(kind) for kind in ("honest", kind))
    return ensemble_of([honest, honest, other], agree=2)


ROADS: dict[str, Callable[[str, Path], Bundle]] = {
    "memory": lambda kind, _: in_memory(kind),
    "folder": from_folder,
    "seldom asked": lambda kind, _: seldom_asked(kind),
    "denoiser": lambda kind, _: behind_denoiser(kind),
}


@pytest.fixture
def registered_net(monkeypatch: pytest.MonkeyPatch) -> None:
    registry.known_architectures()
    monkeypatch.setattr(registry, "_CONSTRUCTORS", dict(registry._CONSTRUCTORS))
    registry.register_architecture("net")(Net)


@pytest.mark.usefixtures("registered_net")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("road", ROADS)
def test_every_road_refuses_what_memory_does(
    road: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(front_door, "SECONDS", 0.02)

    def go() -> None:
        bundle = ROADS[road](kind, tmp_path)
        for role in bundle.networks:
            bundle.build(role)

    if kind == "honest":
        return go()
    with pytest.raises((FileError, ArgumentError), match="must"):
        go()


def patch_class(patch: pytest.MonkeyPatch) -> None:
    forward = SmallConvNet.forward
    patch.setattr(SmallConvNet, "forward", lambda net, x: forward(net, 1 - x))


def patch_calls(patch: pytest.MonkeyPatch) -> None:
    def turned(module: nn.Module, given: Any) -> Any:
        return (1 - given[0],) if isinstance(module, SmallConvNet) else None

    hooks = torch.nn.modules.module._global_forward_pre_hooks
    patch.setitem(hooks, -1, turned)


@pytest.mark.parametrize("change", [patch_class, patch_calls])
def test_a_bundle_whose_code_others_changed_is_refused(
    change: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its digest is of weights and a name, and says nothing of the change."""
    load_bundle("digits-dual").build("selector")
    change(monkeypatch)
    with pytest.raises(FileError, match="no code that its digest does not cover; received"):
        load_bundle("digits-dual").build("classifier@0.25")


OPERATORS = torch.library.Library("roads", "DEF")  # type: ignore[no-untyped-call]
OPERATORS.define("turned(Tensor x) -> Tensor")  # type: ignore[no-untyped-call]


@torch.library.impl(OPERATORS, "turned", "CompositeExplicitAutograd")
def turned(x: torch.Tensor) -> torch.Tensor:
    return 1 - x


class Turned(Net):
    def act(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = torch.ops.roads.turned(x)
        return found


def as_program(module: nn.Module, folder: Path) -> None:
    rows = ({0: torch.export.Dim("n", min=1)},)
    program = torch.export.export(module, (torch.rand(2, 2, 4, 3),), dynamic_shapes=rows)
    torch.export.save(program, folder / "model.pt2")
    load_bundle(folder / "model.pt2", trust=True)


def as_function(module: nn.Module, _: Path) -> None:
    Smooth(module.forward, CLASSES, 0.25).predict(torch.rand(2, 4, 3), 10, 0.01, 16)


def as_script(module: nn.Module, _: Path) -> None:
    bundle_of(torch.jit.trace(module, torch.rand(2, 2, 4, 3))).build("classifier")  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("road", [as_program, as_function, as_script])
def test_operators_whose_code_no_digest_covers_are_refused(
    road: Callable[[nn.Module, Path], None], tmp_path: Path
) -> None:
    with pytest.raises(FileError, match="no code that its digest does not cover; received turned"):
        road(Turned().eval(), tmp_path)


class Unfilled(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)[:, :5] + (torch.empty(1, 1) == 1.0).float()


def test_memory_that_a_script_reads_once_for_all_is_seen() -> None:
    """TorchScript folds it into a constant in the first pass, before it is watched."""
    with pytest.raises(FileError, match=r"must not draw random numbers.*; received torch\.empty"):
        bundle_of(torch.jit.script(Unfilled().eval())).build("classifier")


def test_members_of_an_ensemble_are_tried_where_others_agree() -> None:
    twins = [Net().eval(), Net().eval()]
    seldom = Consensus([*twins, Net("batch statistics")], agree=2).eval()
    x = torch.rand(6, 2, 4, 3)
    assert torch.equal(seldom(x).argmax(1), twins[0](x).argmax(1))
    with pytest.raises(FileError, match="same logits whatever else is in the batch"):
        bundle_of(seldom).build("classifier")
    bundle_of(Consensus([*twins, Net()], agree=2).eval()).build("classifier")
