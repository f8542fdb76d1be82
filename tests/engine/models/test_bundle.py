import pickle
from typing import Any

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from dualsmooth.engine.errors import ArgumentError, FileError
from dualsmooth.engine.models.bundle import Bundle
from dualsmooth.engine.models.network import network_from_module
from dualsmooth.engine.models.sources.load import load_bundle

SHAPE = (4, 3, 1)


def linear(outputs: int, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, outputs)).eval()


def bundle(**changes: object) -> Bundle:
    fields: dict[str, object] = {
        "name": "b",
        "input_shape": SHAPE,
        "num_classes": 5,
        "sigmas": (0.25, 0.5),
        "tau": 0.5,
        "networks": {
            "selector": network_from_module(linear(2)),
            "classifier": network_from_module(linear(5)),
        },
    }
    return Bundle(**{**fields, **changes})  # type: ignore[arg-type]


def test_roles_and_outputs() -> None:
    modules = {"selector": linear(2), "classifier": linear(5), "classifier@0.5": linear(5, 1)}
    made = Bundle.from_modules(
        modules, num_classes=5, input_shape=SHAPE, sigmas=(0.25, 0.5), tau=0.5
    )
    assert made.classifier_at(0.25) == "classifier"
    assert made.classifier_at(0.5) == "classifier@0.5"
    assert made.classifier_at(0.7) == "classifier"
    assert [made.outputs(role) for role in modules] == [2, 5, 5]
    x = torch.rand(3, 1, 4, 3)
    for role, module in modules.items():
        built = made.build(role)
        assert torch.equal(built(x), module(x))
        assert not built.training


def test_levels_that_are_whole_numbers_have_the_digest_of_their_folder() -> None:
    whole, same = bundle(sigmas=(1, 2), tau=1), bundle(sigmas=[1.0, 2.0], tau=1.0)
    assert whole.manifest["networks"] == same.manifest["networks"]
    assert (whole.digest, repr(whole.sigmas), repr(whole.tau)) == (same.digest, "(1.0, 2.0)", "1.0")


def test_experts_only() -> None:
    made = Bundle.from_modules(
        {"classifier@0.25": linear(5), "classifier@1": linear(5)},
        num_classes=5,
        input_shape=SHAPE,
        sigmas=(0.25, 1.0),
    )
    assert made.classifier_at(1.0) == "classifier@1"
    with pytest.raises(ArgumentError, match=r"available: 0.25, 1.0"):
        made.classifier_at(0.5)
    with pytest.raises(ArgumentError, match=r"must be one of classifier@0.25, classifier@1"):
        made.build("selector")
    with pytest.raises(ArgumentError, match="role"):
        made.outputs("classifier")


def test_one_classifier() -> None:
    made = Bundle.from_classifier(linear(5), num_classes=5, input_shape=SHAPE)
    assert made.classifier_at(0.123) == "classifier"
    assert made.tau is None


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"sigmas": (0.5, 0.25)}, "ascending"),
        ({"sigmas": (0.5, 0.5)}, "ascending"),
        ({"sigmas": (0.0, 0.5)}, "> 0"),
        ({"sigmas": (0.5, float("inf"))}, "finite"),
        ({"sigmas": (float("nan"), 0.5)}, "finite"),
        ({"sigmas": ()}, "not be empty beside a selector"),
        ({"tau": None}, "tau"),
        ({"tau": float("nan")}, "tau"),
        ({"tau": 0.0}, "tau"),
        ({"networks": {}}, "at least one network"),
        ({"networks": {"classifier": network_from_module(linear(5))}}, "None without a selector"),
        ({"networks": {"classifier@0.3": network_from_module(linear(5))}, "tau": None}, "role"),
        ({"networks": {"classifier@0.50": network_from_module(linear(5))}, "tau": None}, "role"),
        ({"networks": {"../x": network_from_module(linear(5))}, "tau": None}, "role"),
        ({"num_classes": 0}, "num_classes"),
        ({"input_shape": (4, 3)}, "input_shape"),
        ({"input_shape": (4, 0, 1)}, "input_shape"),
    ],
)
def test_bad_fields(changes: dict[str, object], rule: str) -> None:
    bundle()
    with pytest.raises(ArgumentError, match=rule):
        bundle(**changes)


