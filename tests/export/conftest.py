"""Networks made of ONNX nodes by hand: tests of graphs need no exporter."""

from collections.abc import Callable

import numpy as np
import pytest
from onnx import ModelProto

from dualsmooth.export.graph import FLOAT, Nodes, model_of, value
from dualsmooth.export.networks import LOGITS, PIXELS

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
