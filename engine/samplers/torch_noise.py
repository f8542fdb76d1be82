"""The noise stream for rows of a packed batch: specification words, Box-Muller in torch float64.

Torch's float64 logarithm, sine and cosine are vectorised and do not depend on an element's
position, and rounding their results to float32 hides their last bit, so rows agree with
`dualsmooth.engine.noise.stream.standard_normal` to one unit in the last place of float32.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray

from dualsmooth.engine.noise.stream import (
    block_words,
    blocks_per_image,
    lanes_to_images,
    uniform_from_word,
)

BLOCKS_AT_ONCE = 8192
"""Blocks per pass: four words of it fit the level-2 cache of one core."""


def normal_rows(
    seed: int,
    image_ids: NDArray[np.uint64],
    word3: NDArray[np.uint64],
    samples: NDArray[np.uint64],
    shape: tuple[int, int, int],
) -> NDArray[np.float32]:
    """Standard normals of whole rows, float32, shape (rows, height, width, channels).

    ``image_ids``, ``word3`` and ``samples`` are the counter words c2, c3 and c1 of each row.
    """
    blocks = blocks_per_image(shape)
    lanes = np.empty((len(samples), blocks, 4), np.float32)
    step = max(1, BLOCKS_AT_ONCE // blocks)
    for start in range(0, len(samples), step):
        rows = slice(start, start + step)
        words = block_words(seed, image_ids[rows], word3[rows], samples[rows], blocks)
        out = torch.from_numpy(lanes[rows])
        for first, pair in ((0, words[:2]), (2, words[2:])):
            u1, u2 = (torch.from_numpy(uniform_from_word(word)).double() for word in pair)
            radius = u1.log_().mul_(-2.0).sqrt_()
            angle = u2.mul_(2.0 * math.pi)
            out[..., first].copy_(angle.cos().mul_(radius))
            out[..., first + 1].copy_(angle.sin_().mul_(radius))
    return lanes_to_images(lanes, shape)
