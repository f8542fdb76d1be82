"""Networks run by OpenVINO, an optional library, instead of PyTorch's operators.

A network is exported, converted and compiled for one batch shape, with one stream for each worker
thread and one thread for each stream, so no sum is divided among threads. Rows are read where the
sampler wrote them, channels last. Before the first vote a network shows that nothing was lost in
the conversion and that its rows do not depend on each other.

What is certified is the network as OpenVINO runs it. Its ReLU makes 0 of NaN where PyTorch's keeps
it, so a row that overflows inside the network may still have finite logits, and a valid vote.
"""

import threading
from typing import Any

import torch
from torch import nn

from dualsmooth.engine.backends import AUTO, OPENVINO
from dualsmooth.engine.errors import ArgumentError, DualSmoothError, SamplerError, reason_of
from dualsmooth.engine.machine import install_command
from dualsmooth.engine.models.capture import quiet
from dualsmooth.engine.models.ensemble import by_stages
from dualsmooth.engine.models.forms import OTHERWISE, AsItIs, difference
from dualsmooth.engine.models.rows import BOUNDS, close, noisy

HINTS = {"fp32": "f32", "bf16": "bf16"}
"""What OpenVINO calls the precisions."""

OTHER_WAY = f"use --backend {AUTO} in a new run: one that is resumed keeps its backend"

Shape = tuple[int, int, int, int]


class Compiled(nn.Module):
    """A compiled network as a module; may be called from as many threads as it has streams.

    OpenVINO's network takes float32 (rows, height, width, channels) and has one output.
    """

    def __init__(self, compiled: Any) -> None:
        super().__init__()
        self._compiled, self._local = compiled, threading.local()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The output for x, float32, shape (rows, channels, height, width); channels-last is free.

        OpenVINO does not keep shared memory alive, so ``pixels`` must outlive the call.
        """
        if not hasattr(self._local, "request"):
            self._local.request = self._compiled.create_infer_request()
        pixels = x.permute(0, 2, 3, 1).contiguous().numpy()
        answers = self._local.request.infer(pixels, share_inputs=True)
        return torch.from_numpy(answers[0])


def converted_network(
    model: str, folded: nn.Module, shape: Shape, precision: str, threads: int
) -> nn.Module:
    """A network run by OpenVINO, not proved yet; one in bfloat16 lost nothing in the conversion.

    ``folded`` is the network with batch norm folded, float32. ``shape`` is (rows, height, width,
    channels) of every batch, and ``threads`` call it at once. What OpenVINO loses or cannot run is
    an `ArgumentError`; batches divided among threads are a `SamplerError`.
    """
    _check_installed()

    def convert(stage: nn.Module, rows: int | None) -> nn.Module:
        return _convert(model, stage, (rows or shape[0], *shape[1:]), precision, threads)

    return by_stages(folded, convert)


def openvino_network(
    model: str, made: nn.Module, network: nn.Module, shape: Shape, precision: str
) -> nn.Module:
    """What `converted_network` made, proved against the network itself.

    Other logits are an `ArgumentError`, rows that depend on each other or on their place a
    `SamplerError`.
    """
    bound = BOUNDS[torch.bfloat16 if precision == "bf16" else torch.float32]
    itself = AsItIs(network, torch.float32)
    wrong = difference(made, itself, noisy(shape[0], shape[1:]), bound)
    if wrong.startswith(OTHERWISE):
        raise _unfaithful(model)
    if wrong:
        raise SamplerError(
            f"{model}: a row's logits must not depend on the other rows of its batch or on its "
            f"place; received {wrong} ({OTHER_WAY}, and its --batch-size)"
        )
    return made


def _unfaithful(model: str) -> ArgumentError:
    rule = f"must give the logits of the network {model} up to rounding"
    return ArgumentError("backend", rule, OPENVINO, OTHER_WAY)


def _check_installed() -> None:
    try:
        import openvino  # noqa: F401 (whether it can be)
    except ImportError as error:
        hint = install_command("cpu")
        raise ArgumentError("backend", "needs the package openvino", OPENVINO, hint) from error


def _convert(model: str, stage: nn.Module, shape: Shape, precision: str, threads: int) -> nn.Module:
    batch = noisy(shape[0], shape[1:])
    try:
        converted = exported_network(stage, batch)
        if precision == "fp32":
            return _compile(converted, precision, threads)
        exact = _compile(converted, "fp32", 1)
        with torch.inference_mode():
            found, wanted = exact(batch), stage(batch)
    except DualSmoothError:
        raise
    except Exception as error:  # exporters and runtimes fail in many ways
        rule = f"must suit the network {model} ({reason_of(error)})"
        raise ArgumentError("backend", rule, OPENVINO, OTHER_WAY) from error
    found, wanted = found.flatten(0, -2), wanted.flatten(0, -2)  # a stage has several members
    if not close(BOUNDS[torch.float32], wanted)(found, wanted):
        raise _unfaithful(model)
    return _compile(converted, precision, threads)


def exported_network(stage: nn.Module, batch: torch.Tensor) -> Any:
    """The network as OpenVINO's, rows as the sampler writes them.

    `torch.export` refuses branches that depend on values, which a trace would fix as they happened.
    ``openvino.convert_model`` does the same as this, and reports usage to its makers.
    """
    from openvino import Layout
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder
    from openvino.preprocess import PrePostProcessor

    with quiet(), torch.no_grad():
        program = torch.export.export(stage, (batch,), strict=False)
        decoder = TorchFXPythonDecoder.from_exported_program(program)
    frontend = FrontEndManager().load_by_framework("pytorch")
    converted = frontend.convert(frontend.load(decoder))
    converted.reshape(list(batch.shape))
    layout = PrePostProcessor(converted)
    layout.input().tensor().set_layout(Layout("NHWC"))
    layout.input().model().set_layout(Layout("NCHW"))
    return layout.build()


def _compile(converted: Any, precision: str, threads: int) -> Compiled:
    import openvino

    compiled = openvino.compile_model(
        converted,
        "CPU",
        {
            "INFERENCE_PRECISION_HINT": HINTS[precision],
            "NUM_STREAMS": threads,
            "INFERENCE_NUM_THREADS": threads,
            "ENABLE_CPU_PINNING": False,  # other processes would be pinned to the same cores
            "ENABLE_HYPER_THREADING": True,
        },
    )
    streams, used_threads = map(compiled.get_property, ("NUM_STREAMS", "INFERENCE_NUM_THREADS"))
    if used_threads > streams:
        raise SamplerError(
            f"{OPENVINO}: one thread must run a batch, or votes could depend on their number; "
            f"received {used_threads} threads in {streams} streams ({OTHER_WAY})"
        )
    used = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    if used != HINTS[precision]:
        rule = f"must be one that {OPENVINO} has on this processor"
        raise ArgumentError("precision", rule, precision, "use --precision fp32")
    return Compiled(compiled)
