"""Networks in int8 by ONNX Runtime's static quantisation, calibrated on noisy images.

Scales are constants of the file, so a row's logits do not depend on the rows beside it. Weights are
int8 per channel and use 7 of their 8 bits: products of pairs then fit 16 bits, and processors with
and without dot-product instructions add the same integers. The layer that gives the logits stays in
float32, because logits on 256 steps would tie.
"""

import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process

from dualsmooth.engine.errors import reason_of
from dualsmooth.export.graph.nodes import PIXELS
from dualsmooth.export.networks import refused, without_notes


class _Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, batches: Iterable[NDArray[np.float32]]) -> None:
        self._batches = iter(batches)

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        batch = next(self._batches, None)
        return None if batch is None else {PIXELS: batch}


def quantized_model(path: Path, role: str, batches: Iterable[NDArray[np.float32]]) -> ModelProto:
    """The float32 network of a file in int8, with the same inputs and outputs.

    The ranges are taken from the batches of noisy images (rows, channels, height, width).
    """
    logits = onnx.load(path, load_external_data=False).graph.node[-1].name
    with tempfile.TemporaryDirectory() as scratch:
        prepared, made = Path(scratch) / "prepared.onnx", Path(scratch) / "int8.onnx"
        try:
            quant_pre_process(path, prepared, skip_optimization=True, skip_symbolic_shape=True)
            reader = _Reader(batches)
            quantization.quantize_static(
                *(prepared, made, reader),
                quant_format=quantization.QuantFormat.QDQ,
                per_channel=True,
                reduce_range=True,
                nodes_to_exclude=[logits],
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                calibrate_method=quantization.CalibrationMethod.MinMax,
            )
            model = onnx.load(made)
        except Exception as error:  # the quantiser's errors share no base
            rule = "must be a network that can be quantised"
            raise refused(role, rule, reason_of(error)) from error
    return without_notes(model)
