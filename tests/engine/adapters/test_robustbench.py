"""RobustBench's `load_model`, by a stand-in with its signature: its weights cannot be fetched here.

Where the package can be imported, its real signature is compared with the one the bridge calls.
"""

import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dualsmooth.engine.adapters.robustbench import load_model
from dualsmooth.engine.api import certify
from dualsmooth.engine.budget import Budget
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.methods.fixed import FixedSmoothing
from dualsmooth.engine.models.bundle import Bundle


def network(classes: int) -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.LazyLinear(classes))


class Zoo:
    """Answers as RobustBench does and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[object, ...]] = []

    def load_model(
        self, model_name: str, model_dir: object = "./models", dataset: str = "cifar10",
        threat_model: str = "Linf", custom_checkpoint: str = "", norm: str | None = None,
    ) -> nn.Module:  # fmt: skip
        self.asked.append((model_name, model_dir, dataset, threat_model))
        if threat_model not in ("L2", "Linf"):
            raise ValueError(f"{threat_model!r} is not a valid ThreatModel")
        if model_name != "Standard":
            raise KeyError(model_name)
        made = network({"cifar10": 10, "cifar100": 100}[dataset])
        made(torch.zeros(1, 3, 32, 32))
        return made.train()


@pytest.fixture
def zoo(monkeypatch: pytest.MonkeyPatch) -> Zoo:
    package: Any = ModuleType("robustbench")
    package.utils = ModuleType("robustbench.utils")
    found = Zoo()
    package.utils.load_model = found.load_model
    monkeypatch.setitem(sys.modules, "robustbench", package)
    monkeypatch.setitem(sys.modules, "robustbench.utils", package.utils)
    return found


def test_it_votes_as_the_network_does(zoo: Zoo) -> None:
    images = np.random.default_rng(1).random((3, 32, 32, 3)).astype(np.float32)
    module = network(10)
    module(torch.zeros(1, 3, 32, 32))
    bundles = [
        load_model("Standard"),
        Bundle.from_classifier(module.eval(), num_classes=10, input_shape=(32, 32, 3)),
    ]
    ours, expected = (
        [[record.votes for record in c.counts]
         for c in certify(FixedSmoothing(bundle, 0.5), images, budget=Budget.fixed(20, 300),
                          device="cpu", precision="fp32", threads=1)]
        for bundle in bundles
    )  # fmt: skip
    assert ours == expected
    assert bundles[0].digest == bundles[1].digest
    assert zoo.asked == [("Standard", Path("models"), "cifar10", "L2")]


def test_arguments_arrive_and_fix_the_shape(zoo: Zoo, tmp_path: Path) -> None:
    bundle = load_model("Standard", tmp_path, "cifar100", "Linf")
    assert (bundle.num_classes, bundle.input_shape) == (100, (32, 32, 3))
    assert zoo.asked == [("Standard", tmp_path, "cifar100", "Linf")]


def test_what_it_does_not_have(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ArgumentError, match="model_name must be a model of RobustBench for cifar"):
        load_model("Absent")
    with pytest.raises(ArgumentError, match="'L1' is not a valid"):
        load_model("Standard", threat_model="L1")
    with pytest.raises(ArgumentError, match="dataset must be one of cifar10, cifar100, imagenet"):
        load_model("Standard", dataset="mnist")
    monkeypatch.setitem(sys.modules, "robustbench.utils", None)
    with pytest.raises(ArgumentError, match=r"robustbench must be installed.*pip install"):
        load_model("Standard")


def test_the_stand_in_has_robustbench_s_signature() -> None:
    try:
        from robustbench.utils import load_model as theirs
    except Exception as error:  # torchvision of another build raises RuntimeError
        pytest.skip(f"needs robustbench: {str(error).splitlines()[0]}")
    named = list(inspect.signature(theirs).parameters)
    assert named == list(inspect.signature(Zoo().load_model).parameters)


class Silent(nn.Sequential):
    """As users write it: a `train` that returns nothing."""

    def train(self, mode: bool = True) -> Any:
        super().train(mode)


def test_what_a_zoo_does_is_taken_or_told_in_one_line(zoo: Zoo) -> None:
    def load(model_name: str, *others: object) -> nn.Module:
        if model_name == "Offline":
            raise OSError("no route to host\nafter 3 tries")
        if model_name == "Damaged":
            raise RuntimeError("size mismatch for weight")
        module = Silent(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(48, 10))
        module.train()
        return module

    sys.modules["robustbench.utils"].load_model = load  # type: ignore[attr-defined]
    assert not load_model("Silent").build("classifier").training
    for name in ("Offline", "Damaged"):
        with pytest.raises(ArgumentError, match=f"^model_name .*received {name}") as refused:
            load_model(name)
        assert "\n" not in str(refused.value)
