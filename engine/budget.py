"""How many votes each stage of a certificate may use."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from dualsmooth.engine.checks import open_unit, positive
from dualsmooth.engine.errors import ArgumentError

KINDS = ("fixed", "decide", "precise")
PILOT = {"fixed": 100, "decide": 100, "precise": 500}
"""Selection votes by default: a precise budget reads the sample size off them too."""


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

    Raises
    ------
    ArgumentError
        If a number is out of range, radii do not increase, or radii and tolerance are both given.
    """

    n0: int
    n: int
    radii: tuple[float, ...] = ()
    tolerance: float | None = None

    def __post_init__(self) -> None:
        for name in ("n0", "n"):
            check_votes(name, getattr(self, name))
        for radius in self.radii:
            positive("radii", radius)
        if any(not b > a for a, b in pairwise(self.radii)):
            raise ArgumentError("radii", "must increase", self.radii)
        if self.tolerance is not None:
            open_unit("tolerance", self.tolerance)
            if self.radii:
                raise ArgumentError("tolerance", "belongs to a precise budget", self.tolerance,
                                    "leave out radii or tolerance")  # fmt: skip

    @property
    def kind(self) -> str:
        """``fixed``, ``decide`` or ``precise``."""
        return "decide" if self.radii else "fixed" if self.tolerance is None else "precise"

    @classmethod
    def fixed(cls, n0: int = PILOT["fixed"], n: int = 100_000) -> "Budget":
        """Cohen et al.'s budget: n0 votes to choose, n votes to estimate, for every image."""
        return cls(n0, n)

    @classmethod
    def decide(
        cls, radii: Sequence[float], n0: int = PILOT["decide"], n: int = 100_000
    ) -> "Budget":
        """Decide for each radius of a grid whether the certified radius exceeds it.

        Exact group-sequential tests stop at the decision, after at most n votes. The reported
        radius is the largest one of the grid that was certified.

        Parameters
        ----------
        radii : sequence of float
            Fixed before the votes are seen: finite, > 0, increasing; at least one.
        n0, n : int
            Votes to choose, and most votes to decide, per stage.
        """
        grid = tuple(radii)
        if not grid:
            raise ArgumentError("radii", "must hold at least one radius", grid)
        return cls(n0, n, grid)

    @classmethod
    def precise(
        cls, tolerance: float = 0.05, n0: int = PILOT["precise"], n: int = 100_000
    ) -> "Budget":
        """As few votes as should keep the radius within ``tolerance`` of that of n votes.

        The n0 votes choose the sample size; what is certified does not rest on their guess.

        Parameters
        ----------
        tolerance : float
            Share of the radius that may be lost on average, in (0, 1).
        n0, n : int
            Votes to choose, and most votes to estimate, per stage.
        """
        return cls(n0, n, (), tolerance)


def budget_from_options(
    kind: str, radii: str | None, tolerance: float | None, n0: int | None, n: int
) -> Budget:
    """A budget as the command line gives it; ``radii`` is a comma-separated list.

    Raises
    ------
    ArgumentError
        If the kind is unknown or an option does not belong to it.
    """
    if kind not in KINDS:
        raise ArgumentError("budget", f"must be one of {', '.join(KINDS)}", kind)
    for name, value, owner in (("radii", radii, "decide"), ("tolerance", tolerance, "precise")):
        if value is not None and kind != owner:
            raise ArgumentError(name, f"belongs to --budget {owner}", value)
    n0 = PILOT[kind] if n0 is None else n0
    if kind == "fixed":
        return Budget.fixed(n0, n)
    if kind == "precise":
        return Budget.precise(n0=n0, n=n) if tolerance is None else Budget.precise(tolerance, n0, n)
    if radii is None:
        raise ArgumentError("radii", "are required by --budget decide", None,
                            "for example --radii 0.25,0.5")  # fmt: skip
    try:
        grid = [float(radius) for radius in radii.split(",")]
    except ValueError:
        raise ArgumentError("radii", "must be numbers with commas between them", radii) from None
    return Budget.decide(grid, n0, n)


def check_runner_up(runner_up: bool, budget: Budget) -> None:
    """Raise `ArgumentError` if runner-up bounds are asked of a budget that has none."""
    if runner_up and budget.kind == "decide":
        raise ArgumentError("runner_up", "must be off with a decide budget", True,
                            "its tests are about more than half of the votes")  # fmt: skip


def check_votes(name: str, count: int) -> int:
    """Return a vote count; raise `ArgumentError` unless it is an integer in [1, 2^32)."""
    if type(count) is not int or not 1 <= count < 1 << 32:
        raise ArgumentError(name, "must be an integer in [1, 2^32)", count)
    return count
