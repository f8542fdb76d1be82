"""What is certified is a copy of a module: it answers as the module does, or is refused."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from dualsmooth.engine.errors import ArgumentError, FileError
from dualsmooth.engine.models.bundle import Bundle

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
