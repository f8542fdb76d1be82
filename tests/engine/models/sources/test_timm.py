"""Networks of timm: against the same module in PyTorch, with timm itself where it can be imported.

Without timm a stand-in answers the five calls the loader makes, so the loader is always tested.
"""

import argparse
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from dualsmooth.engine.api import certify
from dualsmooth.engine.budget import Budget
from dualsmooth.engine.cli.images import ImageOptions
from dualsmooth.engine.errors import ArgumentError, FileError
from dualsmooth.engine.methods.fixed import FixedSmoothing
from dualsmooth.engine.models.bundle import Bundle
from dualsmooth.engine.models.normalize import Normalize
from dualsmooth.engine.models.sources.folder import save_bundle
from dualsmooth.engine.models.sources.load import load_bundle
from dualsmooth.engine.models.sources.timm import _check_all_used

NAME, CLASSES = "test_resnet", 3
SETTINGS = SimpleNamespace(
    input_size=(3, 9, 9), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4), classifier="fc",
    num_classes=5, crop_mode="center", crop_pct=0.9, interpolation="bicubic",
    hf_hub_id="timm/test_resnet.r160_in1k", hf_hub_filename=None,
)  # fmt: skip


class Small(nn.Module):
    """Convolution, batch norm, linear layer."""

    def __init__(self, num_classes: int, in_chans: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_chans, 4, 3, stride=2)
        self.bn1 = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.fc(torch.relu(self.bn1(self.conv1(x))).mean((2, 3)))
        return logits


def stand_in() -> ModuleType:
    """The part of timm the loader uses, for one network; a download is an error."""

    def create_model(
        name: str, pretrained: bool = False, num_classes: int = 5, in_chans: int = 3,
        pretrained_cfg_overlay: Mapping[str, Any] | None = None,
    ) -> nn.Module:  # fmt: skip
        assert name.partition(".")[0] == NAME
        network = Small(num_classes, in_chans)
        if pretrained:
            assert pretrained_cfg_overlay is not None, "would download"
            network.load_state_dict(dict(pretrained_cfg_overlay["state_dict"]))
        return network

    def get_pretrained_cfg(name: str, allow_unregistered: bool) -> SimpleNamespace:
        if name not in (NAME, f"{NAME}.r160_in1k"):
            raise RuntimeError(f"Invalid pretrained tag ({name.partition('.')[2]}) for {NAME}.")
        return SETTINGS

    module: Any = ModuleType("timm")
    module.create_model, module.get_pretrained_cfg = create_model, get_pretrained_cfg
    module.is_model = lambda name: name.partition(".")[0] == NAME
    module.list_models = lambda: [NAME]
    module.list_pretrained = lambda pattern: [pattern.replace("*", "r160_in1k")]
    return module  # type: ignore[no-any-return]


