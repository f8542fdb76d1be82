"""A device stream that is the CPU itself: rehearses on a machine without a device."""

from collections.abc import Callable
from time import perf_counter
from typing import TypeVar

import torch

Result = TypeVar("Result")


class HostEvent:
    """A point that has passed."""

    def wait(self) -> None:
        """Return."""


class HostStream:
    """Work is done when it is enqueued; see `dualsmooth.engine.runtime.device_stream`."""

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
