"""Reading vote histograms: the steps every method shares."""

import numpy as np

from dualsmooth.engine.bounds import clopper_pearson_lower, majority_p_value
from dualsmooth.engine.certificate import Bound
from dualsmooth.engine.draws import Counts
from dualsmooth.engine.radius import gaussian_radius


def top_class(counts: Counts) -> int | None:
    """Most voted valid class, lowest index on ties; None if every vote was invalid."""
    valid = counts[:-1]
    return int(np.argmax(valid)) if valid.any() else None


def event_votes(counts: Counts, event: str, index: int) -> int:
    """Valid votes for an event: ``=``, ``>=`` or ``<=`` the class or level index."""
    valid = counts[:-1]
    members = {"=": valid[index : index + 1], ">=": valid[index:], "<=": valid[: index + 1]}[event]
    return int(members.sum())


def event_bound(
    stage: str, counts: Counts, event: str, index: int, sigma: float, alpha: float
) -> Bound:
    """Clopper-Pearson bound of an event and the radius inside which it keeps mass above 1/2.

    Parameters
    ----------
    stage : str
        ``selector`` or ``classifier``.
    counts : Counts
        Votes, last entry invalid (counted in n, never in the event).
    event : str
        ``=``, ``>=`` or ``<=``, compared with the class index.
    index : int
        Class or level index.
    sigma : float
        Noise of the votes.
    alpha : float
        Level of the bound.
    """
    k, n = event_votes(counts, event, index), int(counts.sum())
    lower = float(clopper_pearson_lower(k, n, alpha))
    return Bound(
        stage, f"{event} {index}", sigma, k, n, alpha, lower, gaussian_radius(lower, sigma)
    )


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
