"""Digests of modules in memory: two networks never share one, one network has one everywhere."""

import enum
import functools
import json
import logging
import os
import re
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import fx, nn
from torch.nn.modules import module as torch_module
from torch.nn.utils import parametrizations, parametrize

from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.models.architectures.resnet import cifar_resnet
from dualsmooth.engine.models.architectures.small import small_convnet
from dualsmooth.engine.models.digest.module_digest import ModuleDigest
from dualsmooth.engine.models.ensemble import SoftVoting
from dualsmooth.engine.models.network import check_digested, network_from_module
from dualsmooth.engine.models.normalize import Normalize
from dualsmooth.engine.models.registry import known_architectures


def net() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).eval()


class Holder(nn.Module):
    """A network that reads whatever it holds."""

    def __init__(self, value: object) -> None:
        super().__init__()
        self.value, self.net = value, net()

    def forward(self, x: torch.Tensor) -> Any:
        return self.net(x)


class Kind(enum.Enum):
    PLAIN = 1
    TURNED = 2


@dataclass
class Scale:
    factor: Any
    shift: float = 0.0


class Slotted:
    __slots__ = ("factor",)

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def method(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.factor


class Bag(dict[str, float]):
    pass


def plus(amount: float) -> Callable[..., Any]:
    return lambda *args: args[-1] + amount


def apart(amount: float, x: torch.Tensor) -> torch.Tensor:
    return x + amount


def defined(body: str, **scope: Any) -> type[nn.Module]:
    """A class as a notebook cell defines it: one name, another body."""
    source = f"""
class Net(nn.Module):
    scale = 1.0
    def __init__(self):
        super().__init__()
        self.net = net()
    def help(self, x):
        return x
    def forward(self, x):
        return {body}
"""
    space = {"nn": nn, "net": net, "torch": torch, "__name__": "__main__", **scope}
    exec(source, space)
    return space["Net"]  # type: ignore[no-any-return]


def hooked(register: Callable[[Any], object]) -> Any:
    module = net()
    register(module)
    return module


def patched(forward: Callable[..., Any]) -> Any:
    module = net()
    module[0].forward = forward
    return module


def with_class(name: str, value: object) -> Any:
    made = defined("x")
    setattr(made, name, value)
    return made()


def inherited(shift: float) -> Any:
    return type("Net", (type("Base", (nn.Linear,), {"forward": plus(shift)}),), {})(4, 3)


def parametrized(shift: float) -> Any:
    module: Any = net()
    parametrize.register_parametrization(module[1], "weight", patched(plus(shift))[0])
    return module


def scripted(shift: float, wrap: Callable[[nn.Module], nn.Module]) -> Any:
    torch.manual_seed(0)
    return wrap(nn.Sequential(Normalize([shift], [1.0]), nn.Flatten(), nn.Linear(4, 3)).eval())


def program(module: nn.Module) -> Any:
    return torch.export.export(module, (torch.zeros(2, 1, 2, 2),)).module()


def buffered(value: float, persistent: bool) -> Any:
    module = net()
    module.register_buffer("mean", torch.tensor(value), persistent=persistent)
    return module


def listed(*order: int) -> Any:
    module = nn.Module()
    for index in order:
        module.add_module(f"m{index}", nn.ReLU() if index else nn.Identity())
    return module


def in_module(value: float) -> Any:
    config = types.ModuleType("settings_of_a_user")
    config.MEAN = value  # type: ignore[attr-defined]
    return defined("x - config.MEAN", config=config)()


T = torch.tensor
Makes = tuple[Callable[[], nn.Module], ...]


def of(make: Callable[..., nn.Module], *values: object) -> Makes:
    """One network for each value."""
    return tuple(functools.partial(make, value) for value in values)


def bodies(*texts: str) -> Makes:
    return of(lambda text: defined(text)(), *texts)


def scoped(body: str, name: str, *values: object) -> Makes:
    """Networks whose classes find another value under a global name."""
    return of(lambda value: defined(body, **{name: value})(), *values)


def members(name: str, *values: object) -> Makes:
    return of(lambda value: with_class(name, value), *values)


def hooks(register: str, *functions: object) -> Makes:
    return of(lambda f: hooked(lambda m: getattr(m, register)(f)), *functions)


FORWARD, FIRST = "register_forward_hook", "register_forward_pre_hook"
KINDS: dict[str, Makes] = {
    "parameter": (net, lambda: nn.Sequential(nn.Flatten(), nn.Linear(4, 3, bias=False)),
                  lambda: nn.Sequential(nn.Flatten(), nn.Linear(4, 3).requires_grad_(False)),
                  lambda: hooked(lambda m: m[1].weight.data.mul_(2))),
    "buffer": of(lambda v: buffered(v, True), 0.0, 1.0),
    "non-persistent buffer": of(lambda v: buffered(v, False), 0.0, 1.0),
    "tensor": of(Holder, T([0.0]), T([0.5]), T([-0.0])),
    "tensor type": of(
        lambda d: Holder(torch.zeros(4, dtype=d)),
        torch.float32, torch.float64, torch.bfloat16, torch.int32, torch.complex64,
    ),
    "tensor shape": of(Holder, torch.zeros(4), torch.zeros(2, 2)),
    "tensor in a list": of(Holder, [T(0.0)], [T(1.0)]),
    "tensor in a tuple in a dict": of(Holder, {"a": (1, T(0.0))}, {"a": (1, T(1.0))}),
    "tensor in a dataclass": of(Holder, Scale(T(0.0)), Scale(T(1.0))),
    "tensor in a plain object": of(
        lambda v: Holder(types.SimpleNamespace(a=types.SimpleNamespace(b=T(v)))), 0.0, 1.0
    ),
    "slots": of(Holder, Slotted(1.0), Slotted(2.0)),
    "dict of its own class": of(Holder, Bag(a=1.0), Bag(a=2.0)),
    "module in a list": of(lambda v: Holder([nn.ELU(v)]), 1.0, 2.0),
    "number": of(Holder, 1, 2, 1.0, True, None, "1", float("nan")),
    "enum": of(Holder, Kind.PLAIN, Kind.TURNED),
    "dtype": of(Holder, torch.float32, torch.float64),
    "array": of(Holder, np.zeros(3), np.ones(3), np.zeros(3, np.float32), np.zeros((3, 1))),
    "array scalar": of(Holder, np.float32(1), np.float32(2)),
    "set": of(Holder, {"a", "b"}, {"a", "c"}),
    "order of a dict": of(Holder, {"a": 1, "b": 2}, {"b": 2, "a": 1}),
    "one object or two": of(Holder, [[0]] * 2, [[0], [0]]),
    "order of submodules": (lambda: listed(0, 1), lambda: listed(1, 0)),
    "name of a submodule": of(listed, 1, 2),
    "stride": of(lambda v: nn.Conv2d(1, 1, 1, v), 1, 2),
    "slope": of(nn.LeakyReLU, 0.1, 0.2),
    "forward": bodies("self.net(x)", "self.net(-x)", "self.net(x) * 2", "self.net(x) * 3"),
    "lambda in forward": bodies("(lambda y: y + 1)(x)", "(lambda y: y + 2)(x)"),
    "class attribute": members("scale", 1.0, 2.0),
    "method": members("help", plus(1), plus(2)),
    "property": members("p", property(plus(1)), property(plus(2))),
    "static method": members("s", staticmethod(plus(1)), staticmethod(plus(2))),
    "base class": of(inherited, 1.0, 2.0),
    "global number": scoped("x - MEAN", "MEAN", 0.0, 1.0),
    "global tensor": scoped("x - MEAN", "MEAN", T(0.0), T(1.0)),
    "global table": scoped("T['f'](x)", "T", {"f": plus(0)}, {"f": plus(1)}),
    "global function": scoped("f(x)", "f", plus(0.0), plus(1.0)),
    "global of a module": of(in_module, 0.0, 1.0),
    "global pattern": scoped("x * len(P.sub('', 'ab'))", "P", *map(re.compile, "ab")),
    "ufunc": scoped("x * float(f(0.0))", "f", np.exp, np.cos),
    "union": members("kinds", int | str, int | float),
    "no global": (*scoped("x - MEAN", "MEAN", None), *bodies("x - MEAN")),
    "hook": (net, *hooks(FORWARD, plus(1), plus(2)),
             lambda: hooked(lambda m: m[1].register_forward_hook(plus(1)))),
    "pre-hook": (net, *hooks(FIRST, plus(1), plus(2)),
                 lambda: hooked(lambda m: m[0].register_forward_pre_hook(plus(2)))),
    "hook with keywords": of(
        lambda w: hooked(lambda m: m.register_forward_hook(plus(1), with_kwargs=w)), False, True
    ),
    "order of hooks": of(
        lambda order: hooked(lambda m: [m.register_forward_hook(plus(i)) for i in order]),
        (1, 2), (2, 1),
    ),
    "hook that is a partial": hooks(FORWARD, *(functools.partial(apart, v) for v in (1.0, 2.0))),
    "hook that is a bound method": hooks(FORWARD, Slotted(1.0).method, Slotted(2.0).method),
    "hook that is an object": of(
        lambda v: hooked(lambda m: m.register_forward_hook(Holder(v))), 1.0, 2.0
    ),
    "patched forward": (net, *of(patched, plus(1), plus(2), Slotted(1.0).method,
                                 Slotted(2.0).method)),
    "function": of(Holder, plus(1), plus(2), torch.relu, torch.sigmoid, nn.functional.relu),
    "default": of(Holder, lambda x, s=1: x, lambda x, s=2: x, lambda x, *, s=2: x),
    "cached function": of(Holder, functools.cache(plus(1)), functools.cache(plus(2))),
    "parametrization": (net, *of(parametrized, 1.0, 2.0)),
    "weight norm": of(
        lambda d: hooked(lambda m: parametrizations.weight_norm(m[1], dim=d)), 0, 1
    ),
    "script": of(lambda v: scripted(v, torch.jit.script), 0.0, 1e-6),
    "frozen script": of(
        lambda v: scripted(v, lambda m: torch.jit.freeze(torch.jit.script(m))), 0.0, 1e-6
    ),
    "graph": of(lambda v: scripted(v, fx.symbolic_trace), 0.0, 1e-6),
    "exported program": of(lambda v: scripted(v, program), 0.0, 1e-6),
    "own class": (lambda: SoftVoting([net(), net()]), lambda: SoftVoting([net()])),
}  # fmt: skip


def digest(module: nn.Module) -> str:
    found = ModuleDigest(module)
    assert not found.opaque
    return found.sha256


def built(make: Callable[[], nn.Module]) -> Any:
    torch.manual_seed(0)
    return make().eval() if make not in KINDS["exported program"] else make()


@pytest.mark.parametrize("kind", KINDS)
def test_networks_of_every_kind_have_digests_of_their_own(kind: str) -> None:
    made = [built(make) for make in KINDS[kind]]
    found = [digest(module) for module in made]
    assert len(set(found)) == len(found)
    networks = [network_from_module(module) for module in made]
    assert [network.sha256 for network in networks] == found
    assert [digest(network.build()) for network in networks] == found
    assert [digest(built(make)) for make in KINDS[kind]] == found


@pytest.mark.slow
def test_processes_agree() -> None:
    """With other hash seeds: sets of names come in other orders."""
    found = [
        subprocess.run([sys.executable, __file__], capture_output=True, text=True, check=True,
                       env=os.environ | {"PYTHONHASHSEED": seed}).stdout
        for seed in ("1", "2")
    ]  # fmt: skip
    assert found[0] == found[1]
    assert len(json.loads(found[0])) == len(KINDS) - 2


def test_the_digest_of_an_own_module_stays() -> None:
    """Whatever file its classes are in; another value makes every certificate of one a stranger."""
    network = small_convnet(num_classes=3, widths=[2], hidden=4)
    with torch.no_grad():
        for tensor in network.state_dict().values():
            tensor.fill_(0.5)
    module = SoftVoting([nn.Sequential(Normalize([0.5], [0.25]), network)]).eval()
    described = network_from_module(module)
    assert described.architecture == "dualsmooth:SoftVoting"
    assert described.sha256 == ("4d6a3ddc40cc38e9c2f9604d9fb549525aaff2f56d87b73550fe97d7dec76667")


def test_own_classes_have_names_of_their_own() -> None:
    known_architectures()
    names = [
        cls.__qualname__
        for cls in set(_subclasses(nn.Module))
        if cls.__module__.startswith("dualsmooth.")
    ]
    assert len(set(names)) == len(names)


def _subclasses(cls: type) -> Iterator[type]:
    child: type
    for child in cls.__subclasses__():
        yield child
        yield from _subclasses(child)


def test_it_is_quick() -> None:
    module = cifar_resnet(110).eval()
    ModuleDigest(module)
    start = time.process_time()
    ModuleDigest(module)
    assert time.process_time() - start < 0.2


def test_a_changed_library_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    module = nn.Sequential(nn.ReLU(), nn.Tanh())
    found = {digest(module)}
    with monkeypatch.context() as patch:
        patch.setattr(nn.ReLU, "forward", nn.Tanh.forward)
        found.add(digest(module))
        patch.setattr(nn.ReLU, "forward", plus(1))
        found.add(digest(module))
    with monkeypatch.context() as patch:
        patch.setattr(nn.functional, "relu", plus(1))
        found.add(digest(module))
    assert len(found) == 4
    handle = torch_module.register_module_forward_hook(plus(1))
    try:
        assert digest(module) not in found
    finally:
        handle.remove()
    assert digest(module) in found


def test_what_decides_nothing_does_not_count() -> None:
    first, second = Holder(1), Holder.__new__(Holder)
    nn.Module.__init__(second)
    second.net, second.value = net(), 1
    assert digest(first) == digest(second)
    norms = [nn.BatchNorm2d(1), nn.BatchNorm2d(1)]
    norms[0].num_batches_tracked.fill_(7)  # type: ignore[union-attr]
    assert digest(norms[0]) == digest(norms[1])
    logged = {"log": logging.getLogger("a.user")}
    assert digest(defined("x if log else x", **logged)())
    held = Holder(torch.device("cpu"))
    assert digest(held) == digest(Holder(torch.device("cuda:1")))


class Closed:
    """An object that no digest covers and every copy shares."""

    def __deepcopy__(self, memo: object) -> "Closed":
        return self

    def __reduce_ex__(self, protocol: object) -> Any:
        raise TypeError("closed")


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: Holder(Closed()), "module.value, Closed"),
        (lambda: Holder([{"a": Closed()}]), "module.value[0]['a'], Closed"),
        (lambda: Holder({Closed()}), "module.value, module, Closed"),
        (lambda: hooked(lambda m: m.register_forward_hook(lambda *a, c=Closed(): a[-1])),  # noqa: B008
         "module._forward_hooks[0].c, Closed"),
        (lambda: defined("eval('x')")(), "eval, builtin_function_or_method"),
        (lambda: defined("open('a')")(), "open, builtin_function_or_method"),
        (lambda: defined("x * len(os.environ)", os=os)(), "os.environ, _Environ"),
    ],
)  # fmt: skip
def test_what_no_digest_covers_is_named(make: Callable[[], nn.Module], name: str) -> None:
    module = make().eval()
    networks = [network_from_module(module) for _ in range(2)]
    assert networks[0].sha256 != networks[1].sha256
    for network in networks:
        network.build()
        assert name in str(network.kwargs["undigested"])
        with pytest.raises(ArgumentError, match=r"^resume needs networks that a digest covers"):
            check_digested({"classifier": network}, "resume")
    check_digested({"classifier": network_from_module(net())}, "resume")


