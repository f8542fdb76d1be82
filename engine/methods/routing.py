"""Selector votes turned into noise levels: routing, chains of intervals and their constancy."""

from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple

from dualsmooth.engine.draws import Counts
from dualsmooth.engine.ledger import AlphaLedger, Bound
from dualsmooth.engine.methods.votes import event_bound, majority_class, top_class
from dualsmooth.engine.radius.gaussian import interval_radius

Interval = tuple[int, int]
"""First and last noise-level index of a set of neighbouring levels."""


def routed_level(rule: str, guess: Counts) -> int | None:
    """The level a selector's votes name; None if every vote is invalid.

    Plurality: most voted, lowest on ties. Median: lowest with at least half of all votes at or
    below it; invalid votes count, so they push it up, to the last level at most.
    """
    if rule == "plurality":
        return top_class(guess)
    cumulative = guess[:-1].cumsum()
    if not cumulative[-1]:
        return None
    reached = (2 * cumulative >= guess.sum()).nonzero()[0]
    return int(reached[0]) if len(reached) else len(cumulative) - 1


def growing_chain(guess: Counts, start: int) -> list[Interval]:
    """Intervals growing from the routed level to all levels, by selection votes only.

    Step 1 of procedure C1: each step adds the neighbour on the side with more selection votes.
    """
    low = high = start
    last = len(guess) - 2
    chain = [(low, high)]
    while (low, high) != (0, last):
        below, above = guess[:low].sum(), guess[high + 1 : -1].sum()
        if low > 0 and (high == last or below >= above):
            low -= 1
        else:
            high += 1
        chain.append((low, high))
    return chain


def constancy_events(rule: str, interval: Interval, levels: int) -> list[tuple[str, int]]:
    """Events whose mass above 1/2 keeps the selected level inside the interval.

    Plurality: P(h = i). Median: P(h >= i) and P(h <= j), where the event is not certain; none if
    the interval holds all levels.
    """
    low, high = interval
    if rule == "plurality":
        return [("=", low)]
    below = [(">=", low)] if low > 0 else []
    return [*below, ("<=", high)] if high < levels - 1 else below


def constancy_bounds(
    rule: str, estimate: Counts, interval: Interval, tau: float, alpha: float
) -> tuple[Bound, ...]:
    """Bounds of `constancy_events`, each at the full alpha: only the smallest radius is claimed."""
    events = constancy_events(rule, interval, len(estimate) - 1)
    return tuple(event_bound("selector", estimate, *event, tau, alpha) for event in events)


def possible_levels(rule: str, selection: Counts, alpha: float) -> range:
    """Levels the population selector may pick, wrong with probability <= alpha.

    Plurality: the significant winner, or none. Median: the tightest interval whose two one-sided
    tests, nested over its ends and at alpha / 2 each, place more than half of the mass on it.
    """
    if rule == "plurality":
        level = majority_class(selection, alpha)
        return range(0) if level is None else range(level, level + 1)
    last = len(selection) - 2

    def exceeds_half(event: str, index: int) -> bool:
        return event_bound("selector", selection, event, index, 1.0, alpha / 2).radius > 0.0

    low = max((i for i in range(1, last + 1) if exceeds_half(">=", i)), default=0)
    high = min((j for j in range(last) if exceeds_half("<=", j)), default=last)
    return range(low, high + 1)


class Outcome(NamedTuple):
    """What a chain claims: radius, set of levels behind it, and the stage that allowed no more."""

    radius: float
    interval: Interval | None
    failed_at: str | None


@dataclass
class ChainClaim:
    """Radius of a growing chain as the classifiers' radii come in (steps 3 and 4 of C1).

    ``constancy`` has the radius per set inside which the selected level stays in it, non-
    decreasing; the chain is fixed before the estimation votes.
    """

    chain: list[Interval]
    constancy: list[float]
    smallest: list[float] = field(default_factory=list)

    def next_levels(self) -> list[int]:
        """Levels to certify for the next set; empty once no later set can improve the radius."""
        used = len(self.smallest)
        if used == len(self.chain) or max(self.constancy) <= 0.0:
            return []
        if not used:
            low, high = self.chain[0]
            return list(range(low, high + 1))
        if self.smallest[-1] <= self.radius or self.constancy[used - 1] >= self.smallest[-1]:
            return []
        (old_low, old_high), (low, high) = self.chain[used - 1 : used + 1]
        return [*range(low, old_low), *range(old_high + 1, high + 1)]

    def add(self, radii: list[float]) -> None:
        """Take the radii of the levels that `next_levels` named."""
        self.smallest.append(min([*self.smallest[-1:], *radii], default=inf))

    @property
    def radius(self) -> float:
        """Best radius so far; 0.0 before the first set."""
        return interval_radius(self.constancy[: len(self.smallest)], self.smallest)

    @property
    def interval(self) -> Interval | None:
        """Set behind the radius; None while nothing is certified."""
        radii = [min(pair) for pair in zip(self.constancy, self.smallest, strict=False)]
        return self.chain[radii.index(self.radius)] if self.radius > 0.0 else None

    @property
    def outcome(self) -> Outcome:
        """What the chain claims in the end."""
        reached_classifier = max(self.constancy) > 0.0 and not any(self.smallest[:1])
        failed_at = "classifier" if reached_classifier else "selector"
        return Outcome(self.radius, self.interval, failed_at)


class Route(NamedTuple):
    """What selection votes fix: the routed level, the chain of intervals and its error budget."""

    rule: str
    tau: float
    guess: Counts
    start: int
    chain: list[Interval]
    ledger: AlphaLedger

    def constancy(self, estimate: Counts) -> tuple[ChainClaim, list[Bound]]:
        """The chain with the selector's radii, and the distinct bounds behind them."""
        alpha = self.ledger.levels["selector"]
        sets = [constancy_bounds(self.rule, estimate, s, self.tau, alpha) for s in self.chain]
        radii = [min((bound.radius for bound in bounds), default=inf) for bounds in sets]
        distinct = {bound.event: bound for bounds in sets for bound in bounds}
        return ChainClaim(self.chain, radii), list(distinct.values())
