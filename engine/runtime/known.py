"""Votes that are known before a draw is complete: of its first samples, and of earlier runs."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from dualsmooth.engine.draws import Counts, Draw, DrawRecord


@dataclass
class Tally:
    """Votes of the first samples of a draw."""

    votes: Counts = field(default_factory=lambda: np.zeros((), np.int64))
    counted: int = 0

    def add(self, votes: NDArray[np.int64], count: int) -> None:
        """Add the votes of the next ``count`` samples."""
        self.votes = self.votes + votes
        self.counted += count


class RecordedVotes:
    """Draws that earlier runs recorded, by image."""

    def __init__(self) -> None:
        self._votes: dict[int, dict[Draw, dict[int, tuple[int, ...]]]] = {}

    def add(self, image_id: int, record: DrawRecord) -> None:
        """Take in the votes of one draw."""
        start = replace(record.draw, count=0)
        self._votes.setdefault(image_id, {}).setdefault(start, {})[record.count] = record.votes

    def part(self, image_ids: Iterable[int]) -> "RecordedVotes":
        """The votes of some images."""
        book = RecordedVotes()
        book._votes = {i: self._votes[i] for i in image_ids if i in self._votes}
        return book

    def find(self, image_id: int, draw: Draw) -> Tally:
        """Votes of the first samples of a draw that runs recorded: of all, some or none."""
        found, known = Tally(), self._votes.get(image_id, {})
        while found.counted < draw.count:
            pieces = known.get(replace(draw, first=draw.first + found.counted, count=0), {})
            counts = [count for count in pieces if count <= draw.count - found.counted]
            if not counts:
                break
            found.add(np.array(pieces[max(counts)], np.int64), max(counts))
        return found
