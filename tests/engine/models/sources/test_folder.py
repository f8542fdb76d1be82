import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load, save
from torch import nn

from dualsmooth.engine.errors import ArgumentError, FileError
from dualsmooth.engine.models.bundle import Bundle
from dualsmooth.engine.models.network import network_from_module
from dualsmooth.engine.models.registry import create
from dualsmooth.engine.models.sources.folder import save_bundle
from dualsmooth.engine.models.sources.load import load_bundle

KWARGS = {"image_size": (8, 8), "widths": (2, 3), "hidden": 4}
SELECTOR = "selector.safetensors"


def made() -> Bundle:
    networks = {}
    for seed, (role, outputs) in enumerate((("selector", 2), ("classifier", 5))):
        torch.manual_seed(seed)
        kwargs = {**KWARGS, "num_classes": outputs}
        module = create("small_convnet", kwargs).eval()
        networks[role] = network_from_module(module, "small_convnet", kwargs)
    return Bundle("made", (8, 8, 1), 5, (0.25, 0.5), 0.5, networks)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_bundle(made(), tmp_path / "bundle")
    return tmp_path / "bundle"


def test_round_trip(folder: Path) -> None:
    loaded, original = load_bundle(folder), made()
    assert loaded.digest == original.digest
    assert (loaded.name, loaded.input_shape, loaded.num_classes) == ("made", (8, 8, 1), 5)
    assert (loaded.sigmas, loaded.tau) == ((0.25, 0.5), 0.5)
    x = torch.rand(3, 1, 8, 8)
    for role in ("selector", "classifier"):
        built = loaded.build(role)
        assert torch.equal(built(x), original.build(role)(x))
        assert not built.training
        assert all(p.dtype == torch.float32 for p in built.parameters())


def test_saving_a_loaded_bundle_keeps_every_byte(folder: Path, tmp_path: Path) -> None:
    save_bundle(load_bundle(folder), tmp_path / "again")
    for path in folder.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()
    digest = json.loads((folder / "bundle.json").read_text())["networks"]["selector"]["sha256"]
    assert digest == hashlib.sha256((folder / SELECTOR).read_bytes()).hexdigest()


def test_statistics_of_batch_norm_are_kept() -> None:
    module = create("small_convnet", KWARGS)
    module.train()(torch.rand(64, 1, 8, 8))
    module.eval()
    network = network_from_module(module, "small_convnet", KWARGS)
    x = torch.rand(3, 1, 8, 8)
    assert torch.equal(network.build()(x), module(x))


def test_building_leaves_the_random_state_alone(folder: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    load_bundle(folder).build("classifier")
    assert torch.equal(torch.rand(2), expected)


def test_saving_is_all_or_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FileError, match="must not exist yet"):
        save_bundle(made(), folder)

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(FileError, match="No space left"):
        save_bundle(made(), tmp_path / "other")
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_only_registered_architectures_can_be_saved(tmp_path: Path) -> None:
    plain = nn.Sequential(nn.Flatten(), nn.Linear(64, 5)).eval()
    bundle = Bundle.from_classifier(plain, num_classes=5, input_shape=(8, 8, 1))
    with pytest.raises(ArgumentError, match=r"registered architecture.*Sequential"):
        save_bundle(bundle, tmp_path / "other")
    with pytest.raises(ArgumentError, match="must be what small_convnet builds"):
        network_from_module(plain, "small_convnet", KWARGS)
    assert not list(tmp_path.iterdir())


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    index = folder / "bundle.json"
    fields = json.loads(index.read_text())
    change(fields)
    index.write_text(json.dumps(fields))


