"""Networks run by OpenVINO, an optional library, instead of PyTorch's operators.

A network is exported, converted and compiled for one batch shape, with one stream for each worker
thread and one thread for each stream, so no sum is divided among threads. Rows are read where the
sampler wrote them, channels last. Before the first vote a network shows that nothing was lost in
the conversion and that its rows do not depend on each other.

What is certified is the network as OpenVINO runs it. Its ReLU makes 0 of NaN where PyTorch's keeps
it, so a row that overflows inside the network may still have finite logits, and a valid vote.
"""

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from dualsmooth.engine.errors import ArgumentError, DualSmoothError, SamplerError
from dualsmooth.engine.models.ensemble import by_stages
from dualsmooth.engine.samplers.calibrate import check_rows
from dualsmooth.engine.settings import AUTO, OPENVINO

HINTS = {"fp32": "f32", "bf16": "bf16"}
"""What OpenVINO calls the precisions."""

LOST = 1e-3
"""Largest difference of logits in float32, relative to the largest logit of a batch."""

Shape = tuple[int, int, int, int]


class Compiled(nn.Module):
    """A compiled network as a module; may be called from as many threads as it has streams.

    Parameters
    ----------
    compiled : openvino.CompiledModel
        From float32 (rows, height, width, channels) to one output.
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


def openvino_network(
    model: str, network: nn.Module, shape: Shape, precision: str, threads: int
) -> nn.Module:
    """A network run by OpenVINO, tried on one batch.

    Parameters
    ----------
    model : str
        Its name, for messages.
    network : torch.nn.Module
        In eval mode, float32; a `Consensus` is changed in place.
    shape : tuple of int
        (rows, height, width, channels) of every batch.
    precision : str
        ``fp32`` or ``bf16``.
    threads : int
        Threads that call it at once.

    Raises
    ------
    ArgumentError
        If OpenVINO is missing, cannot run the network, loses something of it, or does not have the
        precision on this processor.
    SamplerError
        If a row's logits depend on the other rows or on its place in the batch, or OpenVINO divides
        a batch among threads.
    """
    _check_installed()

    def convert(stage: nn.Module, rows: int | None) -> nn.Module:
        return _convert(model, stage, (rows or shape[0], *shape[1:]), precision, threads)

    made = by_stages(network, convert)
    batch = _noisy(shape)
    mates = batch.clone(memory_format=torch.preserve_format)
    mates[1::2] = 1 - 4 * mates[1::2]
    reverse = batch.permute(0, 2, 3, 1).flip(0).permute(0, 3, 1, 2)
    with torch.inference_mode():
        scores, beside, backward = made(batch), made(mates), made(reverse)
    check_rows(model, scores, beside, backward)
    return made


def _check_installed() -> None:
    try:
        import openvino  # noqa: F401 (whether it can be)
    except ImportError as error:
        hint = "pip install 'dualsmooth[cpu]'"
        raise ArgumentError("backend", "needs the package openvino", OPENVINO, hint) from error


def _convert(model: str, stage: nn.Module, shape: Shape, precision: str, threads: int) -> nn.Module:
    batch = _noisy(shape)
    try:
        converted = _exported(stage, batch)
        exact = _compile(converted, "fp32", 1)
        with torch.inference_mode():
            found, wanted = exact(batch), stage(batch)
    except DualSmoothError:
        raise
    except Exception as error:  # exporters and runtimes fail in many ways
        why = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise ArgumentError(
            "backend", f"must suit the network {model} ({why})", OPENVINO, f"use --backend {AUTO}"
        ) from error
    if not _close(found, wanted):
        rule = f"must give the logits of the network {model} up to rounding"
        raise ArgumentError("backend", rule, OPENVINO, f"use --backend {AUTO}")
    return _compile(converted, precision, threads)


def _exported(stage: nn.Module, batch: torch.Tensor) -> Any:
    """The network as OpenVINO's, rows as the sampler writes them.

    `torch.export` refuses branches that depend on values, which a trace would fix as they happened.
    ``openvino.convert_model`` does the same as this, and reports usage to its makers.
    """
    from openvino import Layout
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder
    from openvino.preprocess import PrePostProcessor

    with _quiet(), torch.no_grad():
        program = torch.export.export(stage, (batch,), strict=False)
        decoder = TorchFXPythonDecoder.from_exported_program(program)
    frontend = FrontEndManager().load_by_framework("pytorch")
    converted = frontend.convert(frontend.load(decoder))
    converted.reshape(list(batch.shape))
    layout = PrePostProcessor(converted)
    layout.input().tensor().set_layout(Layout("NHWC"))
    layout.input().model().set_layout(Layout("NCHW"))
    return layout.build()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the libraries remark about their own code."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logging.disable(before)


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
            f"received {used_threads} threads in {streams} streams (use --backend {AUTO})"
        )
    used = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    if used != HINTS[precision]:
        rule = f"must be one that {OPENVINO} has on this processor"
        raise ArgumentError("precision", rule, precision, "use --precision fp32")
    return Compiled(compiled)


def _noisy(shape: Shape) -> torch.Tensor:
    """Random rows about as far outside [0, 1] as noisy pixels are, channels-last."""
    draws = torch.Generator().manual_seed(0)
    rows = torch.rand(shape, generator=draws) + 0.5 * torch.randn(shape, generator=draws)
    return rows.permute(0, 3, 1, 2)


def _close(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    if found.shape != wanted.shape:
        return False
    finite = wanted[wanted.isfinite()].abs()
    limit = LOST * float(finite.max()) if len(finite) else 0.0
    return torch.allclose(found.float(), wanted.float(), rtol=0.0, atol=limit, equal_nan=True)
