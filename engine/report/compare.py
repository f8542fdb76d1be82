"""Runs on the same images: two image by image, and all against the best fixed sigma."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dualsmooth.engine.report.reading import Run
from dualsmooth.engine.runs.summary import Summary


@dataclass(frozen=True, slots=True)
class Pair:
    """How many images both, one or neither of two runs certify correctly at a radius."""

    radius: float
    both: int
    only_first: int
    only_second: int
    neither: int

    @property
    def images(self) -> int:
        """Images the runs have in common."""
        return self.both + self.only_first + self.only_second + self.neither


def compare(
    first: Run, second: Run, radii: Sequence[float], *, at_least: bool = False
) -> list[Pair]:
    """Count agreements on the images both runs certified; empty if they share none.

    Images are matched by their ids. One id with two true classes shows that the ids belong to
    different data sets, which share no image.
    """
    others = {row.image_id: row for row in second.rows if row.image_id is not None}
    shared = [(row, others[row.image_id]) for row in first.rows if row.image_id in others]
    if any(a.label != b.label for a, b in shared):
        return []
    pairs = []
    for r in radii if shared else ():
        votes = [tuple(row.certified_beyond(r, at_least) for row in pair) for pair in shared]
        kinds = ((True, True), (True, False), (False, True), (False, False))
        pairs.append(Pair(r, *(votes.count(kind) for kind in kinds)))
    return pairs


@dataclass(frozen=True, slots=True)
class Gap:
    """How far a run is above (+) or below (-) the best fixed sigma, chosen afresh at each radius.

    ``points`` are points of certified accuracy, None where neither certifies any image; ``image``
    is what one image is worth.
    """

    name: str
    points: dict[float, float | None]
    acr: float
    image: float

    def __str__(self) -> str:
        """In words, such as ``above by up to 1.2 points at 0.5; level at 0, 0.25``."""
        parts = []
        for word, sign in (("above", 1), ("level", 0), ("below", -1)):
            at = {r: p for r, p in self.points.items() if p is not None and np.sign(p) == sign}
            most = f" by up to {max(map(abs, at.values())):.1f} points" if at and sign else ""
            parts += [f"{word}{most} at {', '.join(f'{r:g}' for r in at)}"] if at else []
        return "; ".join(parts) or "nothing certified at any of the radii"


def signed(value: float, decimals: int = 1) -> str:
    """A difference with its sign; what rounds to zero has none."""
    rounded = round(value, decimals)
    return f"{rounded or 0.0:{'+' if rounded else ''}.{decimals}f}"


def against_best_fixed(summaries: Sequence[Summary], runs: Sequence[Run] = ()) -> list[Gap]:
    """Every run that is not of a fixed sigma, against those that are, on the same images.

    Without ``runs`` all summaries are of the same images, and names say which sigma is fixed.
    """
    about: list[tuple[bool, Run | None]] = [(_is_fixed(run), run) for run in runs]
    about = about or [(s.name.startswith("fixed"), None) for s in summaries]
    gaps = []
    for (fixed, run), s in zip(about, summaries, strict=True):
        pairs = zip(about, summaries, strict=True)
        best = [f for (is_fixed, other), f in pairs if is_fixed and _same_images(run, other)]
        if fixed or not best:
            continue
        points: dict[float, float | None] = {}
        image = 100 / max(1, s.images)
        for r, count in s.certified.items():
            top = max(f.certified[r] for f in best)
            points[r] = (count - top) * image if count or top else None
        gaps.append(Gap(s.name, points, s.acr - max(f.acr for f in best), image))
    return gaps


def _is_fixed(run: Run) -> bool:
    if not run.configuration:
        return run.name.startswith("fixed")
    return bool(run.configuration["options"].get("method") == "fixed")


def _same_images(first: Run | None, second: Run | None) -> bool:
    """Whether the ids are known and equal, and so are the true classes and digests of the data."""
    if first is None or second is None:
        return True
    digests = {run.configuration.get("data_digest") for run in (first, second)} - {None}
    ours, theirs = ({(row.image_id, row.label) for row in run.rows} for run in (first, second))
    known = bool(ours) and all(image_id is not None for image_id, _ in ours)
    return known and ours == theirs and len(digests) < 2


Column = float | str
"""A radius, or ``ACR``."""


def cells(summary: Summary) -> dict[Column, str]:
    """What stands in a run's row of a table: accuracies in %, then ACR."""
    found: dict[Column, str] = {r: f"{100 * summary.accuracy(r):.1f}" for r in summary.certified}
    return found | {"ACR": f"{summary.acr:.3f}"}


def leaders(summaries: Sequence[Summary]) -> list[set[Column]]:
    """Columns in which a run is the best of several, ties included.

    None where all are equal, and none at all unless all are of equally many images.
    """
    rows = [[*map(s.accuracy, s.certified), s.acr] for s in summaries]
    tops = [
        max(column) if min(column) < max(column) else None for column in zip(*rows, strict=True)
    ]
    names: list[Column] = [*summaries[0].certified, "ACR"]
    if len({s.images for s in summaries}) > 1:
        return [set() for _ in summaries]
    return [
        {name for name, value, top in zip(names, row, tops, strict=True) if value == top}
        for row in rows
    ]
