"""Noise stream, version 1: the specification in NumPy.

Philox4x32-10 (Salmon et al., SC 2011). The key is the 64-bit run seed (low word, high word). The
counter of a block is

    (c0 block, c1 sample index, c2 image id, c3 = phase | version << 8 | attempt << 16)

all uint32. A block gives four words, and two Box-Muller pairs turn them into four normals: for a
word w, u = float32(w) * 2^-32 + 2^-33 with every step rounded to float32, so 2^-33 <= u <= 1;
z = sqrt(-2 ln u1) * (cos 2 pi u2, sin 2 pi u2), evaluated in float64 and rounded once to float32,
so |z| <= 6.77. Images are channels-last: with 3 or 4 channels a block is one pixel and the lane is
the channel; otherwise the block is the flat NHWC index // 4 and the lane is the index % 4.

Torch, Triton and ONNX versions are tested against this file: words exactly, normals within 2e-6.
"""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dualsmooth.engine.draws import STREAM_VERSION
from dualsmooth.engine.errors import ArgumentError

ROUNDS = 10
Value = TypeVar("Value", bound=np.generic)
_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = 0x9E3779B9, 0xBB67AE85
_LOW, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)
_WORD = 1 << 32


def philox4x32(counter: ArrayLike, key: ArrayLike) -> NDArray[np.uint32]:
    """Philox4x32-10 random words.

    Parameters
    ----------
    counter : array_like of uint32, shape (..., 4)
        Counter words c0 .. c3.
    key : array_like of uint32, shape (2,)
        Key words k0, k1.

    Returns
    -------
    ndarray of uint32, shape (..., 4)
    """
    ctr, k = _as_words("counter", counter, 4), _as_words("key", key, 2)
    if k.ndim != 1:
        raise ArgumentError("key", "must have shape (2,)", k.shape)
    words = [np.array(ctr[..., i]) for i in range(4)]
    philox_in_place(words, int(k[0]), int(k[1]))
    return np.stack(words, axis=-1).astype(np.uint32)


def philox_in_place(words: Sequence[NDArray[np.uint64]], k0: int, k1: int) -> None:
    """Replace four uint64 arrays of counter words (values < 2^32) by the random words."""
    c0, c1, c2, c3 = words
    p0, p1 = np.empty_like(c0), np.empty_like(c0)
    for _ in range(ROUNDS):
        np.multiply(c0, _M0, out=p0)
        np.multiply(c2, _M1, out=p1)
        np.right_shift(p1, _HALF, out=c0)
        np.bitwise_xor(c0, c1, out=c0)
        np.bitwise_xor(c0, np.uint64(k0), out=c0)
        np.bitwise_and(p1, _LOW, out=c1)
        np.right_shift(p0, _HALF, out=c2)
        np.bitwise_xor(c2, c3, out=c2)
        np.bitwise_xor(c2, np.uint64(k1), out=c2)
        np.bitwise_and(p0, _LOW, out=c3)
        k0, k1 = (k0 + _W0) % _WORD, (k1 + _W1) % _WORD


def standard_normal(
    seed: int,
    image_id: int,
    phase: int,
    samples: ArrayLike,
    shape: tuple[int, int, int],
    *,
    attempt: int = 0,
) -> NDArray[np.float32]:
    """Standard normal noise of some samples of one image.

    Parameters
    ----------
    seed, image_id : int
        Run seed in [0, 2^64), image id in [0, 2^32).
    phase : int
        Phase byte, 0 .. 255 (`Draw.stream`).
    samples : array_like of int, shape (n,)
        Sample indices, each in [0, 2^32).
    shape : tuple of int
        Image shape (height, width, channels).
    attempt : int
        0 .. 65535; a rerun that may replace an earlier result must use a new one.

    Returns
    -------
    ndarray of float32, shape (n, height, width, channels)
    """
    ids, streams, index = checked_rows(image_id, phase, samples, attempt)
    words = block_words(seed, ids, streams, index, blocks_per_image(shape))
    pairs = [uniform_from_word(w).astype(np.float64) for w in words]
    lanes = np.empty((*words[0].shape, 4), np.float32)
    for first, (u1, u2) in ((0, pairs[:2]), (2, pairs[2:])):
        radius, angle = np.sqrt(-2.0 * np.log(u1)), 2.0 * np.pi * u2
        lanes[..., first] = radius * np.cos(angle)
        lanes[..., first + 1] = radius * np.sin(angle)
    return lanes_to_images(lanes, shape)


