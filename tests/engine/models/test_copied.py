"""What is certified is a copy of a module: it answers as the module does, or is refused."""

import abc
import copy
import functools
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import nn

from dualsmooth.engine.errors import ArgumentError, FileError
from dualsmooth.engine.models import copies
from dualsmooth.engine.models.bundle import Bundle
from dualsmooth.engine.models.copies import OfThreads
from dualsmooth.engine.models.forms import AsItIs
from dualsmooth.engine.samplers.fusion.fold import folded_network

SHAPE = (2, 3, 1)


class Lying:
    """An object whose copies hold something else, where no digest looks."""

    __slots__ = ("sign",)

    def __init__(self, sign: float) -> None:
        self.sign = sign

    def __reduce__(self) -> Any:
        return Lying, (1.0,)


class Turned(nn.Module):
    """Logits times what a function reads from the module."""

    def __init__(self, read: Callable[["Turned"], float]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.object, self.calls = nn.Linear(6, 3), Lying(-1.0), 0
        self.read = read

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.layer(x.flatten(1))
        return logits * self.read(self)


def by_gradient(module: Turned) -> float:
    return 1.0 if module.layer.weight.grad is None else -1.0


def by_object(module: Turned) -> float:
    return module.object.sign


def by_calls(module: Turned) -> float:
    module.calls += 1
    return float(module.calls)


def bundle_of(module: nn.Module) -> Bundle:
    module(torch.ones(1, 1, 2, 3)).sum().backward()
    return Bundle.from_classifier(module.eval(), num_classes=3, input_shape=SHAPE)


@pytest.mark.parametrize("read", [by_gradient, by_object])
def test_a_copy_that_answers_otherwise_is_refused(read: Callable[[Turned], float]) -> None:
    with pytest.raises(ArgumentError, match=r"network of its own.*its copy gives other logits"):
        bundle_of(Turned(read))


def test_what_varies_is_left_to_the_trials() -> None:
    """Making a bundle does not blame copying for a counter."""
    bundle = bundle_of(Turned(by_calls))
    with pytest.raises(FileError, match=r"must give a batch the same logits"):
        bundle.build("classifier")


SCALES: dict[int, float] = {}
QUANTIZATION: Any = torch.ao.quantization


class Mixed:
    """A decorator that notes the mode it was entered in, as those of autocasting do."""

    def __call__(self, function: Callable[..., float]) -> Callable[..., float]:
        @functools.wraps(function)
        def within(*arguments: Any) -> float:
            self.before = torch.is_grad_enabled() and False
            return function(*arguments)

        return within


@Mixed()
def decorated(module: Turned) -> float:
    return 2.0


class Abstract(abc.ABC):  # noqa: B024 (it is asked for)
    """Python notes on it which classes are none of its own."""


def by_kind(module: Turned) -> float:
    return 1.0 if isinstance(type("New", (), {})(), Abstract) else 2.0


def by_global(module: Turned) -> float:
    return SCALES.setdefault(3, 2.0)


def steps(module: Turned) -> Turned:
    """Trained, with the optimizer and what plans its rates at hand."""
    optimizer = torch.optim.Adam(module.parameters())
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 3)
    vars(module).update(optimizer=optimizer, schedule=schedule)
    module(torch.ones(1, 1, 2, 3)).sum().backward()
    optimizer.step()
    return module


def observed(module: Turned) -> Turned:
    """With fake quantization, its ranges fixed."""
    module.qconfig = QUANTIZATION.get_default_qat_qconfig("fbgemm")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        QUANTIZATION.prepare_qat(module.train(), inplace=True)
        module(torch.ones(1, 1, 2, 3))
    return module.apply(QUANTIZATION.disable_observer)


def packed(module: Turned) -> nn.Module:
    """Weights in the memory of a library: addresses are no state."""
    layers = nn.Sequential(nn.Flatten(), QUANTIZATION.QuantStub(), module.layer)
    layers.append(QUANTIZATION.DeQuantStub()).eval()
    layers.qconfig = QUANTIZATION.get_default_qconfig("x86")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        QUANTIZATION.prepare(layers, inplace=True)
        layers(torch.rand(4, 1, 2, 3))
        converted: nn.Module = QUANTIZATION.convert(layers)
    return converted


