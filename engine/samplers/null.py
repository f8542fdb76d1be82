"""A sampler without networks, for tests and benchmarks of everything around networks.

A vote is a pure function of seed, image id, phase, level and sample index, as a real one is: so
runs can be compared to the bit, whatever was killed or moved to another process.
"""

from collections.abc import Callable, Mapping, Sequence
from time import perf_counter, sleep
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from dualsmooth.engine.samplers.sampler import Sampler, Segment

CHUNK = 1 << 14

_GOLDEN, _MIX_1, _MIX_2 = (
    np.uint64(x) for x in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)

_IMAGE, _STREAM = 0xD1342543DE82EF95, 0xF1357AEA2E62A9C5


class FakeSampler(Sampler):
    """Votes for class ``image_id % classes`` with a probability that depends on the image.

    Of what a sampler takes, it ignores networks, shape and the settings not named; ``pause``
    seconds of sleep in every call imitate a slow network.
    """

    name = "fake"

    def __init__(
        self,
        networks: Mapping[str, object],
        outputs: Mapping[str, int],
        shape: tuple[int, int, int],
        *,
        seed: int = 0,
        batch_size: int = 1024,
        pause: float = 0.0,
        **settings: Any,
    ) -> None:
        self._outputs, self._seed, self._pause = dict(outputs), seed, pause
        self.batch_size = batch_size
        self.drawn = 0

    @property
    def capacity(self) -> int:
        """Rows of a call."""
        return 64 * self.batch_size

    def load(self, slot: int, image: NDArray[np.float32]) -> None:
        """Forget the image: votes depend on its id only."""

    def count(self, model: str, segments: Sequence[Segment]) -> NDArray[np.int64]:
        """Votes per segment; the last column is invalid votes, about one in 2,000."""
        if self._pause:
            sleep(self._pause)
        return np.stack([self._votes(segment, self._outputs[model]) for segment in segments])

    def _votes(self, segment: Segment, classes: int) -> NDArray[np.int64]:
        winner = segment.image_id % classes
        share = 0.55 + 0.44 * (segment.image_id * 0.6180339887498949 % 1.0)
        votes = np.zeros(classes + 1, np.int64)
        for first in range(segment.first, segment.first + segment.count, CHUNK):
            last = min(first + CHUNK, segment.first + segment.count)
            u = self._uniform(segment, first, last)
            won, invalid = int(np.count_nonzero(u < share)), int(np.count_nonzero(u > 0.9995))
            votes[winner] += won
            votes[(winner + 1) % classes] += len(u) - won - invalid
            votes[-1] += invalid
        self.drawn += segment.count
        return votes

    def _uniform(self, segment: Segment, first: int, last: int) -> NDArray[np.float64]:
        key = self._seed + segment.image_id * _IMAGE + segment.stream * _STREAM
        mixed = np.arange(first, last, dtype=np.uint64) * _GOLDEN + np.uint64(key % (1 << 64))
        mixed = (mixed ^ (mixed >> np.uint64(30))) * _MIX_1
        mixed = (mixed ^ (mixed >> np.uint64(27))) * _MIX_2
        return (mixed ^ (mixed >> np.uint64(31))) * 2.0**-64


Result = TypeVar("Result")


class HostEvent:
    """A point that has passed."""

    def wait(self) -> None:
        """Return."""


class HostStream:
    """Work is done when it is enqueued; see `dualsmooth.engine.samplers.stream`."""

    device = torch.device("cpu")

    def pinned(self, *shape: int, dtype: torch.dtype) -> torch.Tensor:
        """Zeroed memory."""
        return torch.zeros(shape, dtype=dtype)

    def zeros(self, *shape: int, dtype: torch.dtype) -> torch.Tensor:
        """Zeroed memory."""
        return torch.zeros(shape, dtype=dtype)

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        """Copy."""
        target.copy_(source)

    def zero(self, tensor: torch.Tensor) -> None:
        """Fill with zeros."""
        tensor.zero_()

    def adopt(self, tensor: torch.Tensor) -> None:
        """Nothing: the caller's work is done."""

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """The work itself, after one run."""
        work()
        return work

    def mark(self) -> HostEvent:
        """Now."""
        return HostEvent()

    def run(self, work: Callable[[], Result]) -> Result:
        """Run."""
        return work()

    def seconds(self, work: Callable[[], None]) -> float:
        """Time of one run."""
        start = perf_counter()
        work()
        return perf_counter() - start
