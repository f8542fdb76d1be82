"""What a sampler needs of a device: memory, copies in order, captured passes and events.

Everything is enqueued on one stream and runs in the order it was enqueued, while the host goes on.
"""

from collections.abc import Callable
from functools import partial
from typing import Protocol, TypeVar

import torch

WARM_UPS = 3
"""Runs before a capture: kernels are compiled and libraries initialised in them."""

Result = TypeVar("Result")


class Event(Protocol):
    """A point in a stream."""

    def wait(self) -> None:
        """Return once the device has passed it."""


class DeviceStream(Protocol):
    """A device's memory and one queue of work."""

    device: torch.device

    def pinned(self, *shape: int, dtype: torch.dtype) -> torch.Tensor:
        """Zeroed host memory that the device copies from and to without waiting for the host."""

    def zeros(self, *shape: int, dtype: torch.dtype) -> torch.Tensor:
        """Zeroed device memory; it stays at its address."""

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        """Enqueue a copy. Pinned memory is read or written when the device gets there."""

    def zero(self, tensor: torch.Tensor) -> None:
        """Enqueue a fill with zeros."""

    def adopt(self, tensor: torch.Tensor) -> None:
        """Let later work read a tensor that the caller's current stream is still writing."""

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Run work a few times, record it, and return what enqueues the record.

        What is returned holds on to the work, and so to the weights the record reads.
        """

    def mark(self) -> Event:
        """The point after everything enqueued so far."""

    def run(self, work: Callable[[], Result]) -> Result:
        """Enqueue work, wait for it, and return what it returns."""

    def seconds(self, work: Callable[[], None]) -> float:
        """Time the device takes for work."""


class CudaStream:
    """A stream of one CUDA device; captures share one memory pool.

    Graphs that share a pool reuse one another's intermediate memory. That is safe because they all
    run on this stream, one after another, and leave results only in memory from `zeros`. PyTorch
    refuses a capture into a pool whose graphs are all gone, so one graph lives as long as this.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self.device = device or torch.device("cuda", torch.cuda.current_device())
        self._stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()
        word = self.zeros(1, dtype=torch.int32)
        self._anchor = self._record(word.zero_), word

    def pinned(self, *shape: int, dtype: torch.dtype) -> torch.Tensor:
        """Page-locked host memory, zeroed."""
        return torch.zeros(shape, dtype=dtype, pin_memory=True)

    def zeros(self, *shape: int, dtype: torch.dtype) -> torch.Tensor:
        """Device memory, zeroed."""
        return self.run(lambda: torch.zeros(shape, dtype=dtype, device=self.device))

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        """Enqueue a copy."""
        with torch.cuda.stream(self._stream):
            target.copy_(source, non_blocking=True)

    def zero(self, tensor: torch.Tensor) -> None:
        """Enqueue a fill with zeros."""
        with torch.cuda.stream(self._stream):
            tensor.zero_()

    def adopt(self, tensor: torch.Tensor) -> None:
        """Wait, on the device, for the caller's stream, and keep the tensor's memory till read."""
        self._stream.wait_stream(torch.cuda.current_stream(self.device))
        tensor.record_stream(self._stream)

    def capture(self, work: Callable[[], object]) -> Callable[[], None]:
        """Warm up, then record a CUDA graph."""
        for _ in range(WARM_UPS):
            self.run(work)
        return partial(self._replay, self._record(work), work)

    def _record(self, work: Callable[[], object]) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()  # it knows addresses only, so the replay keeps the work
        # A capture that fails leaves its stream the current one; the outer context takes it back.
        with (
            torch.cuda.stream(self._stream),
            torch.cuda.graph(
                graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
            ),
        ):
            work()
        return graph

    def _replay(self, graph: torch.cuda.CUDAGraph, work: Callable[[], object]) -> None:
        with torch.cuda.stream(self._stream):
            graph.replay()

    def mark(self) -> Event:
        """Record an event."""
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(self._stream)
        return _CudaEvent(event)

    def run(self, work: Callable[[], Result]) -> Result:
        """Run on this stream, after the caller's, and synchronise."""
        self._stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._stream):
            result = work()
        self._stream.synchronize()
        return result

    def seconds(self, work: Callable[[], None]) -> float:
        """Time between two events around the work."""
        start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        stop = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        with torch.cuda.stream(self._stream):
            start.record(self._stream)
            work()
            stop.record(self._stream)
        stop.synchronize()
        return float(start.elapsed_time(stop)) / 1e3


class _CudaEvent:
    def __init__(self, event: torch.cuda.Event) -> None:
        self._event = event

    def wait(self) -> None:
        self._event.synchronize()
