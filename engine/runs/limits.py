"""What limited a certificate: the selector's side or the classifier's.

A radius of a method with a selector is the smaller of two: the one inside which the selected level
stays in the set claimed, and the one inside which every classifier of that set keeps the class.
"""

from math import inf
from typing import NamedTuple

from dualsmooth.engine.certificate import Certificate
from dualsmooth.engine.ledger import Bound


class Sides(NamedTuple):
    """Radius each side allows, and which of them is the radius claimed.

    The selector's is infinite where the set claimed holds every level, and None without a selector;
    both are None if nothing was certified. ``limit`` is ``selector``, ``classifier``, ``both``,
    ``votes`` (the bound behind the radius has every vote, so only more of them would raise it),
    ``region``, or the stage that abstained; ``votes`` are those behind the smallest classifier
    bound, as k/n.
    """

    selector: float | None
    classifier: float | None
    limit: str
    votes: str


def sides(certificate: Certificate) -> Sides:
    """Both sides of a certificate, read from its bounds."""
    classifiers = _behind(certificate, "classifier")
    weakest = min(classifiers, key=lambda bound: bound.radius, default=None)
    votes = f"{weakest.k:,}/{weakest.n:,}" if weakest else ""
    if certificate.predicted is None:
        return Sides(None, None, certificate.abstained_at or "", votes)
    # With the runner-up rule the radius is above that of the class's bound alone.
    classifier = max(weakest.radius if weakest else 0.0, certificate.radius)
    if certificate.interval is None:
        if certificate.radius == certificate.region:
            return Sides(None, classifier, "region", votes)
        return Sides(None, classifier, _or_votes("classifier", weakest), votes)
    least = min(_behind(certificate, "selector"), key=lambda bound: bound.radius, default=None)
    selector = least.radius if least else inf
    if selector < classifier:
        return Sides(selector, classifier, _or_votes("selector", least), votes)
    limit = "both" if selector == classifier else _or_votes("classifier", weakest)
    return Sides(selector, classifier, limit, votes)


def _or_votes(side: str, bound: Bound | None) -> str:
    return "votes" if bound and bound.k == bound.n else side


def _behind(certificate: Certificate, stage: str) -> list[Bound]:
    """Bounds of a stage that the claimed set of levels rests on; all of them if none is claimed."""
    bounds = [bound for bound in certificate.bounds if bound.stage == stage]
    if certificate.interval is None:
        return bounds
    low, high = certificate.interval
    if stage == "selector":
        events = ((">=", low), ("<=", high), ("=", low))
        return [bound for bound in bounds if (bound.relation, bound.index) in events]
    votes = [draw for draw in certificate.counts if draw.phase.startswith("CLASS")]
    levels = {draw.sigma for draw in votes if low <= draw.level <= high}
    return [bound for bound in bounds if bound.sigma in levels] or bounds
