"""Inputs of the exported graphs."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


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
