"""Reading vote histograms: the steps every method shares."""

import numpy as np

from dualsmooth.engine.bounds.binomial import clopper_pearson_lower
from dualsmooth.engine.bounds.proportions import majority_p_value
from dualsmooth.engine.draws import Counts
from dualsmooth.engine.ledger import Bound
from dualsmooth.engine.radius.gaussian import gaussian_radius, margin_radius


def top_class(counts: Counts) -> int | None:
    """Most voted valid class, lowest index on ties; None if every vote was invalid."""
    valid = counts[:-1]
    return int(np.argmax(valid)) if valid.any() else None


def event_votes(counts: Counts, event: str, index: int) -> int:
    """Votes for an event: ``=``, ``>=``, ``<=`` (valid votes only) or ``!=`` an index."""
    if event == "!=":
        return int(counts.sum() - counts[index])
    valid = counts[:-1]
    members = {"=": valid[index : index + 1], ">=": valid[index:], "<=": valid[: index + 1]}[event]
    return int(members.sum())


def event_bound(
    stage: str, counts: Counts, event: str, index: int, sigma: float, alpha: float
) -> Bound:
    """Clopper-Pearson bound of an event and the radius inside which it keeps mass above 1/2.

    The event is ``=``, ``>=``, ``<=`` or ``!=`` an index. Invalid votes count in n, and in the
    event ``!=`` another index only.
    """
    k, n = event_votes(counts, event, index), int(counts.sum())
    lower = float(clopper_pearson_lower(k, n, alpha))
    radius = gaussian_radius(lower, sigma)
    return Bound(stage, f"{event} {index}", sigma, k, n, alpha, lower, radius)


def class_radius(
    counts: Counts, candidate: int, sigma: float, alpha: float, runner_up: bool
) -> tuple[float, tuple[Bound, ...]]:
    """Radius inside which a class keeps winning, and the bounds behind it, alpha in all.

    Without ``runner_up`` the class must keep more than half of the votes. With it, it must keep
    more than its strongest rival (invalid votes are one): the bound on the largest rival count
    needs no correction for the number of classes, because the true runner-up is one fixed class
    whose count is no larger. Both bounds enter one formula, so each is at alpha / 2. The candidate
    was chosen by other votes.
    """
    share = alpha / 2 if runner_up else alpha
    bound = event_bound("classifier", counts, "=", candidate, sigma, share)
    if not runner_up:
        return bound.radius, (bound,)
    rivals = counts.copy()
    rivals[candidate] = -1
    rival = event_bound("rival", counts, "!=", int(np.argmax(rivals)), sigma, share)
    radius = margin_radius(bound.lower, max(rival.lower, bound.lower), sigma / 2)
    return radius, (bound, rival)


def majority_class(counts: Counts, alpha: float) -> int | None:
    """Top class if its lead over the runner-up is significant at alpha, else None.

    The test of PREDICT (Hung and Fithian, 2019). Invalid votes may be the runner-up and are never
    the answer.
    """
    candidate = top_class(counts)
    if candidate is None:
        return None
    first, runner_up = int(counts[candidate]), int(np.delete(counts, candidate).max())
    significant = first >= runner_up and majority_p_value(first, runner_up) <= alpha
    return candidate if significant else None