def selector(fields: dict[str, Any]) -> dict[str, Any]:
    entry: dict[str, Any] = fields["networks"]["selector"]
    return entry


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda f: f.update(format="zip"), "format dualsmooth-bundle"),
        (lambda f: f.update(version=2), "version 1; received 2"),
        (lambda f: f.pop("tau"), "Index must have its fields and no others: "),
        (lambda f: f.update(extra=1), "Index must have its fields and no others: "),
        (lambda f: f.update(num_classes="5"), "num_classes must be int"),
        (lambda f: f.update(num_classes=True), "num_classes must be int"),
        (lambda f: f.update(input_shape=[8, 8]), "input_shape"),
        (lambda f: f.update(input_range=[-1, 1]), r"input_range must be \[0, 1\]"),
        (lambda f: f.update(sigmas=[0.5, 0.25]), "ascending"),
        (lambda f: f.update(sigmas=["a", None]), "must describe a bundle"),
        (lambda f: f.update(sigmas=[0.1, 10**400]), "must describe a bundle"),
        (lambda f: f.update(sigmas=["0.25", "0.5"]), "sigmas must be float"),
        (lambda f: f.update(sigmas=[True, 2]), "sigmas must be float"),
        (lambda f: f.update(sigmas=[[0.25], 0.5]), "sigmas must be float"),
        (lambda f: f.update(name="a\nb"), "name must be at most 100 letters"),
        (lambda f: f.update(name="\x1b[2J"), "name must be at most 100 letters"),
        (lambda f: f.update(name="a\u202eb"), "name must be at most 100 letters"),
        (lambda f: f.update(name="<script>"), "name must be at most 100 letters"),
        (lambda f: f.update(name="/.."), "name must be at most 100 letters"),
        (lambda f: f.update(tau=-1), "tau"),
        (lambda f: f.update(tau=float("nan")), "NaN is not JSON"),
        (lambda f: f["networks"].update(other=f["networks"]["selector"]), "role"),
        (lambda f: f["networks"].update(selector=[]), "Network must be an object"),
        (lambda f: selector(f).pop("sha256"), "Network must have its fields and no others: sha256"),
        (lambda f: selector(f).update(weights=3), "weights must be str"),
    ],
)
def test_bad_index(folder: Path, change: Callable[[dict[str, Any]], object], rule: str) -> None:
    edit(folder, change)
    with pytest.raises(FileError, match=rule) as error:
        load_bundle(folder)
    assert str(folder / "bundle.json") in str(error.value)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b'{"format": "dualsmooth-bundle", "version": 1, "version": 2}',
        b"\xff\xfe",
        b"[" * 100_000,
        b" " * (1 << 20) + b"{}",
    ],
)
def test_index_that_is_no_index(folder: Path, data: bytes) -> None:
    (folder / "bundle.json").write_bytes(data)
    with pytest.raises(FileError, match=r"bundle\.json: must"):
        load_bundle(folder)


def test_missing_files(folder: Path) -> None:
    (folder / SELECTOR).unlink()
    with pytest.raises(FileError, match=rf"{SELECTOR}: must be readable"):
        load_bundle(folder)
    (folder / "bundle.json").unlink()
    for name, hint in (
        ("deployment", "OnnxCertifier reads it"),
        ("run", "it is a run"),
        ("config", "hf:"),
    ):
        (folder / f"{name}.json").write_text("{}")
        with pytest.raises(FileError, match=hint):
            load_bundle(folder)
        (folder / f"{name}.json").unlink()
    with pytest.raises(FileError, match="must be a bundle folder; received one without"):
        load_bundle(folder)


@pytest.mark.parametrize(
    "name",
    [
        "../selector.safetensors",
        "/etc/passwd.safetensors",
        "..",
        "",
        "a/b.safetensors",
        "a\\b.safetensors",
        "a\0.safetensors",
        "a\nb.safetensors",
        "\x1b[2J.safetensors",
        "bundle.json",
    ],
)
def test_weights_stay_in_the_folder(folder: Path, name: str) -> None:
    (folder.parent / SELECTOR).write_bytes((folder / SELECTOR).read_bytes())
    edit(folder, lambda fields: selector(fields).update(weights=name))
    with pytest.raises(FileError, match=r"plain .*safetensors file name|plain names in the folder"):
        load_bundle(folder)