class Seeds(nn.Module):
    """Names a function that PyTorch's compiler replaces when it is imported, as captures do."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if len(x) else x + len(repr(torch.manual_seed))


def test_functions_that_pytorch_patches_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    digests = []
    for draw in (plain_manual_seed(), torch._disable_dynamo(plain_manual_seed())):  # type: ignore[attr-defined]
        monkeypatch.setattr(torch, "manual_seed", draw)
        digests.append(ModuleDigest(Seeds()).sha256)
    monkeypatch.setattr(torch, "manual_seed", lambda seed: None)
    digests.append(ModuleDigest(Seeds()).sha256)
    assert digests[0] == digests[1] != digests[2]


def plain_manual_seed() -> Any:
    return getattr(torch.manual_seed, "__wrapped__", torch.manual_seed)


if __name__ == "__main__":
    for kind in ("script", "frozen script"):  # each process orders their members as it likes
        KINDS.pop(kind)
    made = {kind: [digest(built(m)) for m in makes] for kind, makes in KINDS.items()}
    print(json.dumps(made))


FAR = [torch.zeros(3)]


def test_globals_are_not_followed_once_something_is_not_covered() -> None:
    """They lead from Lightning through Matplotlib and SymPy, for 16 seconds and nothing."""

    def far() -> object:
        return FAR[0]

    covered, not_covered = ModuleDigest([far]), ModuleDigest([Closed(), far])
    assert [not covered.opaque, not not_covered.opaque] == [True, False]
    assert [len(covered.tensors), len(not_covered.tensors)] == [1, 0]