@pytest.fixture(params=["stand-in", "real"])
def timm(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    if request.param == "stand-in":
        monkeypatch.setitem(sys.modules, "timm", stand_in())
        monkeypatch.setitem(globals(), "__name__", "timm")  # whose code the networks here are
    else:
        try:
            import_module("timm")
        except Exception as error:  # torchvision of another build raises RuntimeError
            pytest.skip(f"needs timm (extra timm): {str(error).splitlines()[0]}")
    return sys.modules["timm"]


def trained(timm: Any) -> nn.Module:
    """The network with statistics of its own, as if trained for three classes."""
    torch.manual_seed(5)
    network: nn.Module = timm.create_model(NAME, pretrained=False, num_classes=CLASSES)
    _, height, width = timm.get_pretrained_cfg(NAME, allow_unregistered=False).input_size
    with torch.no_grad():
        network.train()(torch.rand(8, 3, height, width))
        network.get_submodule("fc").weight.mul_(20)  # type: ignore[operator]
    return network.eval()


def votes(bundle: Bundle) -> list[list[tuple[int, ...]]]:
    images = np.random.default_rng(2).random((2, *bundle.input_shape)).astype(np.float32)
    certificates = certify(
        FixedSmoothing(bundle, 0.5), images, budget=Budget.fixed(10, 60), device="cpu",
        precision="fp32", threads=1, batch_size=32,
    )  # fmt: skip
    return [[record.votes for record in c.counts] for c in certificates]


def test_it_votes_as_the_module_behind_its_mean_does(timm: Any, tmp_path: Path) -> None:
    network, settings = trained(timm), timm.get_pretrained_cfg(NAME, allow_unregistered=False)
    channels, height, width = settings.input_size
    module = nn.Sequential(Normalize(settings.mean, settings.std), network).eval()
    expected = votes(
        Bundle.from_classifier(module, num_classes=CLASSES, input_shape=(height, width, channels))
    )
    save_file(network.state_dict(), tmp_path / "plain.safetensors")
    bundle = load_bundle(f"timm:{NAME}:{tmp_path / 'plain.safetensors'}")
    assert (bundle.num_classes, bundle.input_shape) == (CLASSES, (height, width, channels))
    assert votes(bundle) == expected
    assert len({v for image in expected for v in image}) > 1
    save_bundle(bundle, tmp_path / "saved")
    again = load_bundle(tmp_path / "saved")
    assert again.digest == bundle.digest
    assert votes(again) == expected


def test_weights_that_want_another_mean_than_others_are_named(
    timm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, settings = tmp_path / "mine.safetensors", timm.get_pretrained_cfg
    network, usual = trained(timm), settings(NAME, allow_unregistered=False)
    save_file(network.state_dict(), path)
    other = SimpleNamespace(**vars(usual) | {"mean": (0.3,) * 3})

    def differing(name: str, *, allow_unregistered: bool) -> Any:
        return usual if name == NAME else other

    monkeypatch.setattr(timm, "get_pretrained_cfg", differing)
    halves: tuple[dict[str, Any], ...] = ({}, {"mean": [0.1]})
    for constants in halves:
        with pytest.raises(ArgumentError, match=r"NAME.TAG, or be given.*whose r160_in1k has mean"):
            load_bundle(f"timm:{NAME}:{path}", **constants)
    kwargs = load_bundle(f"timm:{NAME}:{path}", mean=[0.1], std=[1.0]).networks["classifier"].kwargs
    assert (kwargs["mean"], kwargs["std"]) == ([0.1] * 3, [1.0] * 3)


def test_of_weights_that_want_another_crop_than_others_nothing_is_said(
    timm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless their tag is named, the only one here."""
    save_file(trained(timm).state_dict(), path := tmp_path / "mine.safetensors")
    usual = timm.get_pretrained_cfg(NAME, allow_unregistered=False)
    other = SimpleNamespace(**vars(usual) | {"crop_pct": usual.crop_pct / 2})
    assert load_bundle(f"timm:{NAME}:{path}").preparation is not None
    monkeypatch.setattr(
        timm, "get_pretrained_cfg", lambda name, **_: usual if name == NAME else other
    )
    assert load_bundle(f"timm:{NAME}:{path}").preparation is None
    made = load_bundle(f"timm:{NAME}.r160_in1k:{path}").preparation
    assert made is not None
    with pytest.raises(ArgumentError, match=r"NAME.TAG, where weights of NAME differ"):
        ImageOptions(preprocess="auto").prepare(load_bundle(f"timm:{NAME}:{path}"))


@pytest.mark.parametrize("key", ["", "state_dict", "model", "state_dict_ema"])
def test_checkpoints_of_training_scripts(timm: Any, tmp_path: Path, key: str) -> None:
    state, path = trained(timm).state_dict(), tmp_path / "last.pth.tar"
    save_file(state, tmp_path / "plain.safetensors")
    wrapped = {f"module.{name}": value for name, value in state.items()}
    content = {key: wrapped, "args": argparse.Namespace(lr=0.1), "epoch": 3} if key else state
    if key.endswith("ema"):  # averaged weights go first, as timm reads them
        content["state_dict"] = {name: torch.zeros_like(value) for name, value in state.items()}
    torch.save(content, path)
    expected = load_bundle(f"timm:{NAME}:{tmp_path / 'plain.safetensors'}")
    assert load_bundle(f"timm:{NAME}:{path}").digest == expected.digest


def test_published_weights_come_from_the_cache_only(
    timm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []
    found: dict[str, str] = {}
    hub: Any = ModuleType("huggingface_hub")

    def look_up(repository: str, name: str) -> str | None:
        asked.append((repository, name))
        return found.get(name)

    hub.try_to_load_from_cache = look_up
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    with pytest.raises(ArgumentError, match=r"must have its weights on this machine.*:FILE"):
        load_bundle(f"timm:{NAME}")
    repository = timm.get_pretrained_cfg(NAME, allow_unregistered=False).hf_hub_id
    assert asked == [(repository, "model.safetensors"), (repository, "pytorch_model.bin")]
    save_file(trained(timm).state_dict(), tmp_path / "model.safetensors")
    found["model.safetensors"] = str(tmp_path / "model.safetensors")
    assert load_bundle(f"timm:{NAME}").digest == load_bundle(
        f"timm:{NAME}:{tmp_path / 'model.safetensors'}").digest  # fmt: skip


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("timm:test_resnett", "must name a network of timm; received test_resnett"),
        ("timm:hf-hub:timm/resnet18", "must name a network of timm"),
        ("timm:", "must name a network of timm"),
        ("timm:test_resnet.unknown", r"must name weights timm knows; .*Invalid pretrained tag"),
    ],
)
def test_names_that_timm_does_not_have(timm: Any, source: str, message: str) -> None:
    with pytest.raises(ArgumentError, match=message) as caught:
        load_bundle(source)
    assert "\n" not in str(caught.value)


def test_a_bundle_folder_cannot_make_timm_fetch(timm: Any, tmp_path: Path) -> None:
    path = tmp_path / "plain.safetensors"
    save_file(trained(timm).state_dict(), path)
    save_bundle(load_bundle(f"timm:{NAME}:{path}"), tmp_path / "saved")
    index = tmp_path / "saved" / "bundle.json"
    index.write_text(index.read_text().replace(f'"{NAME}"', '"hf-hub:someone/something"'))
    with pytest.raises(FileError, match="must name a network of timm"):
        load_bundle(tmp_path / "saved").build("classifier")


def test_files_that_do_not_fit(timm: Any, tmp_path: Path) -> None:
    state, path = trained(timm).state_dict(), tmp_path / "bad.safetensors"

    def refused(message: str, source: Path = path) -> None:
        with pytest.raises(FileError, match=message) as caught:
            load_bundle(f"timm:{NAME}:{source}")
        assert str(source) in str(caught.value)
        assert "\n" not in str(caught.value)

    save_file({name: value for name, value in state.items() if name != "fc.bias"}, path)
    refused("must hold the tensors of timm's test_resnet; received .*fc.bias")
    save_file(state | {"more": torch.zeros(1)}, path)
    refused("must hold the tensors of timm's test_resnet; received .*more")
    path.write_bytes(b"nothing")
    refused("must be a safetensors file")
    refused("must be readable", tmp_path / "absent.safetensors")
    other = tmp_path / "bad.pth"
    torch.save({"state_dict": [1]}, other)
    refused("must hold tensors by name", other)
    other.write_bytes(b"nothing")
    refused("must be a torch checkpoint of plain tensors", other)


def test_without_timm_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ArgumentError, match=r"needs timm for timm:NAME.*'timm>="):
        load_bundle("timm:resnet18:weights.pth")


def test_tensors_are_used_or_refused_by_name(timm: Any, tmp_path: Path) -> None:
    state, path = trained(timm).state_dict(), tmp_path / "last.pth.tar"
    wrapped = {f"module.{name}": value for name, value in state.items()}
    nan, double = torch.full_like(state["fc.bias"], torch.nan), state["fc.bias"].to(torch.complex64)
    for content, rule in (
        (state | wrapped, r"must hold one network; received conv1\S*.weight twice"),
        (state | {"fc.bias": nan}, "tensor fc.bias must be finite in float32"),
        (state | {"fc.bias": double}, "tensor fc.bias must be one dense float32 tensor"),
        (state | {"0.means": torch.ones(3)}, "must hold the tensors of timm's"),
    ):
        torch.save(content, path)
        with pytest.raises(FileError, match=rule):
            load_bundle(f"timm:{NAME}:{path}")
    first = next(iter(state))
    renamed = {"head.bias": state["fc.bias"], first: state[first]}
    _check_all_used(path, renamed, state)
    for other in (state["fc.bias"][:-1], state["fc.bias"] + 1):
        with pytest.raises(FileError, match="no tensor that timm drops or changes; received head"):
            _check_all_used(path, renamed | {"head.bias": other}, state)
