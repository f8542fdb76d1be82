"""The noise stream, version 1, as ONNX nodes: `noise.stream` is the specification.

Philox words are uint64 lanes with values below 2^32 and equal the specification's exactly. The
Box-Muller pairs are evaluated in float64 and rounded once to float32, as specified, so normals
differ only where a logarithm, sine or cosine of another library rounds to another float32. Every
counter word but the block index is an input of the graph, so nothing here folds into a large
constant.
"""

import math
from dataclasses import dataclass

import numpy as np

from dualsmooth.engine.draws import STREAM_VERSION
from dualsmooth.engine.noise.stream import ROUNDS, blocks_per_image
from dualsmooth.export.graph.nodes import DOUBLE, FLOAT, UINT64, Nodes

_M0, _M1 = 0xD2511F53, 0xCD9E8D57
_W0, _W1 = 0x9E3779B9, 0xBB67AE85
_LOW = 0xFFFFFFFF

WORDS = tuple(f"word{i}" for i in range(4))
"""Names of the four random words, each of shape (rows, blocks)."""

NOISE = "noise"
"""Name of the normals, shape (rows, height, width, channels)."""


@dataclass(frozen=True, slots=True)
class Stream:
    """Names of the values that say which noise is drawn.

    Round keys (`round_keys`) are k0 and k1 of each round in turn, uint64, shape (1,); image_id and
    word3 the third and fourth counter word, uint64, shape ().
    """

    keys: list[str]
    image_id: str
    word3: str


def round_keys(nodes: Nodes, key: str) -> list[str]:
    """Keys of all rounds from the key (low, high), uint32, shape (2,)."""
    weyl = np.arange(ROUNDS, dtype=np.uint64)[:, None] * np.array([_W0, _W1], np.uint64)
    wide = nodes.add("Cast", key, to=UINT64)
    sums = nodes.add("Add", wide, nodes.constant(weyl, np.uint64))
    words = nodes.add("BitwiseAnd", sums, nodes.constant(_LOW, np.uint64))
    flat = nodes.add("Reshape", words, nodes.constant([-1], np.int64))
    return nodes.split(flat, 2 * ROUNDS)


def fourth_word(nodes: Nodes, phase: str) -> str:
    """Counter word c3 from ``phase byte | attempt << 16``, uint32, shape ()."""
    version = nodes.constant(STREAM_VERSION << 8, np.uint64)
    return nodes.add("BitwiseOr", nodes.add("Cast", phase, to=UINT64), version)


def random_words(nodes: Nodes, stream: Stream, samples: str, blocks: int) -> list[str]:
    """Philox4x32-10 words of whole rows, uint64, each of shape (rows, blocks).

    The index of a block is the first counter word, `samples`, uint64, shape (rows, 1), the second.
    """
    multipliers = [nodes.constant(m, np.uint64) for m in (_M0, _M1)]
    low, half = nodes.constant(_LOW, np.uint64), nodes.constant(32, np.uint64)
    index = nodes.constant(np.arange(blocks)[None], np.uint64)
    words = [index, samples, stream.image_id, stream.word3]
    for i in range(ROUNDS):
        p0, p1 = (nodes.add("Mul", words[2 * j], multipliers[j]) for j in (0, 1))
        names = WORDS if i == ROUNDS - 1 else ("",) * 4
        high1, high0 = (nodes.add("BitShift", p, half, direction="RIGHT") for p in (p1, p0))
        keyed = [
            nodes.add("BitwiseXor", words[j], key)
            for j, key in ((1, stream.keys[2 * i]), (3, stream.keys[2 * i + 1]))
        ]
        words = [
            nodes.add("BitwiseXor", high1, keyed[0], output=names[0]),
            nodes.add("BitwiseAnd", p1, low, output=names[1]),
            nodes.add("BitwiseXor", high0, keyed[1], output=names[2]),
            nodes.add("BitwiseAnd", p0, low, output=names[3]),
        ]
    return words


def normals(nodes: Nodes, words: list[str], shape: tuple[int, int, int]) -> str:
    """Standard normals, float32, shape (rows, height, width, channels), from random words."""
    u1, u2 = (_uniform(nodes, _stack(nodes, words[i], words[i + 2])) for i in (0, 1))
    scaled = nodes.add("Mul", nodes.add("Log", u1), nodes.constant(-2.0, np.float64))
    radius = nodes.add("Sqrt", scaled)
    angle = nodes.add("Mul", u2, nodes.constant(2.0 * math.pi, np.float64))
    # cos a = sin(a + pi/2) to 1e-15: ONNX Runtime 1.21 has no Cos of float64.
    quarter = nodes.add("Add", angle, nodes.constant(math.pi / 2.0, np.float64))
    pairs = [
        nodes.add("Cast", nodes.add("Mul", radius, nodes.add("Sin", turned)), to=FLOAT)
        for turned in (quarter, angle)
    ]
    return _images(nodes, _stack(nodes, *pairs), shape)


def _uniform(nodes: Nodes, words: str) -> str:
    """u = float32(w) * 2^-32 + 2^-33, every step rounded to float32; given as float64."""
    floats = nodes.add("Cast", words, to=FLOAT)
    scaled = nodes.add("Mul", floats, nodes.constant(2.0**-32, np.float32))
    shifted = nodes.add("Add", scaled, nodes.constant(2.0**-33, np.float32))
    return nodes.add("Cast", shifted, to=DOUBLE)


def _stack(nodes: Nodes, first: str, second: str) -> str:
    last = nodes.constant([-1], np.int64)
    parts = (nodes.add("Unsqueeze", part, last) for part in (first, second))
    return nodes.add("Concat", *parts, axis=-1)


def _images(nodes: Nodes, lanes: str, shape: tuple[int, int, int]) -> str:
    """Lay out lanes, shape (rows, blocks, 2, 2), as channels-last images."""
    channels = shape[2]
    per_pixel = channels in (3, 4)
    layout = (0, blocks_per_image(shape), 4) if per_pixel else (0, -1)
    used, axis = (channels, 2) if per_pixel else (math.prod(shape), 1)
    flat = nodes.add("Reshape", lanes, nodes.constant(layout, np.int64))
    bounds = (nodes.constant([bound], np.int64) for bound in (0, used, axis))
    kept = nodes.add("Slice", flat, *bounds)
    return nodes.add("Reshape", kept, nodes.constant((0, *shape), np.int64), output=NOISE)