def checked_rows(
    image_id: int, phase: int, samples: ArrayLike, attempt: int
) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint64]]:
    """Counter words c2, c3 and c1 of samples of one image, one row each, after their checks."""
    index = _as_words("samples", samples, None).ravel()
    ids = np.full(index.shape, _in_range("image_id", image_id, _WORD), np.uint64)
    streams = np.full(index.shape, counter_word3(phase, attempt), np.uint64)
    return ids, streams, index


def block_words(
    seed: int,
    image_ids: NDArray[np.uint64],
    streams: NDArray[np.uint64],
    samples: NDArray[np.uint64],
    blocks: int,
) -> list[NDArray[np.uint64]]:
    """Random words of whole rows: four arrays of shape (rows, blocks), values < 2^32.

    Row r has image id ``image_ids[r]``, fourth counter word ``streams[r]`` and sample index
    ``samples[r]``; its blocks are 0 .. blocks - 1.
    """
    seed = _in_range("seed", seed, 1 << 64)
    rows = (len(samples), blocks)
    words = [np.empty(rows, np.uint64) for _ in range(4)]
    words[0][:] = np.arange(blocks, dtype=np.uint64)
    for word, column in zip(words[1:], (samples, image_ids, streams), strict=True):
        word[:] = column[:, None]
    philox_in_place(words, seed % _WORD, seed >> 32)
    return words


def uniform_from_word(word: NDArray[np.uint64]) -> NDArray[np.float32]:
    """u = float32(w) * 2^-32 + 2^-33, every step rounded to float32."""
    return word.astype(np.float32) * np.float32(2.0**-32) + np.float32(2.0**-33)


def counter_word3(phase: int, attempt: int = 0) -> int:
    """Fourth counter word: phase | stream version << 8 | attempt << 16."""
    low = _in_range("phase", phase, 256) | STREAM_VERSION << 8
    return low | _in_range("attempt", attempt, 1 << 16) << 16


def blocks_per_image(shape: tuple[int, int, int]) -> int:
    """Number of Philox blocks of an image of shape (height, width, channels)."""
    height, width, channels = shape
    blocks = height * width if channels in (3, 4) else -(-height * width * channels // 4)
    if min(shape) < 1 or blocks > _WORD:
        raise ArgumentError("shape", "must be positive, and of at most 2^32 blocks", shape)
    return blocks


def lanes_to_images(lanes: NDArray[Value], shape: tuple[int, int, int]) -> NDArray[Value]:
    """Lay out (n, blocks, 4) lanes as (n, height, width, channels)."""
    height, width, channels = shape
    if channels in (3, 4):
        return lanes[..., :channels].reshape(-1, height, width, channels)
    flat = lanes.reshape(len(lanes), -1)
    return flat[:, : height * width * channels].reshape(-1, height, width, channels)


def _as_words(name: str, value: ArrayLike, last: int | None) -> NDArray[np.uint64]:
    array = np.asarray(value)
    if array.dtype.kind not in "ui" and array.size:
        raise ArgumentError(name, "must hold integers", array.dtype)
    if last is not None and (array.ndim == 0 or array.shape[-1] != last):
        raise ArgumentError(name, f"must have {last} words on its last axis", array.shape)
    if array.size and (int(array.min()) < 0 or int(array.max()) >= _WORD):
        raise ArgumentError(name, "must be in [0, 2^32)", f"{array.min()} .. {array.max()}")
    return array.astype(np.uint64)


def _in_range(name: str, value: int, stop: int) -> int:
    if not isinstance(value, int | np.integer) or not 0 <= value < stop:
        raise ArgumentError(name, f"must be an integer in [0, {stop})", value)
    return int(value)
