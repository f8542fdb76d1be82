"""Thresholds of the integer noise as the compiled loops read them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dualsmooth.kernels.errors import KernelArgumentError


@dataclass(frozen=True, slots=True)
class GridTables:
    """Tables of some noise levels; make them with `GridTables.pack`.

    Parameters
    ----------
    limits : ndarray of uint64, shape (levels, 2^k - 1)
        Thresholds, ascending, padded with 2^64 - 1.
    counts : ndarray of int64, shape (levels,)
        Thresholds in use; half of them belong to negative noise.
    """

    limits: NDArray[np.uint64]
    counts: NDArray[np.int64]

    @classmethod
    def pack(cls, tables: Sequence[NDArray[np.uint64]]) -> "GridTables":
        """Tables side by side, with a width that a binary search halves evenly.

        Raises
        ------
        KernelArgumentError
            If there is no table, or one is empty, odd in length, of another type or not ascending.
        """
        for table in tables:
            fits = (
                table.dtype == np.uint64 and table.ndim == 1 and len(table) and not len(table) % 2
            )
            if not fits or not (table[:-1] <= table[1:]).all():
                rule = "must be ascending uint64 of even length"
                raise KernelArgumentError("tables", rule, f"{table.dtype} {table.shape}")
        if not tables:
            raise KernelArgumentError("tables", "must not be empty", tables)
        longest = max(len(table) for table in tables)
        limits = np.full((len(tables), (1 << longest.bit_length()) - 1), 2**64 - 1, np.uint64)
        for row, table in zip(limits, tables, strict=True):
            row[: len(table)] = table
        return cls(limits, np.array([len(table) for table in tables], np.int64))

    def check(self, levels: NDArray[np.int64]) -> None:
        """Refuse levels without a table."""
        if len(levels) and not 0 <= levels.min() <= levels.max() < len(self.counts):
            rule = f"must name levels below {len(self.counts)}"
            raise KernelArgumentError("segments", rule, levels.tolist())

    def pointers(self) -> tuple[int, int, int]:
        """Addresses of limits and counts, and the width; they live as long as this object."""
        return self.limits.ctypes.data, self.counts.ctypes.data, self.limits.shape[1]
