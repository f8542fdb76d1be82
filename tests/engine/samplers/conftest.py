"""A device stream without a device: nothing runs before somebody waits for it."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from numpy.typing import NDArray
from torch.nn import functional

from dualsmooth.engine.samplers.cpu import CpuSampler
from dualsmooth.engine.samplers.eager import TorchSampler
from dualsmooth.engine.samplers.null import HostEvent, HostStream
from dualsmooth.engine.samplers.sampler import Segment
from dualsmooth.kernels.cpu import noise_votes


class FakeStream(HostStream):
    """Work is kept in a queue and reads memory only when an event after it is awaited.

    So host memory written again too early, or counts read too early, give wrong votes.
    """

    def __init__(self) -> None:
        self.queue: deque[Callable[[], object]] = deque()
        self.done = 0
        self.captures = 0

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        self.queue.append(lambda: target.copy_(source))

    def zero(self, tensor: torch.Tensor) -> None:
        self.queue.append(tensor.zero_)

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


class FakeEvent(HostEvent):
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


@pytest.fixture(params=[TorchSampler, CpuSampler], ids=["torch", "cpu"])
def kind(request: pytest.FixtureRequest) -> Callable[..., TorchSampler | CpuSampler]:
    """The samplers that a processor has."""
    if request.param is CpuSampler and not noise_votes.available():
        pytest.skip("the compiled loops were not built")
    made: Callable[..., TorchSampler | CpuSampler] = request.param
    return made


Count = Callable[[Sequence[Segment]], NDArray[np.int64]]


def _votes_stay(base: NDArray[np.int64], count: Count, segments: Sequence[Segment]) -> None:
    """Votes are the same in another order, alone, and of one segment in two parts."""
    assert_array_equal(base.sum(axis=1), [s.count for s in segments])
    assert_array_equal(count(segments[::-1])[::-1], base)
    for row, part in zip(base, segments, strict=True):
        assert_array_equal(count([part])[0], row)
    number = max(range(len(segments)), key=lambda i: segments[i].count)
    whole, other = segments[number], segments[number - 1]
    first = whole.count // 2 + 2
    rest = replace(whole, first=whole.first + first, count=whole.count - first)
    found = count([replace(whole, count=first), other, rest])
    assert_array_equal(found[0] + found[2], base[number])


@pytest.fixture
def votes_stay() -> Callable[[NDArray[np.int64], Count, Sequence[Segment]], None]:
    """Asserts that votes depend neither on batch mates nor on order."""
    return _votes_stay


@pytest.fixture
def cudnn() -> Iterator[None]:
    """cuDNN's calls, which need a device, spelt out for processors."""

    def relu(x: Any, weight: Any, bias: Any, *geometry: Any) -> torch.Tensor:
        return torch.relu(functional.conv2d(x, weight, bias, *geometry))

    def add_relu(x: Any, weight: Any, z: Any, alpha: Any, bias: Any, *rest: Any) -> torch.Tensor:
        return torch.relu(functional.conv2d(x, weight, bias, *rest) + alpha * z)

    with torch.library._scoped_library("aten", "IMPL") as library:
        library.impl("cudnn_convolution_relu", relu, "CPU")
        library.impl("cudnn_convolution_add_relu", add_relu, "CPU")
        yield
