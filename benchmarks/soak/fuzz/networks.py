"""Parsers of networks, and what must hold of those they accept."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from onnx import ModelProto, TensorProto

from dualsmooth.engine.limits import LARGEST_INPUT
from dualsmooth.engine.models.bundle import CLASSIFIER, Bundle
from dualsmooth.engine.models.sources.checkpoint import read_checkpoint
from dualsmooth.engine.models.sources.exported import read_exported
from dualsmooth.engine.models.sources.folder import read_bundle
from dualsmooth.engine.records import sha256_of
from dualsmooth.export.deployment import file_digest, read_deployment


def _place(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        if not (folder / name).exists():
            (folder / name).write_bytes(content)


def bundle(folder: Path, data: bytes, weights: Mapping[str, bytes]) -> None:
    """``bundle.json`` beside its weights: nothing but they may be read."""
    _place(folder, weights)
    (folder / "bundle.json").write_bytes(data)
    read = read_bundle(folder)
    for network in read.networks.values():
        assert isinstance(network.weights, bytes)
        assert network.sha256 == sha256_of(network.weights)
        assert network.weights in weights.values(), "weights from outside the bundle"
    assert all(0.0 < sigma < float("inf") for sigma in read.sigmas)


def safetensors(folder: Path, data: bytes, index: bytes, weights: Mapping[str, bytes]) -> None:
    """Weights whose digest the index states."""
    fields = json.loads(index)
    for entry in fields["networks"].values():
        name = entry["weights"]
        content = data if name == "classifier.safetensors" else weights[name]
        entry |= {"bytes": len(content), "sha256": sha256_of(content)}
        (folder / name).write_bytes(content)
    (folder / "bundle.json").write_text(json.dumps(fields))
    module = read_bundle(folder).networks["classifier"].build()
    assert all(parameter.dtype == torch.float32 for parameter in module.parameters())


def deployment(folder: Path, data: bytes, graphs: Mapping[str, bytes]) -> None:
    """``deployment.json`` beside its graphs."""
    _place(folder, graphs)
    (folder / "deployment.json").write_bytes(data)
    read = read_deployment(folder)
    for role, network in read.bundle.networks.items():
        path = read.votes_file(role)
        assert path.resolve().parent == folder.resolve(), "a graph from outside the folder"
        assert network.sha256 == file_digest(path)
    assert 0.0 < read.terms.alpha < 1.0


def onnx(folder: Path, data: bytes) -> None:
    """A classifier as ``.onnx``; what is accepted is read by the onnx package, too."""
    (folder / "net.onnx").write_bytes(data)
    _check_exported(read_exported(folder / "net.onnx"), data)
    for message in _messages(ModelProto.FromString(data)):
        if isinstance(message, TensorProto):
            assert message.data_location == TensorProto.DEFAULT, "weights in another file"
            assert not message.external_data, "weights in another file"


def _messages(message: Any) -> list[Any]:
    """A protocol buffer message and all messages in it."""
    found = [message]
    for descriptor, value in message.ListFields():
        if descriptor.message_type is None:
            continue
        for part in [value] if hasattr(value, "ListFields") else value:
            found += _messages(part)
    return found


def pt2(folder: Path, data: bytes) -> None:
    """A classifier as ``.pt2``."""
    (folder / "net.pt2").write_bytes(data)
    _check_exported(read_exported(folder / "net.pt2"), data)


def _check_exported(read: Bundle, data: bytes) -> None:
    height, width, channels = read.input_shape
    assert 0 < height * width * channels <= LARGEST_INPUT
    network = read.networks[CLASSIFIER]
    assert network.sha256 == sha256_of(data)
    with torch.inference_mode():
        logits = network.build()(torch.full((3, channels, height, width), 0.5))
    assert logits.shape == (3, read.num_classes)
    assert read.num_classes >= 2
    assert torch.equal(logits[0], logits[1]), "rows that are equal have other logits"


def checkpoint(folder: Path, data: bytes) -> None:
    """A checkpoint of Cohen et al.'s code."""
    (folder / "net.pth.tar").write_bytes(data)
    read = read_checkpoint(folder / "net.pth.tar")
    assert read.networks[CLASSIFIER].architecture == "cifar_resnet20"
