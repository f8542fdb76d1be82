"""Exact law of a success count over several looks, on the event that no threshold was reached.

The law is carried from look to look by convolution with a binomial increment. Only a band around
the mean is kept, and the mass cut from it is handed to the caller to book as an error: a computed
error probability is never too small.
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_NEGLIGIBLE = 1e-20


class LiveCounts:
    """Law of the count K on "not stopped yet", starting from no votes, each a success at p."""

    def __init__(self, p: float) -> None:
        self._p, self._votes = p, 0
        self._first, self._mass = 0, np.ones(1)  # mass[i] = P(K = first + i, not stopped)
        self._increments: dict[int, tuple[int, Array, float]] = {}

    def advance(self, votes: int) -> float:
        """Draw up to ``votes`` votes in all; return the mass cut from the band, below 1e-19."""
        offset, increment, missed = self._increment(votes - self._votes)
        skipped, self._mass, cut = _band(np.convolve(self._mass, increment))
        self._first, self._votes = self._first + offset + skipped, votes
        return missed + cut

    def least_threshold(self, level: float) -> int:
        """Least c with P(K >= c, not stopped) <= level; votes + 1 if there is none."""
        if not level > 0.0:
            return self._votes + 1
        tails = np.cumsum(self._mass[::-1])[::-1]  # smallest terms first
        return self._first + int(np.count_nonzero(tails > level))

    def stop(self, threshold: int) -> float:
        """Remove and return the mass at or above ``threshold``."""
        keep = max(threshold - self._first, 0)
        stopped = float(self._mass[keep:].sum())
        self._mass = self._mass[:keep] if keep else np.zeros(1)
        return stopped

    def _increment(self, votes: int) -> tuple[int, Array, float]:
        if votes not in self._increments:
            from scipy.stats import binom  # slow to import, and most runs make no plan

            mass = binom.pmf(np.arange(votes + 1), votes, self._p)
            # Thousands of looks would add up a pmf that sums to 1 + 1e-13.
            self._increments[votes] = _band(mass / mass.sum())
        return self._increments[votes]


def _band(mass: Array) -> tuple[int, Array, float]:
    """Cut both ends holding at most 1e-20 each: entries skipped, entries kept, mass cut."""
    low = int(np.searchsorted(np.cumsum(mass), _NEGLIGIBLE, side="right"))
    high = mass.size - int(np.searchsorted(np.cumsum(mass[::-1]), _NEGLIGIBLE, side="right"))
    if low >= high:
        return 0, np.zeros(1), float(mass.sum())
    return low, mass[low:high], float(mass[:low].sum() + mass[high:].sum())
