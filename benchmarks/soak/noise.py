"""Soak of the noise stream: ``python benchmarks/soak/noise.py --words 1e10``.

Words are drawn as certification draws them: images 32 x 32 of 1,024 Philox blocks, 10,240 samples
per image, one image after another. Tested are values (16-bit halves of each lane, pairs of low and
of high bytes), likeness to the neighbours that counters make (bits that agree with the next block,
sample, image and phase), and the law of the normals. ``--stream`` writes the words to standard
output instead, for other batteries:

    python benchmarks/soak/noise.py --stream | dieharder -a -g 200
    python benchmarks/soak/noise.py --stream | RNG_test stdin32 -tlmax 1TB
"""

import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.special import ndtri

from dualsmooth.benchmarks.soak.fuzz.tell import arguments, tell
from dualsmooth.engine.noise.stream import block_words, counter_word3, uniform_from_word

BLOCKS, ROWS, CHUNKS_PER_IMAGE = 1024, 256, 40
WORDS = BLOCKS * ROWS * 4
"""Words of a chunk."""

PHASE = 3
FALSE_ALARM = 1e-6
"""Of all tests of a run together."""

NORMALS_EVERY = 8
"""Chunks of which one is turned into normals."""

Words = NDArray[np.uint32]
Draw = Callable[[int, int, int], Words]
"""Words (rows, blocks, 4) of an image, a phase and a first sample."""

_HALF_BITS = stats.binom.pmf(np.arange(33), 32, 0.5)
_EDGES = ndtri(np.arange(1, 1024) / 1024)


def philox(seed: int) -> Draw:
    """The engine's words."""

    def draw(image: int, phase: int, first: int) -> Words:
        ids, streams = (np.full(ROWS, w, np.uint64) for w in (image, counter_word3(phase)))
        samples = np.arange(first, first + ROWS, dtype=np.uint64)
        return np.stack(block_words(seed, ids, streams, samples, BLOCKS), axis=-1).astype(np.uint32)

    return draw


def places(chunks: int) -> Iterator[tuple[int, int]]:
    """Image and first sample of each chunk."""
    for chunk in range(chunks):
        yield chunk // CHUNKS_PER_IMAGE, chunk % CHUNKS_PER_IMAGE * ROWS


class Soak:
    """Counts of everything that is tested."""

    def __init__(self, draw: Draw) -> None:
        self._draw = draw
        self._cells: dict[str, NDArray[np.int64]] = defaultdict(lambda: np.zeros(1, np.int64))
        self._expected: dict[str, NDArray[np.float64] | None] = {}
        self.words = 0

    def add(self, image: int, first: int, *, normals: bool) -> None:
        """Draw a chunk and count."""
        words = self._draw(image, PHASE, first)
        self.words += words.size
        for lane in range(4):
            halves = np.ascontiguousarray(words[..., lane]).view(np.uint16)
            self._count(f"lane {lane}, low half", halves[:, 0::2], 1 << 16)
            self._count(f"lane {lane}, high half", halves[:, 1::2], 1 << 16)
        left, right = words[..., :3], words[..., 1:]
        self._count("low bytes of neighbours", (left & 255) << 8 | right & 255, 1 << 16)
        self._count("high bytes of neighbours", left >> 24 << 8 | right >> 24, 1 << 16)
        self._agree("block", words[:, 1:], words[:, :-1])
        self._agree("sample", words[1:], words[:-1])
        self._agree("lane", words[..., 1:], words[..., :-1])
        if normals:
            self._agree("image", words, self._draw(image + 1, PHASE, first))
            self._agree("phase", words, self._draw(image, PHASE + 1, first))
            self._normals(words)

    def _count(self, name: str, values: NDArray[Any], cells: int) -> None:
        self._cells[name] = self._cells[name] + np.bincount(values.ravel(), minlength=cells)

    def _agree(self, name: str, one: Words, other: Words) -> None:
        name = f"bits that differ from the next {name}"
        self._count(name, np.bitwise_count(one ^ other), 33)
        self._expected[name] = _HALF_BITS

    def _normals(self, words: Words) -> None:
        u = uniform_from_word(words.astype(np.uint64)).astype(np.float64)
        r, turn = np.sqrt(-2.0 * np.log(u[..., 0::2])), 2.0 * np.pi * u[..., 1::2]
        z = np.stack([r * np.cos(turn), r * np.sin(turn)])
        self._count("normals in 1,024 equal bins", np.searchsorted(_EDGES, z), 1024)
        beyond = np.floor(np.minimum(np.abs(z), 6.0)).astype(np.int64)
        self._count("normals by whole sd", beyond, 7)
        tail = 2.0 * stats.norm.sf(np.arange(7))
        self._expected["normals by whole sd"] = tail - np.append(tail[1:], 0.0)

    def p_values(self) -> dict[str, float]:
        """Chi-square tests, cells with fewer than 5 expected pooled; single bits of the halves."""
        p = {name: self._p_value(name, cells) for name, cells in self._cells.items()}
        halves = {name: cells for name, cells in self._cells.items() if name.endswith("half")}
        return p | {f"{name}, bits": _bits_p_value(cells) for name, cells in halves.items()}

    def _p_value(self, name: str, found: NDArray[np.int64]) -> float:
        law = self._expected.get(name)
        share = np.full(len(found), 1.0 / len(found)) if law is None else law
        expected = share * found.sum()
        few = expected < 5.0
        found, expected = (
            np.append(part[~few], part[few].sum()) if few.any() else part
            for part in (found, expected)
        )
        if expected[-1] == 0.0:
            found, expected = found[:-1], expected[:-1]
        statistic = float(((found - expected) ** 2 / expected).sum())
        return float(stats.chi2.sf(statistic, len(found) - 1))

    def alarms(self) -> list[str]:
        """Tests that fail, for being too far from the law or too near to it."""
        p = self.p_values()
        level = FALSE_ALARM / (2 * len(p))
        return [name for name, value in p.items() if not level < value < 1.0 - level]


def _bits_p_value(cells: NDArray[np.int64]) -> float:
    """Whether each of 16 bits is set half of the time."""
    n = int(cells.sum())
    ones = np.array([cells[np.arange(1 << 16) >> bit & 1 == 1].sum() for bit in range(16)])
    return float(stats.chi2.sf(float(((ones - n / 2) ** 2 / (n / 4)).sum()), 16))


def main() -> None:
    """Test, or write words to standard output; exit code 1 if a test fails."""
    parser = arguments(__doc__)
    parser.add_argument("--words", type=float, default=1e10)
    parser.add_argument("--stream", action="store_true", help="write words to standard output")
    options = parser.parse_args()
    draw = philox(options.seed)
    if options.stream:
        for image, first in places(1 << 62):
            sys.stdout.buffer.write(draw(image, PHASE, first).tobytes())
    soak, chunks, start = Soak(draw), max(2, -(-int(options.words) // WORDS)), time.perf_counter()
    for chunk, (image, first) in enumerate(places(chunks)):
        soak.add(image, first, normals=chunk % NORMALS_EVERY == 0)
        if (chunk + 1) * 10 // chunks > chunk * 10 // chunks:
            print(f"{soak.words:>15,} words, alarms: {soak.alarms() or 'none'}", flush=True)
    result = {
        "words": soak.words,
        "seed": options.seed,
        "false_alarm": FALSE_ALARM,
        "alarms": soak.alarms(),
        "p_values": soak.p_values(),
    }
    tell(result, options.out, start)
    raise SystemExit(1 if soak.alarms() else 0)


if __name__ == "__main__":
    main()
