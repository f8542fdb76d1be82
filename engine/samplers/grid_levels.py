"""Thresholds of the integer noise on a device: one row per noise level, in place for graphs."""

import numpy as np
import torch

from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.noise.integer import thresholds
from dualsmooth.engine.samplers.stream import DeviceStream
from dualsmooth.kernels.thresholds import Thresholds

LEVELS, WIDTH = 64, 8191
"""Noise levels a run may draw from, and thresholds per level: enough for sigma up to 1.75."""


class GridLevels:
    """Static tables that captured passes read; a level is written when it is first met.

    Parameters
    ----------
    stream : DeviceStream
        Where the tables live. A row is written once, before the first pass that reads it.
    """

    def __init__(self, stream: DeviceStream) -> None:
        self._stream = stream
        self.tables = Thresholds(
            limits=stream.zeros(LEVELS, WIDTH, dtype=torch.int64),
            count=stream.zeros(LEVELS, dtype=torch.int32),
            lowest=stream.zeros(LEVELS, dtype=torch.int32),
            digest="",
        )
        self._levels: dict[float, int] = {}
        self._sources: list[torch.Tensor] = []

    def index(self, sigma: float) -> int:
        """Row of a noise level.

        Raises
        ------
        ArgumentError
            If sigma is outside its range, or there are more levels than rows.
        """
        if sigma not in self._levels:
            table = thresholds(sigma)
            if len(table) > WIDTH:
                raise ArgumentError("sigma", "must be at most 1.75 for integer noise here", sigma)
            if len(self._levels) == LEVELS:
                rule = f"must be one of at most {LEVELS} noise levels for integer noise here"
                raise ArgumentError("sigma", rule, sigma)
            row = len(self._levels)
            half = len(table) // 2
            values = torch.from_numpy(table.view(np.int64).copy())
            self._write(self.tables.limits[row, : len(table)], values)
            self._write(self.tables.count[row], torch.tensor(len(table), dtype=torch.int32))
            self._write(self.tables.lowest[row], torch.tensor(-half, dtype=torch.int32))
            self._levels[sigma] = row
        return self._levels[sigma]

    def _write(self, target: torch.Tensor, values: torch.Tensor) -> None:
        source = self._stream.pinned(*values.shape, dtype=values.dtype)
        source.copy_(values)
        self._sources.append(source)  # until the copy has run
        self._stream.copy(target, source)
