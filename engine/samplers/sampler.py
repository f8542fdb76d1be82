"""Segments: pieces of draws, packed into the fixed-shape batches a sampler runs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dualsmooth.engine.checks import positive_integer
from dualsmooth.engine.draws import Draw
from dualsmooth.engine.machine import available_cores


@dataclass(frozen=True, slots=True)
class Segment:
    """Samples ``first .. first + count - 1`` of one draw, for the image loaded into ``slot``.

    ``image_id`` is the second counter word of its noise, ``stream`` the phase byte (`Draw.stream`).
    """

    slot: int
    image_id: int
    sigma: float
    stream: int
    first: int
    count: int

    @classmethod
    def of(cls, draw: Draw, slot: int, image_id: int, done: int, count: int) -> "Segment":
        """Samples ``done .. done + count - 1`` of a draw."""
        return cls(slot, image_id, draw.sigma, draw.stream, draw.first + done, count)

    def part(self, done: int, count: int) -> "Segment":
        """The next ``count`` samples of this segment after ``done`` of them."""
        return replace(self, first=self.first + done, count=count)


Pending: TypeAlias = Callable[[], NDArray[np.int64]]
"""Waits for votes and returns them; every call returns the same."""


class Sampler(Protocol):
    """Answers draws: adds noise, runs the network, takes the argmax and counts."""

    @property
    def depth(self) -> int:
        """Submissions worth having under way at once, >= 1."""

    @property
    def capacity(self) -> int:
        """Rows of one call that costs no padding; a call may hold more or fewer."""

    @property
    def batch_size(self) -> int:
        """Rows of the fixed padded shape every forward pass has."""

    def load(self, slot: int, image: Any) -> None:
        """Put an image, float32, shape (height, width, channels), into a slot.

        Always a NumPy array, but for a sampler on a device, which may get a tensor.
        """

    def count(self, model: str, segments: Sequence[Segment]) -> NDArray[np.int64]:
        """Votes per segment, shape (segments, classes + 1); the last column is invalid votes."""

    def submit(self, model: str, segments: Sequence[Segment]) -> Pending:
        """Start what `count` does. Images named by the segments must stay until it is awaited."""


class OwnedSampler(Sampler, Protocol):
    """A sampler as its owner sees it."""

    @property
    def name(self) -> str:
        """Implementation, as certificates record it."""

    def close(self) -> None:
        """Stop its threads."""


class Closing(Protocol):
    """Is closed at the end of its ``with`` block."""

    def close(self) -> None:
        """Stop what runs for it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def thread_count(threads: int | None) -> int:
    """Batches in work at once: as many as asked for, by default one per core."""
    return available_cores() if threads is None else positive_integer("threads", threads)


MakeSampler: TypeAlias = Callable[..., OwnedSampler]
"""What `dualsmooth.engine.samplers.choose.make_sampler` is."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Segments unrolled to one entry per sample; all arrays have shape (rows,)."""

    segment: NDArray[np.int64]
    slot: NDArray[np.int64]
    image_id: NDArray[np.uint64]
    sigma: NDArray[np.float64]
    stream: NDArray[np.uint64]
    sample: NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.segment)

    def __getitem__(self, part: slice) -> "Rows":
        return Rows(*(getattr(self, name)[part] for name in Rows.__slots__))


def unroll(segments: Sequence[Segment]) -> Rows:
    """One row per sample, in segment order."""
    counts = np.array([s.count for s in segments], np.int64)
    index = np.repeat(np.arange(len(segments)), counts)
    starts = np.cumsum(counts) - counts

    first = np.array([s.first for s in segments], np.uint64)
    return Rows(
        segment=index,
        slot=np.array([s.slot for s in segments], np.int64)[index],
        image_id=np.array([s.image_id for s in segments], np.uint64)[index],
        sigma=np.array([s.sigma for s in segments], np.float64)[index],
        stream=np.array([s.stream for s in segments], np.uint64)[index],
        sample=first[index] + (np.arange(len(index)) - starts[index]).astype(np.uint64),
    )
