"""What a procedure asks for and what it gets back: the language between statistics and samplers."""

from dataclasses import dataclass, field
from enum import IntEnum
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from dualsmooth.engine.errors import ArgumentError

STREAM_VERSION = 1
LEVELS = 16
"""Number of noise levels with counters of their own."""


class Phase(IntEnum):
    """Disjoint parts of the noise stream: votes that choose never mix with votes that estimate."""

    SELECT_GUESS = 0
    SELECT_ESTIMATE = 1
    CLASS_GUESS = 2
    CLASS_ESTIMATE = 3
    SELECT_PREDICT = 4
    CLASS_PREDICT = 5
    SEARCH = 6
    SEARCH_CHECK = 7
    PAIR = 8
    CALIBRATE = 9


@dataclass(frozen=True, slots=True)
class Draw:
    """A request for the votes of samples ``first .. first + count - 1`` of one network.

    ``sigma`` is the noise standard deviation per pixel, in [0, 1] pixel units; each ``level``, 0 ..
    15, reads counters of its own. ``then`` is the draw that follows whatever it finds, as a rule,
    and ``ahead`` has the counts of those that continue it if its votes settle nothing: hints, rows
    to spare may vote on them early, and no vote depends on them.
    """

    model: str
    sigma: float
    phase: Phase
    first: int
    count: int
    level: int = 0
    ahead: tuple[int, ...] = field(default=(), compare=False, repr=False)
    then: "Draw | None" = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.level < LEVELS:
            raise ArgumentError("level", f"must be in 0 .. {LEVELS - 1}", self.level)
        if not 0 <= self.first <= self.first + self.count <= 1 << 32:
            raise ArgumentError("samples", "must be in [0, 2^32)", (self.first, self.count))

    @property
    def stream(self) -> int:
        """Phase byte of the noise counter: the phase in the low half, the level in the high."""
        return int(self.phase) | self.level << 4


Counts: TypeAlias = NDArray[np.int64]
"""Votes per class, shape (classes + 1,); the last entry counts invalid votes."""


@dataclass(frozen=True, slots=True)
class DrawRecord:
    """One draw and the votes it returned (last entry: invalid)."""

    model: str
    sigma: float
    phase: str
    level: int
    first: int
    count: int
    votes: tuple[int, ...]

    @classmethod
    def of(cls, draw: Draw, votes: Counts) -> "DrawRecord":
        """The record of a draw."""
        name, at = draw.phase.name, (draw.level, draw.first, draw.count)
        return cls(draw.model, draw.sigma, name, *at, tuple(votes.tolist()))

    @property
    def draw(self) -> Draw:
        """The draw that was asked for; KeyError or `ArgumentError` if no run asks for it."""
        return Draw(self.model, self.sigma, Phase[self.phase], self.first, self.count, self.level)


@dataclass(frozen=True, slots=True)
class Prediction:
    """Answer of PREDICT for one image: a class or None, and the noise levels that voted.

    ``abstained_at`` is ``selector`` or ``classifier``; None if a class is returned.
    """

    predicted: int | None
    sigmas: tuple[float, ...]
    abstained_at: str | None
