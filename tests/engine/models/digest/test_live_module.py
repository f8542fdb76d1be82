"""Modules in memory become networks of bundles: copied whole, or refused in one line."""

import threading
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import fx, nn
from torch._dynamo.backends.common import aot_autograd
from torch.nn.modules import module as torch_module
from torch.nn.utils import parametrizations, spectral_norm

from dualsmooth.engine.api import certify
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.models.digest.module_state import unwrapped
from dualsmooth.engine.models.network import network_from_module
from dualsmooth.engine.models.registry import create
from tests.engine.models.digest.test_module_digest import net

X = torch.linspace(-1, 1, 20).reshape(5, 1, 2, 2)
SHIFT = torch.tensor(1.0)


class Holder(nn.Module):
    """A network that holds a value and shifts by a global tensor."""

    def __init__(self, value: object = None) -> None:
        super().__init__()
        self.value, self.net = value, net()

    def forward(self, x: torch.Tensor) -> Any:
        return self.net(x) + SHIFT


class Overriding(Holder):
    """Methods of `nn.Module` that return nothing or lie, as users' classes do."""

    def train(self, mode: bool = True) -> Any:
        super().train(mode)

    def float(self) -> Any:
        return None

    def cpu(self) -> Any:
        raise RuntimeError("not here")

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return {}


def evaluated(module: nn.Module) -> Any:
    module.eval()
    return module


def noted() -> Any:
    module = net()
    module[1].weight.note = 2.0
    return module


def compiled() -> Any:
    module = net()
    module.compile()
    return module


def optimized(module: Any, backend: Any = "eager") -> Any:
    return torch.compile(module, backend=backend)


def negated(graph: Any, _: object) -> Any:
    return lambda *x: tuple(-y for y in graph(*x))


negated._torchdynamo_orig_backend = lambda graph, _: graph  # type: ignore[attr-defined]


def hooked(module: Any) -> None:
    module.register_forward_hook(lambda part, args, y: 2 * y)


def patched(module: Any) -> None:
    module.forward = lambda x: 2 * x.flatten(1)[:, :3]


def compiled_instead(module: Any) -> None:
    module.forward = optimized(lambda x: 2 * x)


def lying(module: Any) -> None:
    inner = next(module.children())
    module.forward = lambda x: -inner(x)
    module.forward._torchdynamo_orig_callable = inner.__call__


class Renamed(nn.Module):
    """Its graph calls the output otherwise than copies of the graph do, and is kept twice."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def forward(self, output: torch.Tensor) -> Any:
        return self.net(output)


def renamed() -> Any:
    module = fx.symbolic_trace(Renamed()).eval()
    graph: Any = module.graph
    module.eval_graph = graph
    return module


def noting(module: nn.Module) -> Any:
    module.register_forward_hook(lambda part, args, y: y * part[1].weight.note)
    return module


@pytest.mark.parametrize(
    "make",
    [
        net,
        compiled,
        lambda: evaluated(Overriding()),
        lambda: noting(noted()),
        lambda: evaluated(
            nn.Sequential(nn.Flatten(), parametrizations.orthogonal(nn.Linear(4, 4)))
        ),
        lambda: evaluated(nn.Sequential(nn.Flatten(), spectral_norm(nn.Linear(4, 3)))),
        lambda: torch.export.export(net(), (X,)).module(),
        lambda: torch.jit.freeze(torch.jit.script(net())),
        lambda: torch.jit.trace(net(), X),  # type: ignore[no-untyped-call]
        lambda: evaluated(nn.DataParallel(net())),
        renamed,
    ],
)
def test_it_computes_what_the_module_does(make: Callable[[], nn.Module]) -> None:
    module = make()
    built = network_from_module(module).build()
    with torch.no_grad():
        torch.testing.assert_close(built(X), module(X), rtol=0, atol=0)


@pytest.mark.parametrize(
    "wrap",
    [
        optimized,
        lambda module: nn.DataParallel(optimized(module)),
        lambda module: nn.Sequential(optimized(module)),
    ],
)
def test_what_compiles_a_module_is_left_out(wrap: Callable[[nn.Module], nn.Module]) -> None:
    """Compiling for every size and mode of the trials took minutes."""
    module = wrap(net()).eval()
    with torch.compiler.set_stance("fail_on_recompile"):
        built = network_from_module(module).build()
        torch.testing.assert_close(built(X), net()(X), rtol=0, atol=0)
    if type(module) is not nn.Sequential:
        certify(module, X[:2, 0, :, :, None].abs(), sigma=1.0, n=20, n0=10, progress=False)


@pytest.mark.parametrize("wrap", [nn.DataParallel, optimized])
@pytest.mark.parametrize("change", [hooked, patched, compiled_instead, lying, None])
def test_a_wrapper_that_does_more_is_no_wrapper(
    wrap: Callable[[nn.Module], Any],
    change: Callable[[Any], object] | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its hooks, those of all modules and other code count."""
    module = wrap(net()).eval()
    assert unwrapped(module) is not module
    if change is None:
        monkeypatch.setitem(torch_module._global_forward_hooks, -1, lambda *_: None)
    else:
        change(module)
    assert unwrapped(module) is module