def test_links_out_of_the_folder_are_refused(folder: Path) -> None:
    (folder / SELECTOR).rename(folder.parent / "outside.safetensors")
    (folder / SELECTOR).symlink_to(folder.parent / "outside.safetensors")
    with pytest.raises(FileError, match=rf"{SELECTOR}: must be a plain file"):
        load_bundle(folder)
    folder.with_name("linked").symlink_to(folder)  # the folder itself may be one
    (folder / SELECTOR).unlink()
    (folder.parent / "outside.safetensors").rename(folder / SELECTOR)
    load_bundle(folder.with_name("linked"))


def test_tampered_weights(folder: Path) -> None:
    path = folder / SELECTOR
    good = path.read_bytes()
    flipped = bytearray(good)
    flipped[-1] ^= 1
    path.write_bytes(flipped)
    with pytest.raises(FileError, match=rf"{SELECTOR}: must have the SHA-256"):
        load_bundle(folder)
    path.write_bytes(good[:-1])
    with pytest.raises(FileError, match=rf"{SELECTOR}: must have {len(good)} bytes"):
        load_bundle(folder)
    path.write_bytes(good)
    edit(folder, lambda fields: selector(fields).update(sha256="0" * 64))
    with pytest.raises(FileError, match="must have the SHA-256"):
        load_bundle(folder)


def rewrite(folder: Path, data: bytes) -> None:
    """Replace the selector's file and state its true size and digest."""
    (folder / SELECTOR).write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    edit(folder, lambda fields: selector(fields).update(bytes=len(data), sha256=digest))


def with_tensors(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    tensors = load((folder / SELECTOR).read_bytes())
    change(tensors)
    rewrite(folder, save(tensors))


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda t: t.pop("head.1.weight"), "missing head.1.weight"),
        (lambda t: t.update(extra=np.zeros(1, np.float32)), "no other tensors; received extra"),
        (lambda t: t.update({"head.1.bias": np.zeros(3, np.float32)}), r"shape \(4,\)"),
        (lambda t: t.update({"head.1.bias": np.zeros(4, np.float64)}), "must be float32"),
        (lambda t: t["head.1.bias"].fill(np.nan), "tensor head.1.bias must be finite"),
        (lambda t: t["head.1.weight"].fill(np.inf), "tensor head.1.weight must be finite"),
    ],
)
def test_tensors_that_do_not_fit(
    folder: Path, change: Callable[[dict[str, Any]], object], rule: str
) -> None:
    with_tensors(folder, change)
    bundle = load_bundle(folder)
    with pytest.raises(FileError, match=rule) as error:
        bundle.build("selector")
    assert str(folder / SELECTOR) in str(error.value)
    bundle.build("classifier")


def test_a_file_that_is_not_safetensors(folder: Path) -> None:
    for data in (b"", b"\xff" * 64, pickle_of_nothing()):
        rewrite(folder, data)
        with pytest.raises(FileError, match=rf"{SELECTOR}: must be a safetensors file"):
            load_bundle(folder).build("selector")


def pickle_of_nothing() -> bytes:
    return b"\x80\x04]."


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"architecture": "resnet9000"}, "resnet9000"),
        ({"kwargs": {"wide": 3}}, "wide"),
        ({"kwargs": {**KWARGS, "num_classes": 2, "hidden": 9}}, r"shape \(9,\)"),
        ({"kwargs": {**KWARGS, "num_classes": 2, "hidden": 10**14}}, "must have shape"),
        ({"kwargs": {**KWARGS, "num_classes": 2, "widths": [10**6] * 2}}, "must have shape"),
        ({"kwargs": {**KWARGS, "num_classes": 2, "hidden": 10**20}}, "must fit an architecture"),
        ({"kwargs": {**KWARGS, "num_classes": 2, "hidden": -1}}, "hidden"),
        ({"architecture": "resnet18", "kwargs": {"depth": 7}}, "must fit resnet18"),
        ({"architecture": "resnet18", "kwargs": {"depth": 152}}, "must fit resnet18"),
    ],
)
def test_architectures_that_do_not_fit(folder: Path, change: dict[str, Any], rule: str) -> None:
    edit(folder, lambda fields: selector(fields).update(change))
    with pytest.raises(FileError, match=rule) as error:
        load_bundle(folder).build("selector")
    assert str(folder / SELECTOR) in str(error.value)
