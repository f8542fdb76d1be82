"""Plans of a ``decide`` budget: when the votes of one event settle whether its radius exceeds r."""

import math
from collections.abc import Sequence
from functools import lru_cache

import scipy

from dualsmooth.engine.bounds.sequential import GroupSequentialPlan, group_sequential_plan
from dualsmooth.engine.checks import positive, positive_integer
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.radius.gaussian import QUANTILE_ERROR, gaussian_radius
from dualsmooth.engine.radius.two_scale import noise_scale

FIRST_LOOK = 100
GROWTH = 1.05


@lru_cache(maxsize=32)
def decision_looks(n: int) -> tuple[int, ...]:
    """Votes at each look: every 100 at first, from 2,000 on 5 % apart, the last at n.

    102 looks at n = 100,000. Looks every 100 throughout would be 1,000; they save under 5 % of
    the votes and make certificates, which list every draw, ten times longer.
    """
    looks = [FIRST_LOOK]
    while looks[-1] < positive_integer("n", n):
        looks.append(max(looks[-1] + FIRST_LOOK, int(looks[-1] * GROWTH)))
    return (*(look for look in looks if look < n), n)


@lru_cache(maxsize=1024)
def decision_plan(radius: float, sigma: float, n: int, alpha: float) -> GroupSequentialPlan | None:
    """Exact group-sequential test of P(event) <= Phi(radius / sigma), with futility.

    Rejecting shows that the event's radius sigma z(P(event)) is above ``radius``, wrong with
    probability at most alpha over all looks, the last at n votes. Futility stops a true radius
    above it with probability at most alpha; it is not binding. None if not even n votes for the
    event would show it.
    """
    p0, looks = least_probability(radius, sigma), decision_looks(n)
    if not p0 < 1.0:
        return None
    plan = group_sequential_plan(p0, looks, alpha, beta=alpha)
    reachable = any(c <= votes for c, votes in zip(plan.thresholds, looks, strict=True))
    return plan if reachable else None


def check_reachable(radii: Sequence[float], sigma: float, n: int, alpha: float) -> None:
    """Raise `ArgumentError` if n votes at the largest sigma cannot reach the last radius."""
    if radii and decision_plan(radii[-1], sigma, n, alpha) is None:
        ceiling = gaussian_radius(alpha ** (1.0 / n), sigma)
        rule = f"must be below {ceiling:.4g}, which is all that n={n} votes at sigma={sigma:g} show"
        raise ArgumentError("radii", rule, radii[-1], "leave it out or raise n")


def least_probability(radius: float, sigma: float) -> float:
    """A p with ``gaussian_radius(p, sigma) >= radius``: Phi(radius / sigma) rounded up, or 1."""
    z = positive("radius", radius) / noise_scale(sigma)
    p = float(scipy.special.ndtr(z + 2.0 * QUANTILE_ERROR * (1.0 + z)))
    while not gaussian_radius(p, sigma) >= radius:
        p = math.nextafter(p, 1.0)
    return p
