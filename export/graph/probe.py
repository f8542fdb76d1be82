"""Values inside a vote graph made visible, so that the very file that votes can be checked."""

from onnx import ModelProto, ValueInfoProto, helper

from dualsmooth.export.graph.nodes import FLOAT, LOGITS, UINT64
from dualsmooth.export.graph.philox import NOISE, WORDS

KINDS = {**dict.fromkeys(WORDS, UINT64), NOISE: FLOAT, LOGITS: FLOAT}
"""Values that can be seen, and their element types."""


def probe(model: ModelProto) -> ModelProto:
    """A copy of a vote model (`vote_model`) that also gives the values of `KINDS`.

    Each is an output of its own, with the passes through the network on the first axis and the rows
    of a pass on the second.
    """
    seen = ModelProto()
    seen.CopyFrom(model)
    loop = next(node for node in seen.graph.node if node.op_type == "Loop")
    body = helper.get_node_attr_value(loop, "body")
    prefix = f"{loop.output[0]}/"
    for name, kind in KINDS.items():
        body.output.append(_unshaped(prefix + name, kind))
        loop.output.append(name)
        seen.graph.output.append(_unshaped(name, kind))
    return seen


def _unshaped(name: str, kind: int) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, None)
