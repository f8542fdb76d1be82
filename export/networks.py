"""PyTorch networks as ONNX files, checked against PyTorch before anything uses them."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, inliner

from dualsmooth.engine.errors import ArgumentError, reason_of
from dualsmooth.engine.models.sources.onnx_session import make_session
from dualsmooth.export.graph.nodes import IR_VERSION, LOGITS, OPSET, PIXELS

if TYPE_CHECKING:
    from torch import nn


def network_model(network: "nn.Module", role: str, trial: NDArray[np.float32]) -> ModelProto:
    """A network as an ONNX model: preprocessing inside, any number of rows.

    It is in eval mode, float32, on the CPU; the trial is (rows, channels, height, width).
    """
    model = without_notes(_exported(network, role, trial))
    foreign = sorted({f"{n.domain}::{n.op_type}" for n in model.graph.node if n.domain})
    if foreign:
        raise refused(role, "must consist of layers that ONNX has", foreign[0])
    versions = {entry.version for entry in model.opset_import if not entry.domain}
    if versions != {OPSET}:
        raise refused(role, f"must be expressible in opset {OPSET}", sorted(versions))
    return model


def check_network(
    path: Path, network: "nn.Module", role: str, trial: NDArray[np.float32], outputs: int
) -> None:
    """Refuse a file whose logits differ from those of its network, or are not a row's own."""
    import torch

    from dualsmooth.engine.models.rows import BOUNDS, close

    session = make_session(str(path))
    found = torch.from_numpy(session.run(None, {PIXELS: trial})[0])
    with torch.inference_mode():
        expected = network(torch.from_numpy(trial))
    if found.shape != (len(trial), outputs) or found.shape != expected.shape:
        raise refused(role, f"must give {outputs} logits per row", tuple(found.shape))
    if not close(BOUNDS[torch.float32], expected)(found, expected):
        error = float((found - expected).abs().max())
        raise refused(role, "must give PyTorch's logits after export", f"differing by {error:g}")
    check_rows(path, role, trial)


def check_rows(path: Path, role: str, trial: NDArray[np.float32]) -> None:
    """Refuse logits that change with a row's place or the other rows: so would its vote."""
    import torch

    from dualsmooth.engine.models.rows import fault

    session = make_session(str(path))

    def run(rows: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(session.run(None, {PIXELS: rows.numpy()})[0])

    found = fault(run, torch.from_numpy(trial))
    if found:
        rule = "must give each row's logits whatever its place and the other rows are"
        raise refused(role, rule, f"others {found}")


def _exported(network: "nn.Module", role: str, trial: NDArray[np.float32]) -> ModelProto:
    import torch

    from dualsmooth.engine.models.capture import quiet

    rows = torch.export.Dim("rows", min=1)
    try:
        with quiet():
            names: dict[str, Any] = {"input_names": [PIXELS], "output_names": [LOGITS]}
            how: dict[str, Any] = {"dynamo": True, "verbose": False, "opset_version": OPSET}
            shapes, inputs = ({0: rows},), (torch.from_numpy(trial),)
            program = torch.onnx.export(network, inputs, dynamic_shapes=shapes, **names, **how)
    except Exception as error:  # the exporter runs the network on symbols and fails in many ways
        raise refused(role, "must consist of layers that ONNX has", _cause(error)) from error
    assert program is not None
    model: ModelProto = program.model_proto
    return model


def _cause(error: BaseException) -> str:
    """The innermost cause on one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return reason_of(error)


def without_notes(model: ModelProto) -> ModelProto:
    """A copy without stack traces and other notes about the machine it was made on."""
    plain = inliner.inline_local_functions(model)
    plain.ir_version = IR_VERSION
    plain.ClearField("metadata_props")
    graph = plain.graph
    graph.ClearField("metadata_props")
    for part in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    return plain


def refused(role: str, rule: str, value: object) -> ArgumentError:
    """The error of a network that breaks a rule."""
    return ArgumentError(f"network {role}", rule, value)