class Redrawn(Turned):
    """Its copies are made anew, weights drawn, before they get its own, and are training."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(-x if self.training else x)

    def train(self, mode: bool = True) -> Any:
        super().train(mode)

    def __deepcopy__(self, memo: Any) -> "Redrawn":
        numbers = torch.get_rng_state()
        made = Redrawn(self.read)
        torch.set_rng_state(numbers)
        del made.object
        nn.init.normal_(made.layer.weight)
        made.load_state_dict(self.state_dict())
        return made


HONEST: dict[str, Callable[[], nn.Module]] = {
    "a cache among globals": lambda: Turned(by_global),
    "notes of an abstract class": lambda: Turned(by_kind),
    "a decorator with notes": lambda: Turned(decorated),
    "an optimizer": lambda: steps(Turned(lambda _: 1.0)),
    "fake quantization": lambda: observed(Turned(lambda _: 1.0)),
    "packed weights": lambda: packed(Turned(lambda _: 1.0)),
    "copies made anew": lambda: Redrawn(lambda _: 1.0),
}


@pytest.mark.parametrize("name", HONEST)
def test_what_users_keep_beside_a_network_is_no_reason_to_refuse_it(name: str) -> None:
    SCALES.clear()
    made = HONEST[name]()
    made.eval()
    for part in made.modules():
        vars(part).pop("object", None)
    bundle = Bundle.from_classifier(made, num_classes=3, input_shape=SHAPE)
    built = bundle.build("classifier")
    x = torch.rand(2, 1, 2, 3)
    with torch.no_grad():
        torch.testing.assert_close(built(x), made(x))
        torch.testing.assert_close(AsItIs(built, torch.float32)(x), made(x))


class Remembers(Turned):
    """Keeps what it needs no more, or masks by the number of rows."""

    def __init__(self, name: str) -> None:
        super().__init__(lambda module: 1.0 if name != "calls" or by_calls(module) else 0.0)
        self.name, self.map, self.masks = name, torch.zeros(1), dict[int, torch.Tensor]()

    @functools.lru_cache  # noqa: B019 (what is tried)
    def mask(self, rows: int) -> torch.Tensor:
        return torch.ones(rows, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.name == "map":
            self.map = x.softmax(-1)
        elif self.name == "masks":
            return super().forward(x) * self.masks.setdefault(len(x), torch.ones(len(x), 1))
        return super().forward(x) * (self.mask(len(x)) if self.name == "Remembers.mask" else 1)


@pytest.mark.parametrize("name", ["calls", "map", "masks", "Remembers.mask"])
def test_what_changes_is_named(name: str) -> None:
    rule = f"other attributes after a pass: {name}.*`if self.training:`.*pop.*in each pass"
    module = Remembers(name).eval()
    with pytest.raises(FileError, match=rule):
        Bundle.from_classifier(module, num_classes=3, input_shape=SHAPE).build("classifier")


def test_no_row_passes_a_network_of_known_code_before_its_digest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(copies, "noisy", lambda *_: pytest.fail("a row passed"))
    plain = nn.Sequential(nn.Flatten(), nn.Linear(6, 3)).eval()
    assert Bundle.from_classifier(plain, num_classes=3, input_shape=SHAPE)


class Attached(nn.Sequential):
    """As Lightning's modules are: copies leave out what a fit attached."""

    trainer: object = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "trainer": None}


def test_what_copies_leave_out_is_named_and_a_copy_passes() -> None:
    module = Attached(nn.Flatten(), nn.Linear(6, 3)).eval()
    module.trainer = [module]
    with pytest.raises(ArgumentError, match=r"leaves out what it holds; certify copy\.deepcopy\("):
        Bundle.from_classifier(module, num_classes=3, input_shape=SHAPE)
    assert Bundle.from_classifier(copy.deepcopy(module), num_classes=3, input_shape=SHAPE)


class Keeps(nn.Module):
    """Has its input at hand for the length of a pass, as hooks do whose values are popped."""

    meeting: threading.Barrier | None = None

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.kept = nn.Linear(6, 3), dict[str, torch.Tensor]()

    def forward(self, x: torch.Tensor) -> Any:
        self.kept["x"] = torch.from_numpy(x.numpy().copy())  # which nothing captures
        if Keeps.meeting is not None:
            Keeps.meeting.wait(9)  # for the other thread
        x = self.kept["x"]
        if Keeps.meeting is not None:
            Keeps.meeting.wait(9)
        self.kept.clear()
        return self.layer(x.flatten(1))


FORMS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "as it is": lambda network: AsItIs(network, torch.float32),
    "fused": lambda network: folded_network(network, torch.float32, (2, 2, 3, 1)),
    "moved": lambda network: OfThreads(network).to(torch.float64).to(torch.float32),
}


@pytest.mark.parametrize("name", FORMS)
def test_threads_do_not_share_what_a_pass_keeps(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = Keeps().eval()
    batches = torch.rand(2, 2, 1, 2, 3)
    with torch.no_grad(), ThreadPoolExecutor(2) as pool:
        wanted = [network(batch) for batch in batches]
        form = FORMS[name](network)
        form(batches[0])
        monkeypatch.setattr(Keeps, "meeting", threading.Barrier(2))
        for found, own in zip(pool.map(torch.no_grad()(form), batches), wanted, strict=True):
            torch.testing.assert_close(found, own)
