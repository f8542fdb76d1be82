"""A device stream without a device: nothing runs before somebody waits for it."""

from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import Any

import pytest
import torch


class FakeStream:
    """Work is kept in a queue and reads memory only when an event after it is awaited.

    So host memory written again too early, or counts read too early, give wrong votes.
    """

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.queue: deque[Callable[[], object]] = deque()
        self.done = 0
        self.captures = 0

    def pinned(self, *shape: int, dtype: torch.dtype) -> torch.Tensor:
        return torch.zeros(shape, dtype=dtype)

    def zeros(self, *shape: int, dtype: torch.dtype) -> torch.Tensor:
        return torch.zeros(shape, dtype=dtype)

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        self.queue.append(lambda: target.copy_(source))

    def zero(self, tensor: torch.Tensor) -> None:
        self.queue.append(tensor.zero_)

    def adopt(self, tensor: torch.Tensor) -> None:
        pass

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        self.captures += 1
        return lambda: self.queue.append(work)

    def mark(self) -> "FakeEvent":
        return FakeEvent(self, self.done + len(self.queue))

    def run(self, work: Callable[[], Any]) -> Any:
        self.mark().wait()
        return work()

    def seconds(self, work: Callable[[], None]) -> float:
        self.mark().wait()
        start = perf_counter()
        work()
        self.mark().wait()
        return perf_counter() - start


class FakeEvent:
    """A point in the queue."""

    def __init__(self, stream: FakeStream, end: int) -> None:
        self.stream, self.end = stream, end

    def wait(self) -> None:
        while self.stream.done < self.end:
            self.stream.queue.popleft()()
            self.stream.done += 1


@pytest.fixture
def fake_stream() -> type[FakeStream]:
    """The class; a sampler takes an instance."""
    return FakeStream