@pytest.mark.parametrize(
    "wrap",
    [
        lambda module: optimized(module, negated),
        lambda module: torch._dynamo.optimize(negated)(module),
        lambda module: torch.compile(module, options={"post_grad_custom_post_pass": print}),
        lambda module: optimized(module, aot_autograd(fw_compiler=negated)),
    ],
    ids=["backend", "older call", "pass of Inductor", "compiler in a backend"],
)
def test_what_others_code_compiles_is_no_wrapper(wrap: Callable[[nn.Module], nn.Module]) -> None:
    """Its answers may be any."""
    module = wrap(net()).eval()
    assert unwrapped(module) is module
    with pytest.raises(ArgumentError, match=r"of its own.*\(certify the module that was given"):
        network_from_module(module)


class Remade(nn.Flatten):
    """As einops' layers: copies are made anew."""

    def __getstate__(self) -> dict[str, int]:
        return {"start_dim": self.start_dim}

    def __setstate__(self, state: dict[str, int]) -> None:
        self.__init__(**state)  # type: ignore[misc]


def test_a_layer_whose_copies_are_in_training_mode_is_copied() -> None:
    built = network_from_module(nn.Sequential(Remade(), nn.Linear(4, 3)).eval()).build()
    assert not any(part.training for part in built.modules())


def test_a_partial_that_is_a_default_too_is_copied() -> None:
    """As torchvision's VisionTransformer keeps the kind of its norms."""
    norm = partial(nn.LayerNorm, eps=1e-6)

    class Normed(nn.Linear):
        def __init__(self, norm: Callable[..., Any] = norm) -> None:
            super().__init__(4, 3)
            self.norm = norm

    others = partial(nn.LayerNorm, eps=1e-5), nn.LayerNorm
    modules = [Normed().eval(), *(Normed(other).eval() for other in others)]
    assert len({network_from_module(module).sha256 for module in modules}) == 3


def test_later_changes_of_the_module_do_not_matter() -> None:
    module = net()
    network, expected = network_from_module(module), module(X).detach()
    with torch.no_grad():
        module[1].weight.zero_()
    module.register_forward_hook(lambda part, args, y: y + 1)
    module.train()
    torch.testing.assert_close(network.build()(X), expected, rtol=0, atol=0)


def test_changes_of_what_it_reads_elsewhere_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    offset = torch.zeros(3)
    hooked = net()
    hooked.register_forward_hook(lambda part, args, y: y + offset)
    networks = [network_from_module(module) for module in (hooked, evaluated(Holder()))]
    for network in networks:
        network.build()
    offset.add_(1)
    monkeypatch.setitem(globals(), "SHIFT", torch.tensor(2.0))
    for network in networks:
        with pytest.raises(ArgumentError, match="must be what it was when its bundle was made"):
            network.build()


def to_itself() -> Any:
    module = net()
    module.register_forward_hook(lambda part, args, y: y * module[1].weight.sum())
    return module


def to_its_dict() -> Any:
    module = Holder({})
    kept: Any = module.value
    module.net.register_forward_hook(lambda part, args, y: kept.__setitem__("y", y))
    return module.eval()


def to_its_parameter() -> Any:
    module = net()
    weight = module[1].weight
    module.register_forward_pre_hook(lambda part, args: args[0] * weight.mean())
    return module


