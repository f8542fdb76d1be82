"""Two runs on the same images, image by image."""

from collections.abc import Sequence
from dataclasses import dataclass

from dualsmooth.engine.report.reading import Run


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
