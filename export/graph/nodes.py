"""Nodes of an ONNX graph, written one call per node."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike
from onnx import (
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    ValueInfoProto,
    helper,
    numpy_helper,
)

OPSET = 18
"""First opset with BitwiseAnd and BitwiseXor."""

IR_VERSION = 10
"""Newest file format that ONNX Runtime 1.21 reads."""

PIXELS, LOGITS = "pixels", "logits"
"""Input (rows, channels, height, width) in [0, 1] units and output (rows, outputs), float32."""

FLOAT, DOUBLE = int(TensorProto.FLOAT), int(TensorProto.DOUBLE)
INT32, INT64, BOOL = int(TensorProto.INT32), int(TensorProto.INT64), int(TensorProto.BOOL)
UINT32, UINT64 = int(TensorProto.UINT32), int(TensorProto.UINT64)


class Nodes:
    """Nodes and constants of one graph, or of one body of a Loop or If.

    The prefix begins every name made here; bodies must not repeat the names around them.
    """

    def __init__(self, prefix: str = "") -> None:
        self.prefix = prefix
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []

    def name(self, stem: str) -> str:
        """A name not used yet."""
        return f"{self.prefix}{stem}_{len(self.nodes) + len(self.constants)}"

    def add(self, kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Append a node with one output and return the output's name."""
        output = self.prefix + output if output else self.name(kind.lower())
        self.nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def split(self, value: str, parts: int) -> list[str]:
        """The equal parts of a vector, shape (length / parts,) each."""
        outputs = [f"{self.name('part')}_{i}" for i in range(parts)]
        self.nodes.append(helper.make_node("Split", [value], outputs, axis=0, num_outputs=parts))
        return outputs

    def constant(self, value: ArrayLike, dtype: DTypeLike) -> str:
        """A constant tensor."""
        name = self.name("constant")
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def graph(
        self, name: str, inputs: Sequence[ValueInfoProto], outputs: Sequence[ValueInfoProto]
    ) -> GraphProto:
        """The graph of everything added."""
        return helper.make_graph(self.nodes, name, inputs, outputs, self.constants)


def value(name: str, kind: int, shape: Sequence[int | str | None] | None) -> ValueInfoProto:
    """Name, element type and shape of an input or output."""
    return helper.make_tensor_value_info(name, kind, shape)


def model_of(graph: GraphProto) -> ModelProto:
    """A model of one graph, in the opset and file format that deployments use."""
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="dualsmooth"
    )
    model.ir_version = IR_VERSION
    return model
