"""Tables a device reads: one row per sample in batches of a fixed shape, and noise levels."""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.noise.integer import thresholds
from dualsmooth.engine.samplers.sampler import Segment, unroll
from dualsmooth.engine.samplers.stream import DeviceStream
from dualsmooth.kernels.rows import Rows
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
    rows, batch = unroll(segments), tables.shape[2]
    sigma = rows["sigma"].astype(np.float32).view(np.int32)
    if levels is not None:
        sigma = np.array(levels, np.int32)[rows["segment"]]
    columns = (
        rows["slot"].astype(np.int32),
        sigma,
        (rows["stream"] | np.uint64(word3)).astype(np.uint32).view(np.int32),
        rows["image_id"].astype(np.uint32).view(np.int32),
        rows["sample"].astype(np.uint32).view(np.int32),
        rows["segment"].astype(np.int32),
    )
    sizes = []
    for table, start in zip(tables, range(0, len(rows), batch), strict=False):
        size = min(batch, len(rows) - start)
        for target, column in zip(table, columns, strict=True):
            target[:size] = column[start : start + size]
        clear(table[:, size:])
        sizes.append(size)
    return sizes


def clear(table: NDArray[np.int32]) -> None:
    """Make rows of a table padding: noise-free copies of slot 0 that vote nowhere."""
    table[...] = 0
    table[COLUMNS.index("segment")] = -1
