"""Inputs of the exported graphs."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dualsmooth.engine.samplers.sampler import Segment


def vote_feeds(
    image: NDArray[np.float32], segment: Segment, seed: int, attempt: int = 0
) -> dict[str, NDArray[Any]]:
    """Inputs of a vote graph for a segment of a draw; the slot is not one of them."""
    return {
        "image": image,
        "sigma": np.array(segment.sigma, np.float32),
        "key": np.array([seed % 2**32, seed >> 32], np.uint32),
        "image_id": np.array(segment.image_id, np.uint32),
        "phase": np.array(segment.stream | attempt << 16, np.uint32),
        "first": np.array(segment.first, np.uint32),
        "rows": np.array(segment.count, np.int64),
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
