"""Bounds, and the ledger that joins their levels: what a certificate may say it spent."""

import re
from dataclasses import dataclass

from dualsmooth.engine.errors import ArgumentError


@dataclass(frozen=True, slots=True)
class RadiusTest:
    """Group-sequential test of P(event) <= p0, as run by a ``decide`` budget.

    Its plan is ``decision_plan(radius, sigma, most, alpha)`` of `radius.decision`, with the sigma
    and the alpha of the bound it belongs to; p0 is Phi(radius / sigma), rounded up, and ``most``
    the votes at the last look. ``look`` is the index of the look that decided, after n votes with k
    for the event; from ``threshold`` on it certifies there, down from ``futility`` it gives up. The
    outcome is ``certified``, ``futile``, ``undecided`` (at the last look) or ``unreachable`` (not
    even ``most`` votes for the event would do; nothing was drawn, and look is -1).
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


LEDGER_RULES = ("single", "minimum", "sum", "chain")
_EVENT = re.compile(r"(=|>=|<=|!=) \d{1,9}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Bound:
    """A one-sided binomial bound: P(event) >= ``lower``, wrong with probability <= ``alpha``.

    With a ``decide`` budget it stands for the tests of one event: ``lower`` is the p0 of the
    largest radius certified, ``radius`` that radius, k and n those of the last test. What the
    alpha covers then is the radius of the certificate, not each of its bounds alone.

    Parameters
    ----------
    stage : str
        ``selector``, ``classifier``, ``rival`` (the strongest other class), ``earlier`` (a larger
        noise level of a cascade) or ``agreement`` (pairs of networks that do not disagree).
    event : str
        What the votes counted: ``= 3`` (class or level 3), ``>= 1`` or ``<= 1`` (level index),
        ``!= 5`` (every vote but those for class 5).
    sigma : float
        Noise of the votes, and scale of the radius.
    k, n : int
        Votes for the event, and votes in all.
    alpha, lower : float
        Level of this bound, and Clopper-Pearson's lower bound at it, rounded down.
    radius : float
        sigma * z(lower), rounded down.
    tests : tuple of RadiusTest
        Tests of a ``decide`` budget, in the order of the radii; empty for the others.
    """

    stage: str
    event: str
    sigma: float
    k: int
    n: int
    alpha: float
    lower: float
    radius: float
    tests: tuple[RadiusTest, ...] = ()

    def __post_init__(self) -> None:
        if not _EVENT.fullmatch(self.event):
            raise ArgumentError("event", "must be a relation and an index, like >= 1", self.event)

    @property
    def relation(self) -> str:
        """``=``, ``>=``, ``<=`` or ``!=``."""
        return self.event.partition(" ")[0]

    @property
    def index(self) -> int:
        """The class or level index that votes are compared with."""
        return int(self.event.partition(" ")[2])


@dataclass(frozen=True, slots=True)
class AlphaLedger:
    """Failure probability of a certificate: levels per stage and the rule that joins them.

    Rules: ``single`` (one bound), ``minimum`` (only the smallest radius is claimed, so the largest
    level is the total; intersection-union tests, Berger 1982), ``sum`` (Bonferroni) and ``chain``
    (theorem C1 of `dualsmooth.engine.methods.dual`: selector + classifier). The radii of a
    ``decide`` grid are claimed in a fixed sequence, which costs nothing more.

    Parameters
    ----------
    rule : str
        One of `LEDGER_RULES`.
    budget : float
        Alpha the user asked for; the joined total must not exceed it.
    levels : dict of str to float
        Level of every bound of a stage, for example ``{"selector": 5e-4, "classifier": 5e-4}``.
    """

    rule: str
    budget: float
    levels: dict[str, float]

    def __post_init__(self) -> None:
        if self.rule not in LEDGER_RULES:
            raise ArgumentError("rule", f"must be one of {', '.join(LEDGER_RULES)}", self.rule)
        if not self.levels:
            raise ArgumentError("levels", "must name at least one stage", self.levels)
        if not self.total <= self.budget:
            raise ArgumentError("alpha", "ledger must not exceed its budget", self.total)

    @property
    def total(self) -> float:
        """Joined failure probability."""
        levels = self.levels.values()
        return sum(levels) if self.rule in ("sum", "chain") else max(levels)
