"""Sample sizes of a ``precise`` budget, chosen from pilot votes alone.

Nothing here needs to be exact: a bound holds for any sample size fixed before its votes are drawn.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import scipy
from numpy.typing import NDArray

Array = NDArray[np.float64]

FEWEST = 100
_CHOICES, _POINTS = 40, 16


@dataclass(frozen=True, slots=True)
class Pilot:
    """Votes that chose: k of n for the event, under noise sigma; alpha is its bound's level."""

    k: int
    n: int
    sigma: float
    alpha: float


@lru_cache(maxsize=4096)
def planned_votes(
    selector: Pilot | None, classifier: Pilot, n: int, tolerance: float, shared: bool = False
) -> tuple[int, int]:
    """Fewest votes whose expected radius is close to that of n for each stage.

    Given the pilots, the two probabilities are taken as independent Beta(k + 0.5, n - k + 0.3): a
    little more faith in certain votes than Jeffreys' 0.5, as many images are nearly certain. The
    radius is the smaller of the two stages', so a stage that is clearly better needs few votes; a
    selector of None cannot bind. ``tolerance`` is the share of the expected radius that may be
    lost. Where the votes of both stages are ``shared`` there are equally many, and they are paid
    for once.
    """
    votes = _choices(n)
    lower = _radii(classifier, n)
    upper = np.full((1, 1), np.inf) if selector is None else _radii(selector, n)
    smaller = np.minimum(upper[:, None, :, None], lower[None, :, None, :]).mean(axis=(2, 3))
    enough = smaller >= (1.0 - tolerance) * smaller[-1, -1]
    join = np.maximum if shared else np.add
    total = np.where(enough, join.outer(votes[: len(upper)], votes), np.iinfo(np.int64).max)
    first, second = np.unravel_index(int(np.argmin(total)), total.shape)
    if shared:
        first = second = max(first, second)
    return int(votes[first]), int(votes[second])


def _choices(n: int) -> NDArray[np.int64]:
    """Sample sizes to choose from, up to 19 % apart at n = 100,000."""
    return np.unique(np.rint(np.geomspace(min(FEWEST, n), n, _CHOICES)).astype(np.int64))


@lru_cache(maxsize=4096)
def _radii(pilot: Pilot, n: int) -> Array:
    """Radii each sample size would give at equally likely probabilities: [choices, points]."""
    votes, shares = _choices(n)[:, None], (np.arange(_POINTS) + 0.5) / _POINTS
    p = scipy.special.betaincinv(pilot.k + 0.5, pilot.n - pilot.k + 0.3, shares)
    successes = votes * p
    z = scipy.special.ndtri(
        scipy.special.betaincinv(successes, votes - successes + 1.0, pilot.alpha)
    )
    return np.asarray(pilot.sigma * np.maximum(z, 0.0))
