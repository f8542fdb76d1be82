"""How many votes each stage of a certificate may use."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

from dualsmooth.engine.checks import check_votes, keep_plain, open_unit, positive
from dualsmooth.engine.errors import ArgumentError

KINDS = ("fixed", "decide", "precise")

PILOT = {"fixed": 100, "decide": 100, "precise": 500}
"""Selection votes by default: a precise budget reads the sample size off them too."""

VOTES = 10_000
"""Votes that enter the bounds by default, in Python and on the command line alike. A first answer
on a laptop needs no more; published tables use 100,000, which reach radii of 3.8 instead of 3.2
sigma."""

ANSWERS = 1000
"""Votes of PREDICT by default: whether a class wins takes fewer than by how much."""


@dataclass(frozen=True, slots=True)
class Budget:
    """Numbers of votes, the same for the selector and the classifier.

    Make one with `fixed`, `decide` or `precise`.

    Parameters
    ----------
    n0 : int
        Votes that choose (class, noise level, chain of intervals, sample size) and enter no bound.
    n : int
        Fresh votes that enter the bounds: exactly n if fixed, else at most n.
    radii : tuple of float
        Grid of a ``decide`` budget, increasing; empty for the others.
    tolerance : float or None
        Radius a ``precise`` budget may give up, as a share; None for the others.
    """

    n0: int
    n: int
    radii: tuple[float, ...] = ()
    tolerance: float | None = None

    def __post_init__(self) -> None:
        keep_plain(self, "n0", "n", "radii", "tolerance")
        for name in ("n0", "n"):
            check_votes(name, getattr(self, name))
        for radius in self.radii:
            positive("radii", radius)
        if any(not b > a for a, b in pairwise(self.radii)):
            raise ArgumentError("radii", "must increase", self.radii)
        if self.tolerance is not None:
            open_unit("tolerance", self.tolerance)
            if self.radii:
                rule, hint = "belongs to a precise budget", "leave out radii or tolerance"
                raise ArgumentError("tolerance", rule, self.tolerance, hint)

    @property
    def kind(self) -> str:
        """``fixed``, ``decide`` or ``precise``."""
        return "decide" if self.radii else "fixed" if self.tolerance is None else "precise"

    @classmethod
    def fixed(cls, n0: int = PILOT["fixed"], n: int = VOTES) -> Self:
        """Cohen et al.'s budget: n0 votes to choose, n votes to estimate, for every image."""
        return cls(n0, n)

    @classmethod
    def decide(cls, radii: Sequence[float], n0: int = PILOT["decide"], n: int = VOTES) -> Self:
        """Decide for each radius of a grid whether the certified radius exceeds it.

        Exact group-sequential tests stop at the decision, after at most n votes per stage. The
        radii are fixed before the votes are seen: finite, > 0, increasing. The largest one
        certified is reported.
        """
        grid = tuple(radii) if isinstance(radii, Iterable) and not isinstance(radii, str) else ()
        if not grid:
            raise ArgumentError("radii", "must be a list of radii", radii, "such as [0.5]")
        return cls(n0, n, grid)

    @classmethod
    def precise(cls, tolerance: float = 0.05, n0: int = PILOT["precise"], n: int = VOTES) -> Self:
        """As few votes as should keep the radius within ``tolerance`` of that of n votes.

        The n0 votes choose the sample size; what is certified does not rest on their guess. The
        tolerance is the share of the radius that may be lost on average, in (0, 1).
        """
        return cls(n0, n, (), tolerance)
