"""How many votes each stage of a certificate may use."""

from dataclasses import dataclass

from dualsmooth.engine.errors import ArgumentError


@dataclass(frozen=True, slots=True)
class Budget:
    """Numbers of votes, the same for the selector and the classifier.

    Parameters
    ----------
    n0 : int
        Votes that choose (class, noise level, chain of intervals) and enter no bound.
    n : int
        Fresh votes that enter the bounds.
    """

    n0: int
    n: int

    def __post_init__(self) -> None:
        for name in ("n0", "n"):
            check_votes(name, getattr(self, name))

    @classmethod
    def fixed(cls, n0: int = 100, n: int = 100_000) -> "Budget":
        """Cohen et al.'s budget: n0 votes to choose, n votes to estimate, for every image."""
        return cls(n0, n)


def check_votes(name: str, count: int) -> int:
    """Return a vote count; raise `ArgumentError` unless it is an integer in [1, 2^32)."""
    if type(count) is not int or not 1 <= count < 1 << 32:
        raise ArgumentError(name, "must be an integer in [1, 2^32)", count)
    return count