def test_digest_changes_with_everything_that_matters() -> None:
    class Other(nn.Sequential):
        pass

    class Shifted(nn.Module):
        shift: torch.Tensor

        def __init__(self, shift: float) -> None:
            super().__init__()
            self.register_buffer("shift", torch.tensor(shift), persistent=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1)[:, :5] + self.shift

    networks = bundle().networks
    variants = [
        bundle(),
        bundle(tau=1.0),
        bundle(sigmas=(0.25, 0.75)),
        bundle(num_classes=6),
        bundle(input_shape=(3, 4, 1)),
        bundle(networks={**networks, "classifier": network_from_module(linear(5, 1))}),
        bundle(networks={**networks, "classifier@0.5": networks["classifier"]}),
        bundle(
            networks={
                **networks,
                "classifier": network_from_module(Other(*linear(5).children()).eval()),
            }
        ),
        bundle(networks={**networks, "classifier": network_from_module(Shifted(0.0).eval())}),
        bundle(networks={**networks, "classifier": network_from_module(Shifted(1.0).eval())}),
    ]
    conv = [nn.Conv2d(1, 5, 3, stride=stride).eval() for stride in (1, 2)]
    conv[1].load_state_dict(conv[0].state_dict())
    variants += [
        bundle(networks={**networks, "classifier": network_from_module(net)}) for net in conv
    ]
    digests = {variant.digest for variant in variants}
    assert len(digests) == len(variants)
    assert bundle(name="another name").digest == bundle().digest
    assert all(len(digest) == 64 for digest in digests)


def test_built_networks_are_copies() -> None:
    made = bundle()
    x = torch.rand(2, 1, 4, 3)
    first = made.build("classifier")
    expected = first(x)
    for parameter in first.parameters():
        nn.init.zeros_(parameter)
    assert not torch.equal(first(x), expected)
    assert torch.equal(made.build("classifier")(x), expected)


def test_training_mode_is_refused() -> None:
    with pytest.raises(ArgumentError, match="eval mode"):
        Bundle.from_classifier(nn.Flatten().train(), num_classes=5, input_shape=SHAPE)


def test_wrong_number_of_logits() -> None:
    made = Bundle.from_classifier(linear(4), num_classes=5, input_shape=SHAPE)
    with pytest.raises(FileError, match=r"to 5 logits, a tensor; received \(1, 4\)"):
        made.build("classifier")
    made = Bundle.from_classifier(linear(5), num_classes=5, input_shape=(5, 5, 1))
    with pytest.raises(FileError, match=r"classifier must map images \(5, 5, 1\)"):
        made.build("classifier")


class Centered(nn.Module):
    """A classifier that subtracts the mean of its batch, as batch norm does in training."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share, self.head = share, linear(5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(x - self.share * x.mean(0))
        return logits


def test_a_network_that_reads_its_batch_mates_has_no_votes_of_its_own() -> None:
    made = Bundle.from_classifier(Centered(0.0).eval(), num_classes=5, input_shape=SHAPE)
    made.build("classifier")
    made = Bundle.from_classifier(Centered(0.01).eval(), num_classes=5, input_shape=SHAPE)
    with pytest.raises(FileError, match="same logits whatever else is in the batch"):
        made.build("classifier")


def test_a_bundle_travels_to_another_process() -> None:
    made = bundle()
    copied = pickle.loads(pickle.dumps(made))
    assert copied.digest == made.digest
    x = torch.rand(2, 1, 4, 3)
    assert torch.equal(copied.build("classifier")(x), made.build("classifier")(x))


@pytest.mark.parametrize("name", ["dtype", "device"])
def test_other_defaults_of_pytorch_are_named(name: str) -> None:
    made = bundle()
    try:
        torch.set_default_dtype(torch.float64 if name == "dtype" else torch.float32)
        torch.set_default_device("meta" if name == "device" else None)
        for loaded in (load_bundle("digits-dual"), made):
            with pytest.raises(ArgumentError, match=f"torch's default {name} must be") as error:
                loaded.build("selector")
            assert f"(torch.set_default_{name}(" in str(error.value)
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)


def test_a_network_is_not_built_in_other_precision_than_it_says() -> None:
    with torch.autocast("cpu"), pytest.raises(ArgumentError, match=r"torch\.autocast must be off"):
        bundle().build("selector")


class Turned(TorchFunctionMode):
    """Others' code around every call of PyTorch's, in this thread alone."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        return -found if func is torch.nn.functional.linear else found


def test_a_network_is_not_built_where_others_change_what_operators_do() -> None:
    with Turned(), pytest.raises(ArgumentError, match=r"torch's mode must be .* received Turned"):
        load_bundle("digits-dual").build("selector")
    with torch.device("cpu"), torch.inference_mode():
        load_bundle("digits-dual").build("selector")


def test_unknown_source() -> None:
    with pytest.raises(ArgumentError, match="bundled") as error:
        load_bundle("no-such-bundle")
    assert "no-such-bundle" in str(error.value)
