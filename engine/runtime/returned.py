"""What a procedure did and gives back, checked: a method may be anybody's."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from dualsmooth.engine.certificate import MOST_RADIUS, Claim
from dualsmooth.engine.checks import keep_plain
from dualsmooth.engine.draws import DrawRecord, Phase
from dualsmooth.engine.errors import ArgumentError


def check_disjoint(records: Sequence[DrawRecord]) -> None:
    """Refuse two draws of an image that read a sample of a phase and level: noise counts once.

    A search compares noise levels on the same noise; its votes enter no bound.
    """
    ranges: dict[tuple[str, int], list[tuple[int, int]]] = {}
    for record in records:
        if record.phase in (Phase.SEARCH.name, Phase.SEARCH_CHECK.name):
            continue
        part = ranges.setdefault((record.phase, record.level), [])
        part.append((record.first, record.first + record.count))
    for (phase, level), part in ranges.items():
        part.sort()
        for (_, end), (start, _) in pairwise(part):
            if start < end:
                found = f"sample {start} of {phase}, level {level}, which is used twice"
                hint = "draws that choose and draws that estimate differ in phase or in `first`"
                raise ArgumentError("method", "must read noise once", found, hint)


def checked_claim(claim: Any, classes: int, alpha: float) -> Claim:
    """What a procedure claims, if a certificate of these classes at this alpha can say it."""
    if not isinstance(claim, Claim):
        raise ArgumentError("method", "must return a Claim", type(claim).__name__, "Claim.of")
    keep_plain(claim, "predicted", "radius", "sigma")
    if claim.alpha.budget != alpha:
        rule = f"must claim at the alpha that was asked for, {alpha:g}"
        raise ArgumentError("method", rule, claim.alpha.budget)
    if not (type(claim.radius) is float and 0.0 <= claim.radius < MOST_RADIUS):
        raise ArgumentError("method", f"must claim radii in [0, {MOST_RADIUS:g})", claim.radius)
    if claim.predicted is not None and not (
        type(claim.predicted) is int and 0 <= claim.predicted < classes
    ):
        rule = f"must claim a class in 0 .. {classes - 1}, or None"
        raise ArgumentError("method", rule, claim.predicted)
    return claim
