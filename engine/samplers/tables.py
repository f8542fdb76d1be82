"""Tables a device reads: one row per sample in batches of a fixed shape, and noise levels."""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.noise.integer import thresholds
from dualsmooth.engine.samplers.sampler import Segment
from dualsmooth.engine.samplers.stream import DeviceStream
from dualsmooth.kernels.rows import WORD, Rows
from dualsmooth.kernels.thresholds import Thresholds

COLUMNS = ("slot", "sigma", "stream", "image", "sample", "segment")
"""Rows of a table, int32 [6, batch]; ``sigma`` holds the bits of a float32, or a level."""

LEVELS, WIDTH = 64, 8191
"""Noise levels a run may draw from, and thresholds per level: enough for sigma up to 1.75."""

Piece: TypeAlias = list[tuple[int, Segment]]
"""Segments, or parts of them, with the position of each in the caller's list."""


class ThresholdTables:
    """Thresholds of the integer noise that captured passes read, one row per noise level.

    A row is written when its level is first met, before the first pass that reads it.
    """

    def __init__(self, stream: DeviceStream) -> None:
        self._stream = stream
        self.tables = Thresholds(
            limits=stream.zeros(LEVELS, WIDTH, dtype=torch.int64),
            count=stream.zeros(LEVELS, dtype=torch.int32),
            lowest=stream.zeros(LEVELS, dtype=torch.int32),
        )
        self._levels: dict[float, int] = {}
        self._sources: list[torch.Tensor] = []

    def index(self, sigma: float) -> int:
        """Row of a noise level."""
        if sigma in self._levels:
            return self._levels[sigma]
        table, row = thresholds(sigma), len(self._levels)
        if len(table) > WIDTH:
            raise ArgumentError("sigma", "must be at most 1.75 for integer noise here", sigma)
        if row == LEVELS:
            rule = f"must be one of at most {LEVELS} noise levels for integer noise here"
            raise ArgumentError("sigma", rule, sigma)
        level = Thresholds.pack([table])
        self._write(self.tables.limits[row, : level.limits.shape[1]], level.limits[0])
        self._write(self.tables.count[row], level.count[0])
        self._write(self.tables.lowest[row], level.lowest[0])
        self._levels[sigma] = row
        return row

    def _write(self, target: torch.Tensor, values: torch.Tensor) -> None:
        source = self._stream.pinned(*values.shape, dtype=values.dtype)
        source.copy_(values)
        self._sources.append(source)  # until the copy has run
        self._stream.copy(target, source)


def device_rows(table: torch.Tensor, count: int) -> Rows:
    """Views of the first ``count`` columns of a table, as the kernels take them."""
    views = dict(zip(COLUMNS, (column[:count] for column in table), strict=True))
    views["sigma"] = views["sigma"].view(torch.float32)
    return Rows(**views)


def divide(segments: Sequence[Segment], rows: int, most: int) -> list[Piece]:
    """Cut segments into pieces of at most ``rows`` samples and ``most`` segments, in order."""
    pieces: list[Piece] = []
    room = 0
    for index, segment in enumerate(segments):
        done = 0
        while done < segment.count:
            if not room or len(pieces[-1]) == most:
                pieces.append([])
                room = rows
            count = min(segment.count - done, room)
            pieces[-1].append((index, segment.part(done, count)))
            done, room = done + count, room - count
    return pieces


def fill(
    tables: NDArray[np.int32],
    segments: Sequence[Segment],
    word3: int,
    levels: Sequence[int] | None = None,
) -> list[int]:
    """Write segments into tables of shape (tables, 6, batch), and return the rows in each used.

    Rows left over in the last table vote nowhere. ``word3`` is joined to every phase byte. With the
    level of every segment, ``sigma`` holds levels (int32) instead.
    """
    facts, batch = _facts(segments, word3, levels), tables.shape[2]
    words, places = tables.view(np.uint32), np.arange(batch, dtype=np.uint32)
    room = 0
    sizes: list[int] = []
    for column, segment in zip(facts, segments, strict=True):
        left = segment.count
        while left:
            if not room:
                sizes.append(0)
                room = batch
            table, at = words[len(sizes) - 1], batch - room
            count = min(left, room)
            table[:, at : at + count] = column
            left, room = left - count, room - count
            sizes[-1] += count
    for number, (table, size) in enumerate(zip(words, sizes, strict=False)):
        table[COLUMNS.index("sample"), :size] += places[:size] + np.uint32(number * batch)
        clear(tables[number, :, size:])
    return sizes


def _facts(
    segments: Sequence[Segment], word3: int, levels: Sequence[int] | None
) -> NDArray[np.uint32]:
    """A column for every segment, [segments, 6, 1]; ``sample`` is of its first row, less its place.

    So a row's own sample is that plus its place among all rows, modulo 2^32.
    """
    first, rows = 0, []
    for number, s in enumerate(segments):
        rows.append((s.slot, 0, s.stream | word3, s.image_id, (s.first - first) % WORD, number))
        first += s.count
    facts = np.array(rows, np.uint32)
    sigma = np.array([s.sigma for s in segments], np.float32).view(np.uint32)
    facts[:, COLUMNS.index("sigma")] = sigma if levels is None else levels
    return facts[:, :, None]


def clear(table: NDArray[np.int32]) -> None:
    """Make rows of a table padding: noise-free copies of slot 0 that vote nowhere."""
    table[...] = 0
    table[COLUMNS.index("segment")] = -1
