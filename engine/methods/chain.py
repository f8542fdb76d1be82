"""Adaptive budgets of a chain of noise levels: its sequential tests and its sample sizes.

Both are fixed by selection votes alone.
"""

from collections.abc import Sequence
from math import inf

import scipy

from dualsmooth.engine.bounds.sample_size import Pilot, planned_votes
from dualsmooth.engine.budget import Budget
from dualsmooth.engine.methods.decide import EventTests, VoteStream
from dualsmooth.engine.methods.routing import Route, constancy_events
from dualsmooth.engine.methods.votes import event_votes


def chain_trials(
    route: Route, selector: VoteStream, classifiers: Sequence[VoteStream], candidate: int
) -> list[list[EventTests]]:
    """One set of trials per interval: the selector stays in it, and all its levels answer alike.

    ``classifiers`` are the votes at each noise level, lowest first. Sets share trials: an event or
    a level is tested once at each radius.
    """
    events = [constancy_events(route.rule, part, len(classifiers)) for part in route.chain]
    levels = route.ledger.levels
    constancy = {
        event: EventTests("selector", event, selector, levels["selector"])
        for part in events
        for event in part
    }
    agreement = [
        EventTests("classifier", ("=", candidate), stream, levels["classifier"])
        for stream in classifiers
    ]
    return [
        [*(constancy[event] for event in part), *agreement[low : high + 1]]
        for part, (low, high) in zip(events, route.chain, strict=True)
    ]


def chain_sizes(
    route: Route, classifier: Pilot, budget: Budget, joint: int | None
) -> tuple[int, int]:
    """Votes of the selector and of each classifier for a ``precise`` budget.

    Planned for the interval that the pilots favour, with the votes of its weaker end. The rows of
    both are the same at the level ``joint``.
    """
    guess, level = route.guess, route.ledger.levels["selector"]
    reach, favoured, best = _outlook(classifier), None, -inf
    for interval in route.chain:
        events = constancy_events(route.rule, interval, len(guess) - 1)
        votes = [event_votes(guess, *event) for event in events]
        weaker = Pilot(min(votes), int(guess.sum()), route.tau, level) if votes else None
        held = inf if weaker is None else _outlook(weaker)
        if min(held, reach) > best:
            favoured, best = weaker, min(held, reach)
    assert budget.tolerance is not None
    return planned_votes(favoured, classifier, budget.n, budget.tolerance, route.start == joint)


def _outlook(pilot: Pilot) -> float:
    return pilot.sigma * float(scipy.special.ndtri((pilot.k + 0.5) / (pilot.n + 1.0)))
