"""Operating points: where a selector with one real output draws the lines between noise levels.

A score u(x) and K - 1 thresholds t_1 <= .. <= t_{K-1} make a vote for level #{k : u > t_k}. Moving
the thresholds moves a whole bundle between small and large noise, without training. A point is
chosen before the votes: it is part of what is certified, and of the bundle's digest.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import isfinite
from typing import Any

from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.models.bundle import SELECTOR, Bundle

BALANCED = "balanced"
"""The point a bundle has unless told otherwise; every bundle with points has it."""

TOLD = {"prefer": "prefer", "target_sigma": "target"}
"""Options that users tell a selector, and its keywords."""


def thresholds_at(points: Mapping[str, Sequence[float]], prefer: str | float) -> tuple[float, ...]:
    """Thresholds of a named point, or of `balanced` with a number added to each.

    A threshold is in units of the score, a log odds: with 0.7 the gains of smaller noise count
    e^0.7 = 2 times what they counted, with -0.7 half.

    Raises
    ------
    ArgumentError
        If points are not lists of equally many ascending numbers with `balanced` among them, or
        there is no such point.
    """
    known = points if isinstance(points, Mapping) and all(map(_ascends, points.values())) else {}
    if BALANCED not in known or len({len(point) for point in known.values()}) != 1:
        rule = f"must be {BALANCED} and others, each as many ascending numbers"
        raise ArgumentError("points", rule, points)
    if isinstance(prefer, str) and prefer in known:
        return tuple(map(float, known[prefer]))
    if not _is_number(prefer):
        raise ArgumentError("prefer", f"must be {', '.join(known)} or a finite number", prefer)
    return tuple(threshold + float(prefer) for threshold in known[BALANCED])


def told(bundle: Bundle, argument: str, value: object) -> Bundle:
    """The bundle with an option of its selector changed: another bundle, another digest.

    `ArgumentError` about the argument if there is no selector, or it takes no such keyword.
    """
    selector, key = bundle.networks.get(SELECTOR), TOLD[argument]
    if selector is None or key not in selector.kwargs:
        rule = f"must be left out: the selector of {bundle.name} takes none"
        raise ArgumentError(argument, rule, value)
    changed = replace(selector, kwargs={**selector.kwargs, key: value})
    made = replace(bundle, networks={**bundle.networks, SELECTOR: changed})
    return made.read_from(bundle.source)


def as_told(bundle: Bundle, other: Bundle) -> Bundle:
    """The bundle with what a user may tell a selector as another one has been told it."""
    ours, theirs = (dict(b.networks[SELECTOR].kwargs) if b.tau else {} for b in (bundle, other))
    for argument, key in TOLD.items():
        if key in ours and key in theirs:
            bundle = told(bundle, argument, theirs[key])
    return bundle


def at_point(bundle: Bundle, prefer: str) -> Bundle:
    """The bundle at a point of its selector, as the command line gives it: a name, or a number.

    It is another bundle, with another digest. `ArgumentError` if the selector has no such point.
    """
    try:
        point: str | float = float(prefer)
    except ValueError:
        point = prefer
    moved = told(bundle, "prefer", point)
    thresholds_at(points_of(bundle), point)
    return moved


def points_of(bundle: Bundle) -> Mapping[str, Sequence[float]]:
    """Thresholds of a bundle's operating points by name; none if its selector has none."""
    selector = bundle.networks.get(SELECTOR)
    points: Any = selector.kwargs.get("points", {}) if selector else {}
    return dict(points)


def _ascends(point: object) -> bool:
    numbers = isinstance(point, list | tuple) and len(point) > 0 and all(map(_is_number, point))
    return numbers and list(point) == sorted(point)  # type: ignore[call-overload]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
