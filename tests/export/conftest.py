"""Networks made of ONNX nodes by hand: tests of graphs need no exporter."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import ModelProto

from dualsmooth.engine.data.spec import load_images
from dualsmooth.engine.images import unit_float
from dualsmooth.engine.models.bundle import Bundle
from dualsmooth.engine.models.network import network_from_module
from dualsmooth.engine.models.registry import create
from dualsmooth.engine.records import digest_of
from dualsmooth.export.deployment import INDEX, Terms, file_digest
from dualsmooth.export.graph.nodes import FLOAT, LOGITS, PIXELS, Nodes, model_of, value
from dualsmooth.export.write import export_bundle

Shape = tuple[int, int, int]
Logits = Callable[[Nodes, str, str], str]


@pytest.fixture
def linear_network() -> Callable[..., ModelProto]:
    """Make a network: flatten, a matrix, then whatever ``change`` adds to the logits."""

    def make(shape: Shape, outputs: int, change: Logits | None = None) -> ModelProto:
        height, width, channels = shape
        nodes = Nodes()
        flat = nodes.add("Flatten", PIXELS)
        rng = np.random.default_rng(outputs)
        values = rng.integers(-8, 9, (int(np.prod(shape)), outputs)) / 8
        weights = nodes.constant(values, np.float32)
        logits = nodes.add("MatMul", flat, weights)
        if change is not None:
            logits = change(nodes, flat, logits)
        nodes.add("Identity", logits, output=LOGITS)
        rows = value(PIXELS, FLOAT, ("rows", channels, height, width))
        return model_of(nodes.graph("linear", [rows], [value(LOGITS, FLOAT, ("rows", outputs))]))

    return make


@pytest.fixture(scope="session")
def wavering() -> Bundle:
    """A selector and one classifier for digits, untrained, whose votes spread over the classes."""
    networks = {}
    image = torch.from_numpy(unit_float(load_images("digits").images[0])).permute(2, 0, 1)
    for role, outputs in (("selector", 3), ("classifier", 10)):
        torch.manual_seed(outputs)
        kwargs = {"widths": [4], "hidden": 8, "num_classes": outputs}
        module = create("small_convnet", kwargs).eval()
        with torch.no_grad():
            logits = module(image + 0.25 * torch.randn(64, 1, 8, 8))
            list(module.parameters())[-1].sub_(logits.mean(0))
        networks[role] = network_from_module(module, "small_convnet", kwargs)
    return Bundle.from_modules(
        networks, num_classes=10, input_shape=(8, 8, 1), sigmas=(0.12, 0.25, 0.5), tau=0.5,
        name="wavering",
    )  # fmt: skip


@pytest.fixture(scope="session")
def deployed(wavering: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A deployment of the wavering bundle: dual, n0 = 20, n = 150."""
    folder = tmp_path_factory.mktemp("deployments") / "wavering"
    export_bundle(wavering, folder, Terms("dual", n0=20, n=150))
    return folder


@pytest.fixture
def sealed() -> Callable[[Path], None]:
    """Bring the index of a changed deployment up to date, digests and all."""

    def seal(folder: Path) -> None:
        fields = json.loads((folder / INDEX).read_text())
        del fields["digest"]
        fields["files"] = {
            path.name: {"bytes": path.stat().st_size, "sha256": file_digest(path)}
            for path in folder.glob("*.onnx*")
        }
        (folder / INDEX).write_text(json.dumps(fields | {"digest": digest_of(fields)}))

    return seal
