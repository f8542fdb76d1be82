"""The record of one sequential test, as certificates of a ``decide`` budget hold it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RadiusTest:
    """Group-sequential test of P(event) <= p0, as run by a ``decide`` budget.

    Its plan is ``decision_plan(radius, sigma, most, alpha)`` of `dualsmooth.engine.decision_plan`,
    with the sigma and the alpha of the bound it belongs to.

    Parameters
    ----------
    radius : float
        Radius of the grid that was tested.
    p0 : float
        Phi(radius / sigma), rounded up.
    most : int
        Votes at the last look of the plan.
    look, n, k : int
        Index of the look that decided, votes seen by then, and votes for the event among them.
    threshold, futility : int
        Counts at that look from which on it certifies, and down from which it gives up.
    outcome : str
        ``certified``, ``futile``, ``undecided`` (at the last look) or ``unreachable`` (not even
        ``most`` votes for the event would do; nothing was drawn, and look is -1).
    """

    radius: float
    p0: float
    most: int
    look: int
    n: int
    k: int
    threshold: int
    futility: int
    outcome: str
