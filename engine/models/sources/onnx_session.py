"""ONNX Runtime sessions, and the inputs of the graphs that deployments hold. No torch, no onnx."""

from collections.abc import Mapping
from typing import Any

import onnxruntime

from dualsmooth.engine.errors import ArgumentError

OLDEST = (1, 21)
"""First ONNX Runtime with integer products of uint64."""

CPU = "CPUExecutionProvider"

OrtSession = Any
"""An ``onnxruntime.InferenceSession``; the package has no types."""


def make_session(
    model: bytes | str,
    provider: str = CPU,
    *,
    alone: bool = False,
    beside: Mapping[str, bytes] | None = None,
) -> OrtSession:
    """A session on one thread, so that a vote does not depend on how work was split.

    The CPU runs the operators that the provider lacks, unless it is to be alone. ``beside`` are
    contents of files that the model names.
    """
    found = tuple(int(part) for part in onnxruntime.__version__.split(".")[:2])
    if found < OLDEST:
        rule = f"must be {OLDEST[0]}.{OLDEST[1]} or newer"
        raise ArgumentError("onnxruntime", rule, onnxruntime.__version__)
    known = onnxruntime.get_available_providers()
    if provider not in known:
        rule = f"must be one that this ONNX Runtime has: {', '.join(known)}"
        raise ArgumentError("provider", rule, provider)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors are raised; warnings would be printed
    options.add_session_config_entry("session.load_model_format", "ONNX")  # nothing else is checked
    if alone:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    if beside:
        if not hasattr(options, "add_external_initializers_from_files_in_memory"):
            rule = "must be 1.24 or newer for weights beside a model"
            hint = "pip install -U onnxruntime"
            raise ArgumentError("onnxruntime", rule, onnxruntime.__version__, hint)
        names, parts = list(beside), list(beside.values())
        options.add_external_initializers_from_files_in_memory(names, parts, [*map(len, parts)])
    providers = [provider] if alone or provider == CPU else [provider, CPU]
    return onnxruntime.InferenceSession(model, options, providers=providers, enable_fallback=0)
