"""Segments: pieces of draws, packed into the fixed-shape batches a sampler runs."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dualsmooth.engine.backends import Tried
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
        first = self.first + done
        return Segment(self.slot, self.image_id, self.sigma, self.stream, first, count)


Pending: TypeAlias = Callable[[], NDArray[np.int64]]
"""Waits for votes and returns them; every call returns the same."""


class Closing:
    """Is closed at the end of its ``with`` block."""

    def close(self) -> None:
        """Stop what runs for it, if anything does."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class Sampler(Closing, ABC):
    """Answers draws: adds noise, runs the network, takes the argmax and counts.

    A sampler has `count` or `submit` of its own; each is made from the other.
    """

    name: str
    """Implementation, as certificates record it."""
    batch_size: int
    """Rows of the fixed padded shape every forward pass has."""
    depth: int = 1
    """Submissions worth having under way at once."""
    grain: int = 1
    """1 if segments share the rows of a pass; ``batch_size`` if each is padded by itself."""
    tried: Mapping[str, Tried] = {}
    """What ``auto`` tried for each network."""

    @property
    def capacity(self) -> int:
        """Rows of one call that costs no padding; a call may hold more or fewer."""
        return self.batch_size

    @abstractmethod
    def load(self, slot: int, image: Any) -> None:
        """Put an image, float32, shape (height, width, channels), into a slot.

        Always a NumPy array, but for a sampler on a device, which may get a tensor.
        """

    def count(self, model: str, segments: Sequence[Segment]) -> NDArray[np.int64]:
        """Votes per segment, shape (segments, classes + 1); the last column is invalid votes."""
        return self.submit(model, segments)()

    def submit(self, model: str, segments: Sequence[Segment]) -> Pending:
        """Start what `count` does. Images named by the segments must stay until it is awaited."""
        votes = self.count(model, segments)
        return lambda: votes


MakeSampler: TypeAlias = Callable[..., Sampler]
"""What `dualsmooth.engine.samplers.choose.make_sampler` is."""


def row_votes(logits: NDArray[np.float32]) -> NDArray[np.int64]:
    """Largest logit, lowest class on ties; the number of classes if one is not finite."""
    valid = np.isfinite(logits).all(axis=1)
    votes: NDArray[np.int64] = np.where(valid, np.argmax(logits, axis=1), logits.shape[1])
    return votes


def thread_count(threads: int | None) -> int:
    """Batches in work at once: as many as asked for, by default one per core."""
    return available_cores() if threads is None else positive_integer("threads", threads)


_FIELDS = {"segment": "i8", "slot": "i8", "image_id": "u8", "sigma": "f8", "stream": "u8"}
ROW = np.dtype([*_FIELDS.items(), ("sample", "u8")])
"""One sample: its segment's number, what the segment says, and the sample's index."""


def unroll(segments: Sequence[Segment]) -> NDArray[np.void]:
    """One row per sample, in segment order, shape (rows,) of `ROW`."""
    table = [(i, s.slot, s.image_id, s.sigma, s.stream, s.first) for i, s in enumerate(segments)]
    counts = [s.count for s in segments]
    rows = np.repeat(np.array(table, ROW), counts)
    rows["sample"] += np.concatenate([np.arange(count, dtype=np.uint64) for count in counts])
    return rows
