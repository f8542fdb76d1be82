"""Deployment folders: complete, checked, and all or nothing."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from dualsmooth.engine.errors import ArgumentError, DualSmoothError, FileError
from dualsmooth.engine.models.bundle import Bundle
from dualsmooth.export import write
from dualsmooth.export.certifier import OnnxCertifier
from dualsmooth.export.deployment import Terms, file_digest, read_deployment
from dualsmooth.export.networks import network_model
from dualsmooth.export.write import batch_of, export_bundle

SHAPE = (4, 4, 1)


class Flat(nn.Module):
    """Logits from a matrix, through whatever a subclass does to them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(x.flatten(1))
        return self.change(logits)

    def change(self, logits: torch.Tensor) -> torch.Tensor:
        return logits


SLIGHT = 1e-5
"""Share of batch mates in a row's logits: rounding to `Bundle.build`, another bit to the export."""


class Centered(Flat):
    def change(self, logits: torch.Tensor) -> torch.Tensor:
        return logits - SLIGHT * logits.mean()


class Scaled(Flat):
    """One scale for the batch, as dynamic quantisation takes it: no order of rows changes it."""

    def change(self, logits: torch.Tensor) -> torch.Tensor:
        return logits * (1 + SLIGHT * logits.abs().max())


class Unsupported(Flat):
    def change(self, logits: torch.Tensor) -> torch.Tensor:
        shift: torch.Tensor = torch.linalg.eigvals(logits @ logits.T).real.sum()
        return logits + 0 * shift


def bundle_of(module: nn.Module) -> Bundle:
    return Bundle.from_classifier(module.eval(), num_classes=3, input_shape=SHAPE)


def test_the_folder_is_complete_and_names_what_is_certified(
    deployed: Path, wavering: Bundle
) -> None:
    roles = ("classifier", "selector")
    names = {f"{role}{kind}.onnx" for role in roles for kind in ("", ".votes")}
    assert {path.name for path in deployed.iterdir()} == names | {"dual.onnx", "deployment.json"}
    fields = json.loads((deployed / "deployment.json").read_text())
    assert fields["bundle_digest"] == wavering.digest
    assert (fields["opset"], fields["ir_version"], fields["onnxruntime"]) == (18, 10, ">=1.21")
    assert fields["input"]["shape"] == [8, 8, 1]
    assert fields["certificate"]["n"] == 150
    for name, entry in fields["files"].items():
        assert entry["sha256"] == file_digest(deployed / name)
        model = onnx.load(deployed / name)
        onnx.checker.check_model(model, full_check=True)
        assert (model.ir_version, [entry.version for entry in model.opset_import]) == (10, [18])
        assert str(Path(write.__file__).parents[1]).encode() not in model.SerializeToString()
        assert b"site-packages" not in model.SerializeToString()


def test_networks_take_any_number_of_rows(deployed: Path) -> None:
    model = onnx.load(deployed / "classifier.onnx")
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param


@pytest.mark.parametrize(
    ("module", "terms", "message"),
    [
        (Unsupported(), Terms("fixed", 0.5), "^network classifier must consist of layers that ON"),
        (Centered(), Terms("fixed", 0.5), "classifier must give an image the same logits"),
        (Scaled(), Terms("fixed", 0.5), "classifier must give an image the same logits"),
        (Flat(), Terms("fixed"), "^sigma is required"),
        (Flat(), Terms("dual"), "^bundle must have a selector"),
        (Flat(), Terms("guess"), "^method must be one of"),
    ],
    ids=[
        "unsupported layer",
        "batch mates",
        "scale of the batch",
        "no sigma",
        "no selector",
        "method",
    ],
)
def test_nothing_is_left_of_an_export_that_fails(
    tmp_path: Path, module: nn.Module, terms: Terms, message: str
) -> None:
    with pytest.raises(DualSmoothError, match=message) as caught:
        export_bundle(bundle_of(module), tmp_path / "out", terms, batch_size=16)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_an_exporter_that_gets_numbers_wrong_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*arguments: Any) -> onnx.ModelProto:
        model = network_model(*arguments)
        weights = model.graph.initializer[0]
        values = onnx.numpy_helper.to_array(weights) * np.float32(1.01)
        weights.CopyFrom(onnx.numpy_helper.from_array(values, weights.name))
        return model

    monkeypatch.setattr(write, "network_model", wrong)
    with pytest.raises(ArgumentError, match="must give PyTorch's logits after export"):
        export_bundle(bundle_of(Flat()), tmp_path / "out", Terms("fixed", 0.5), batch_size=16)
    assert not list(tmp_path.iterdir())


def test_a_sigma_outside_the_trained_set_is_refused(wavering: Bundle, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"^sigma must be one of the levels trained for: 0\.12"):
        export_bundle(wavering, tmp_path / "out", Terms("fixed", 0.3))
    assert not list(tmp_path.iterdir())


def test_an_existing_folder_is_left_alone(wavering: Bundle, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("keep")
    with pytest.raises(FileError, match="must not exist yet"):
        export_bundle(wavering, tmp_path, Terms("dual"))
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.slow
def test_weights_too_large_for_one_message_stand_beside_the_graph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_bundle(bundle_of(Flat()), tmp_path / "one", Terms("fixed", 0.5, n=200), batch_size=16)
    monkeypatch.setattr(write, "LARGEST_FILE", 100)
    export_bundle(bundle_of(Flat()), tmp_path / "two", Terms("fixed", 0.5, n=200), batch_size=16)
    assert (tmp_path / "two" / "classifier.votes.onnx.data").exists()
    assert not list((tmp_path / "one").glob("*.data"))
    image = np.full(SHAPE, 0.5, np.float32)
    counts = []
    for name in ("one", "two"):
        with OnnxCertifier(tmp_path / name, threads=1) as certifier:
            counts.append([record.votes for record in certifier.certify(image).counts])
    assert counts[0] == counts[1]
    data = tmp_path / "two" / "classifier.votes.onnx.data"
    data.write_bytes(bytes(data.stat().st_size))
    with pytest.raises(FileError, match="must have the SHA-256"):
        read_deployment(tmp_path / "two")


def test_batches_are_as_large_as_pixels_allow() -> None:
    assert [batch_of((side, side, 3)) for side in (8, 16, 32, 64, 224)] == [256, 256, 64, 16, 8]