class Attributes(dict[str, int]):
    """Keys as attributes, which copies lose."""

    def __init__(self, **keys: int) -> None:
        super().__init__(**keys)
        self.__dict__ = self


class Alone(Holder):
    def __deepcopy__(self, memo: object) -> "Alone":
        return self


def nested() -> list[Any]:
    found: list[Any] = []
    for _ in range(5000):
        found = [found]
    return found


def weakly() -> Any:
    part = net()
    return Holder([part, weakref.ref(part)]).eval()


class FSDPModule(nn.Module):
    """As PyTorch calls what `fully_shard` mixes into a class."""


class Sharded(Holder, FSDPModule):
    pass


def half_loaded() -> Any:
    module = net()
    module[1].bias = None
    return module.to("meta")


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (
            to_itself,
            r"network of its own.*module\._forward_hooks\[0\] > module is another",
        ),
        (to_its_dict, r"module\.value is another in copy\.deepcopy.*closure .* method"),
        (lambda: Holder(Attributes(a=1)).eval(), r"module\.value\[1\] is another .*plain values"),
        (to_its_parameter, "must be a network of its own"),
        (weakly, "must be a network of its own"),
        (lambda: Alone().eval(), "must be a network of its own"),
        (lambda: Holder(threading.Lock()).eval(), r"must be copyable.*module\.value, lock"),
        (lambda: Holder(i for i in "ab").eval(), r"must be copyable.*module\.value, generator"),
        (lambda: Holder(nested()).eval(), "nested"),
        (lambda: nn.Sequential(nn.LazyLinear(3)).eval(), "must have all its weights.*lazy"),
        (half_loaded, r"must have all its weights.*meta.*load_state_dict\(state, assign=True\)"),
        (lambda: Sharded().eval(), "must have all its weights; received Sharded, a share of them"),
        (
            lambda: nn.Sequential(nn.Linear(4, 3).double().requires_grad_(False)).eval(),
            "in float64",
        ),
        (lambda: net().train(), "must be in eval mode"),
    ],
)
def test_refused_in_one_line(make: Callable[[], nn.Module], rule: str) -> None:
    module = make()
    if rule == "in float64":
        rule = "must hold what float32 can hold"
        for tensor in module.parameters():
            tensor.data.fill_(1 / 3)
    with pytest.raises(ArgumentError, match=f"^module .*{rule}") as refused:
        network_from_module(module)
    assert "\n" not in str(refused.value)


def test_double_weights_that_float32_holds_are_taken() -> None:
    built = network_from_module(net().double()).build()
    torch.testing.assert_close(built(X), net()(X), rtol=0, atol=0)


SMALL = {"num_classes": 3, "widths": [2], "hidden": 4}


@pytest.mark.parametrize(
    "change",
    [
        lambda module: module.register_forward_pre_hook(lambda part, args: (1 - args[0],)),
        lambda module: setattr(module, "forward", lambda x: x.flatten(1)[:, :3]),
        lambda module: module.register_buffer("extra", torch.ones(1)),
        lambda module: setattr(module, "temperature", 2.0),
    ],
)
def test_a_registered_architecture_must_be_itself(change: Callable[[nn.Module], object]) -> None:
    """What a bundle file would lose is refused, not lost."""
    module = create("small_convnet", SMALL).eval()
    network_from_module(module.requires_grad_(False), "small_convnet", SMALL)
    network_from_module(module, "small_convnet", SMALL, half=True)
    change(module)
    with pytest.raises(ArgumentError, match="must be what small_convnet builds"):
        network_from_module(module, "small_convnet", SMALL)


class Ring:
    """An object in a set that holds the set."""

    def __init__(self) -> None:
        self.around = {self}


def test_what_is_nested_without_end_is_certified_without_a_digest() -> None:
    """As networks of Lightning and open_clip are: like no other, so nothing resumes with it."""
    first, second = (network_from_module(Holder(Ring()).eval()) for _ in range(2))
    assert first.sha256 != second.sha256
    assert "nested without end" in str(first.kwargs)
    torch.testing.assert_close(first.build()(X), Holder()(X), rtol=0, atol=0)
