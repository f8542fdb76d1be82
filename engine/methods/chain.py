"""Adaptive budgets of a chain of noise levels: its sequential tests and its sample sizes.

Both are fixed by selection votes alone.
"""

from collections.abc import Sequence
from math import inf

from scipy.special import ndtri

from dualsmooth.engine.bounds.sample_size import Pilot, planned_votes
from dualsmooth.engine.draws import Counts
from dualsmooth.engine.ledger import AlphaLedger
from dualsmooth.engine.methods.decide import Stream, Trial
from dualsmooth.engine.methods.routing import Interval, constancy_events
from dualsmooth.engine.methods.votes import event_votes


def chain_trials(
    rule: str,
    chain: Sequence[Interval],
    selector: Stream,
    classifiers: Sequence[Stream],
    candidate: int,
    ledger: AlphaLedger,
) -> list[list[Trial]]:
    """One set of trials per interval: the selector stays in it, and all its levels answer alike.

    Sets share trials: an event or a level is tested once at each radius.

    Parameters
    ----------
    rule : str
        Selector rule, ``median`` or ``plurality``.
    chain : sequence of Interval
        Growing sets of levels.
    selector : Stream
        Votes of the selector.
    classifiers : sequence of Stream
        Votes at each noise level, lowest first.
    candidate : int
        Class the levels must agree on.
    ledger : AlphaLedger
        Levels of the tests.
    """
    events = [constancy_events(rule, interval, len(classifiers)) for interval in chain]
    constancy = {
        event: Trial("selector", event, selector, ledger.levels["selector"])
        for part in events
        for event in part
    }
    agreement = [
        Trial("classifier", ("=", candidate), stream, ledger.levels["classifier"])
        for stream in classifiers
    ]
    return [
        [*(constancy[event] for event in part), *agreement[low : high + 1]]
        for part, (low, high) in zip(events, chain, strict=True)
    ]


def chain_sizes(
    rule: str,
    chain: Sequence[Interval],
    selector: tuple[Counts, float],
    classifier: Pilot,
    ledger: AlphaLedger,
    n: int,
    tolerance: float,
) -> tuple[int, int]:
    """Votes of the selector and of each classifier for a ``precise`` budget.

    Planned for the interval that the pilots favour, with the votes of its weaker end.

    Parameters
    ----------
    rule, chain, ledger
        As in `chain_trials`.
    selector : tuple of (Counts, float)
        Selection votes of the selector, and its noise.
    classifier : Pilot
        Selection votes for the candidate.
    n, tolerance
        As in `planned_votes`.
    """
    guess, tau = selector
    reach, favoured, best = _outlook(classifier), None, -inf
    for interval in chain:
        events = constancy_events(rule, interval, len(guess) - 1)
        votes, level = [event_votes(guess, *event) for event in events], ledger.levels["selector"]
        weaker = Pilot(min(votes), int(guess.sum()), tau, level) if votes else None
        held = inf if weaker is None else _outlook(weaker)
        if min(held, reach) > best:
            favoured, best = weaker, min(held, reach)
    return planned_votes(favoured, classifier, n, tolerance)


def _outlook(pilot: Pilot) -> float:
    return pilot.sigma * float(ndtri((pilot.k + 0.5) / (pilot.n + 1.0)))
