import os
from pathlib import Path

import pytest
import torch
from torch import nn

from dualsmooth.engine.errors import FileError
from dualsmooth.engine.models.registry import create
from dualsmooth.engine.models.sources.folder import save_bundle
from dualsmooth.engine.models.sources.load import load_bundle


def trained() -> nn.Module:
    """A network whose batch statistics are not the defaults."""
    torch.manual_seed(0)
    network = create("cifar_resnet20", {"num_classes": 7})
    network.train()(torch.rand(4, 3, 32, 32))
    return network.eval()


def checkpoint(path: Path, prefix: str = "1.", **changes: object) -> Path:
    state = {prefix + name: value for name, value in trained().state_dict().items()}
    content = {"epoch": 90, "arch": "cifar_resnet20", "state_dict": state, "optimizer": {}}
    torch.save({**content, **changes}, path)
    return path


@pytest.mark.parametrize("prefix", ["", "1.", "module.", "1.module.", "module.1."])
def test_prefixes(tmp_path: Path, prefix: str) -> None:
    bundle = load_bundle(checkpoint(tmp_path / "checkpoint.pth.tar", prefix))
    assert (bundle.num_classes, bundle.input_shape, bundle.sigmas) == (7, (32, 32, 3), ())
    x = torch.rand(2, 3, 32, 32)
    built = bundle.build(bundle.classifier_at(0.25))
    assert torch.equal(built(x), trained()(x))


def test_normalizing_layer_is_dropped(tmp_path: Path) -> None:
    state = {"0.means": torch.zeros(3), "module.0.sds": torch.ones(3)}
    state |= {f"1.{name}": value for name, value in trained().state_dict().items()}
    path = checkpoint(tmp_path / "a.pth", state_dict=state)
    assert load_bundle(path).digest == load_bundle(checkpoint(tmp_path / "b.pt")).digest


def test_old_file_format(tmp_path: Path) -> None:
    """The published checkpoints are older than torch's zip format."""
    path = tmp_path / "checkpoint.pth.tar"
    state = {f"1.{name}": value for name, value in trained().state_dict().items()}
    content = {"arch": "cifar_resnet20", "state_dict": state}
    torch.save(content, path, _use_new_zipfile_serialization=False)
    load_bundle(path).build("classifier")


def test_a_checkpoint_becomes_a_bundle_folder(tmp_path: Path) -> None:
    bundle = load_bundle(checkpoint(tmp_path / "checkpoint.pth.tar"))
    save_bundle(bundle, tmp_path / "bundle")
    assert load_bundle(tmp_path / "bundle").digest == bundle.digest


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"arch": "resnet50"}, "arch must be a known architecture; received 'resnet50'"),
        ({"arch": None}, "known architecture"),
        ({"arch": "cifar_resnet110"}, "missing"),
        ({"state_dict": [1]}, "state_dict must be a mapping"),
        ({"state_dict": {}}, r"fc\.bias"),
        ({"state_dict": {"1.fc.bias": torch.zeros(7)}}, "missing"),
        ({"state_dict": {"1.fc.bias": torch.zeros(7).half()}}, "float32"),
        ({"state_dict": {"1.fc.bias": 3}}, "float32"),
        ({"state_dict": {"1.a": torch.zeros(1), "module.a": torch.zeros(1)}}, "one float32"),
    ],
)
def test_bad_checkpoints(tmp_path: Path, changes: dict[str, object], rule: str) -> None:
    path = checkpoint(tmp_path / "bad.pth.tar", "1.", **changes)
    with pytest.raises(FileError, match=rule) as error:
        load_bundle(path)
    assert "bad.pth.tar" in str(error.value)


def test_damaged_checkpoints(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "bad.pth.tar")
    whole = path.read_bytes()
    for data in (b"", b"not a checkpoint", whole[: len(whole) // 2]):
        path.write_bytes(data)
        with pytest.raises(FileError, match=r"bad\.pth\.tar: must be a torch checkpoint"):
            load_bundle(path)
    torch.save([1, 2], path)
    with pytest.raises(FileError, match="must be a mapping"):
        load_bundle(path)
    with pytest.raises(FileError, match=r"absent\.pth"):
        load_bundle(tmp_path / "absent.pth")


class Attack:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (self.command,)


def test_code_in_a_checkpoint_never_runs(tmp_path: Path) -> None:
    proof = tmp_path / "ran"
    path = checkpoint(tmp_path / "bad.pth.tar", epoch=Attack(f"touch {proof}"))
    with pytest.raises(FileError, match="plain tensors"):
        load_bundle(path)
    assert not proof.exists()
    torch.load(path, weights_only=False)
    assert proof.exists()  # so the attack is a real one
