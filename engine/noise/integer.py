"""Integer noise: the specification in NumPy of the mode that needs no floating point.

Voracek and Hein (arXiv 2207.07209). The image lies on the grid {0 .. 255} / 255 and the certified
base classifier is f(round_to_grid(.)). For a grid image, round(x + sigma w) = x + E / 255 with
independent integers E, P(E <= i) = Phi((i + 1/2) / (255 sigma)). From 64 random bits U,

    E = min {i : U < T_i},   T_i = floor(2^64 Phi((i + 1/2) / (255 sigma))),

and the last i, the first with T_i = 2^64 - 1, takes the rest. The high half of U is the word that
`noise.stream` gives the same value; the low half is that of the same counter with bit 15
of its fourth word set, which the version byte leaves free. The network gets float32(x + E) times
float32(1/255): nothing is clipped, and equal integers are equal inputs.

The noise depends on no image, so its law is the same at every grid image, which a rounded float32
sum x + sigma z cannot promise. It is exact if Philox words are uniform, up to the floors: the total
variation distance of an image of d values is at most d * thresholds / 2^64, below 4e-11 for
224 x 224 x 3 at sigma = 1. A certificate covers images on the grid only.
"""

import hashlib
from collections.abc import Iterable
from fractions import Fraction
from functools import lru_cache
from math import isqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.noise.stream import (
    block_words,
    blocks_per_image,
    checked_rows,
    lanes_to_images,
)

LARGEST_SIGMA = 4.0
LOW_WORD = 1 << 15
"""Bit of the fourth counter word that marks the low half of a 64-bit word."""

STEPS = 255
"""Grid steps per unit of pixel value."""

_BLOCKS_AT_ONCE = 8192
_BITS = 384  # of the fixed point numbers below; 96 would do for the floors
_TOP = (1 << 64) - 1
_PI = 314159265358979323846264338327950288419716939937510582097494459230781640628620899862803482534


@lru_cache(maxsize=64)
def thresholds(sigma: float) -> NDArray[np.uint64]:
    """T_i for i = -m .. m - 1, with m the largest noise value: ascending, and not to be written to.

    No 2^64 Phi is an integer, so T_{-1-i} = 2^64 - 1 - T_i.
    """
    if not 0.0 < sigma <= LARGEST_SIGMA:
        raise ArgumentError("sigma", f"must be in (0, {LARGEST_SIGMA:g}] for integer noise", sigma)
    scale, upper = 2 * STEPS * Fraction(sigma), list[int]()
    while not upper or upper[-1] < _TOP:
        upper.append(min(_TOP, _phi_floor((2 * len(upper) + 1) / scale)))
    upper.pop()
    table = np.array([_TOP - t for t in reversed(upper)] + upper, np.uint64)
    table.flags.writeable = False
    return table


def _phi_floor(x: Fraction) -> int:
    """floor(2^64 Phi(x)) for 0 <= x <= 10 by the alternating series, in fixed point.

    Phi(x) = 1/2 + sum over n of (-1)^n x^(2n+1) / (sqrt(2 pi) 2^n n! (2n+1)). Terms stay below
    e^50, so the error of some hundred roundings is below 2^-290.
    """
    power = (x.numerator << _BITS) // x.denominator
    square = power * power >> _BITS
    total, n = 0, 0
    while power:
        total += (-power if n % 2 else power) // (2 * n + 1)
        n += 1
        power = (power * square >> _BITS) // (2 * n)
    two_pi = (2 * _PI << _BITS) // 10**92
    return ((1 << _BITS - 1) + (total << _BITS) // isqrt(two_pi << _BITS)) >> _BITS - 64


def tables_digest(sigmas: Iterable[float]) -> str:
    """sha256 of the tables of some noise levels, ascending: which law was drawn from."""
    tables = [(str(Fraction(s)), thresholds(s).tolist()) for s in sorted(set(sigmas))]
    return hashlib.sha256(repr(tables).encode()).hexdigest()


def integer_noise(
    seed: int,
    image_id: int,
    phase: int,
    samples: ArrayLike,
    shape: tuple[int, int, int],
    sigma: float,
    *,
    attempt: int = 0,
) -> NDArray[np.int32]:
    """Noise E of some samples of one image, in grid steps of 1/255, for sigma in (0, 4] pixel
    units.

    Arguments and shape as for `dualsmooth.engine.noise.stream.standard_normal`.
    """
    ids, words, index = checked_rows(image_id, phase, samples, attempt)
    return integer_rows(seed, ids, words, index, np.full(len(index), sigma), shape)


def integer_rows(
    seed: int,
    image_ids: NDArray[np.uint64],
    word3: NDArray[np.uint64],
    samples: NDArray[np.uint64],
    sigmas: NDArray[np.float64],
    shape: tuple[int, int, int],
) -> NDArray[np.int32]:
    """Noise E of whole rows, shape (rows, height, width, channels).

    ``image_ids``, ``word3`` and ``samples`` are the counter words c2, c3 and c1 of each row.
    """
    blocks = blocks_per_image(shape)
    lanes = np.empty((len(samples), blocks, 4), np.int32)
    step = max(1, _BLOCKS_AT_ONCE // blocks)
    for start in range(0, len(samples), step):
        rows = slice(start, start + step)
        words = [
            block_words(seed, image_ids[rows], streams, samples[rows], blocks)
            for streams in (word3[rows], word3[rows] | np.uint64(LOW_WORD))
        ]
        for lane, (high, low) in enumerate(zip(*words, strict=True)):
            lanes[rows, :, lane] = _noise_of(high << np.uint64(32) | low, sigmas[rows])
    return lanes_to_images(lanes, shape)


def _noise_of(words: NDArray[np.uint64], sigmas: NDArray[np.float64]) -> NDArray[np.int32]:
    """E of 64-bit words of shape (rows, blocks)."""
    noise = np.empty(words.shape, np.int32)
    for sigma in np.unique(sigmas):
        table, rows = thresholds(float(sigma)), sigmas == sigma
        noise[rows] = np.searchsorted(table, words[rows], side="right") - len(table) // 2
    return noise


def unit_of_grid(steps: NDArray[np.int32]) -> NDArray[np.float32]:
    """What the network gets for grid values: one conversion, one product, in float32."""
    return steps.astype(np.float32) * np.float32(1.0 / STEPS)
