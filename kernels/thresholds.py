"""Thresholds of the exact integer noise (arXiv 2207.07209), side by side as kernels read them.

With U uniform in [0, 2^64), E = min {i : U < T_i}; the last i takes the rest. The caller computes
the T_i of each noise level (`dualsmooth.engine.noise.integer.thresholds`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from dualsmooth.kernels.errors import KernelArgumentError


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Tables of some noise levels on one device; make them with `Thresholds.pack`."""

    limits: torch.Tensor  # int64 [levels, table], bits of uint64, ascending, padded with ones
    count: torch.Tensor  # int32 [levels], thresholds in use
    lowest: torch.Tensor  # int32 [levels], noise value of a word below every threshold

    @property
    def steps(self) -> int:
        """Probes of the binary search: 2^steps > table."""
        return int(self.limits.shape[1]).bit_length()

    @classmethod
    def pack(
        cls, tables: Sequence[NDArray[np.uint64]], device: torch.device | str = "cpu"
    ) -> "Thresholds":
        """Tables of 2 m thresholds, m the largest noise value, of each level in order.

        The common width is 2^k - 1, which a binary search halves evenly.
        """
        for table in tables:
            fits = table.dtype == np.uint64 and table.ndim == 1 and len(table)
            if not fits or len(table) % 2 or not (table[:-1] <= table[1:]).all():
                rule = "must be ascending uint64 of even length"
                raise KernelArgumentError("tables", rule, f"{table.dtype} {table.shape}")
        if not tables:
            raise KernelArgumentError("tables", "must not be empty", tables)
        count = np.array([len(table) for table in tables], np.int32)
        limits = np.full((len(tables), (1 << int(count.max()).bit_length()) - 1), -1, np.int64)
        for row, table in zip(limits, tables, strict=True):
            row[: len(table)] = table.view(np.int64)
        columns = (torch.from_numpy(values).to(device) for values in (limits, count, -(count // 2)))
        return cls(*columns)
