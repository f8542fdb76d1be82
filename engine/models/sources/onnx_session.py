"""ONNX Runtime sessions, and the inputs of the graphs that deployments hold. No torch, no onnx."""

from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from dualsmooth.engine.errors import ArgumentError

OLDEST = (1, 21)
"""First ONNX Runtime with integer products of uint64."""

CPU = "CPUExecutionProvider"

Session = Any
"""An ``onnxruntime.InferenceSession``; the package has no types."""


def make_session(model: bytes | str, provider: str = CPU, *, alone: bool = False) -> Session:
    """A session on one thread, so that a vote does not depend on how work was split.

    Parameters
    ----------
    model : bytes or str
        A model, or the path of one.
    provider : str
        Execution provider; operators it lacks run on the CPU.
    alone : bool
        Refuse that help of the CPU.

    Raises
    ------
    ArgumentError
        If the provider is not there, or ONNX Runtime is too old.
    Exception
        ONNX Runtime's own, if it cannot run the model.
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
    providers = [provider] if alone or provider == CPU else [provider, CPU]
    return onnxruntime.InferenceSession(model, options, providers=providers, enable_fallback=0)


def vote_feeds(
    image: NDArray[np.float32],
    rows: int,
    *,
    sigma: float,
    seed: int,
    image_id: int,
    phase: int,
    first: int = 0,
) -> dict[str, NDArray[Any]]:
    """Inputs of a vote graph; ``phase`` is the phase byte | attempt << 16."""
    return {
        "image": image,
        "sigma": np.array(sigma, np.float32),
        "key": np.array([seed % 2**32, seed >> 32], np.uint32),
        "image_id": np.array(image_id, np.uint32),
        "phase": np.array(phase, np.uint32),
        "first": np.array(first, np.uint32),
        "rows": np.array(rows, np.int64),
    }


def dual_feeds(
    image: NDArray[np.float32],
    n: int,
    *,
    seed: int,
    image_id: int,
    attempt: int = 0,
    first: int = 0,
) -> dict[str, NDArray[Any]]:
    """Inputs of a dual predictor graph."""
    return {
        "image": image,
        "key": np.array([seed % 2**32, seed >> 32], np.uint32),
        "image_id": np.array(image_id, np.uint32),
        "attempt": np.array(attempt, np.uint32),
        "first": np.array(first, np.uint32),
        "n": np.array(n, np.int64),
    }
