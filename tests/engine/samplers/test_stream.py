"""`CudaStream` against a recorder in place of torch.cuda: what is called, where, in which order."""

import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from dualsmooth.engine.samplers.stream import WARM_UPS, CudaStream


class Recorder:
    """Stands in for the parts of torch.cuda that a stream uses."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.entered: list[str] = []
        recorder = self

        class Stream:
            def __init__(self, device: object = None) -> None:
                pass

            def wait_stream(self, other: object) -> None:
                recorder.log.append("wait for the caller")

            def synchronize(self) -> None:
                recorder.log.append("synchronize")

        self.graphs: list[weakref.ref[Any]] = []

        class Graph:
            def __init__(self) -> None:
                recorder.graphs.append(weakref.ref(self))

            def replay(self) -> None:
                recorder.log.append(f"replay in {recorder.entered}")

        class Event:
            def __init__(self, enable_timing: bool = False) -> None:
                pass

            def record(self, stream: object) -> None:
                recorder.log.append("record")

            def synchronize(self) -> None:
                recorder.log.append("event awaited")

        self.Stream, self.CUDAGraph, self.Event = Stream, Graph, Event

    def living(self) -> int:
        """Graphs that somebody holds."""
        return sum(graph() is not None for graph in self.graphs)

    @contextmanager
    def inside(self, what: str) -> Iterator[None]:
        self.entered.append(what)
        yield
        self.entered.remove(what)

    def stream(self, stream: object) -> Any:
        return self.inside("stream")

    def graph(self, graph: object, *, pool: object, stream: object, capture_error_mode: str) -> Any:
        assert isinstance(stream, self.Stream)
        assert (pool, capture_error_mode) == ("pool", "thread_local")
        return self.inside("capture")


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    made = Recorder()
    for name in ("Stream", "CUDAGraph", "Event", "stream", "graph"):
        monkeypatch.setattr(torch.cuda, name, getattr(made, name))
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: "pool")
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    return made


def test_work_is_warmed_up_on_the_stream_then_captured_once(recorder: Recorder) -> None:
    stream, ran = CudaStream(torch.device("cpu")), list[tuple[str, ...]]()
    recorder.log.clear()
    replay = stream.capture(lambda: ran.append(tuple(recorder.entered)))
    assert ran == [("stream",)] * WARM_UPS + [("stream", "capture")]
    assert recorder.log == ["wait for the caller", "synchronize"] * WARM_UPS
    recorder.log.clear()
    replay()
    assert recorder.log == ["replay in ['stream']"]
    assert len(ran) == WARM_UPS + 1


def test_one_graph_lives_as_long_as_the_pool(recorder: Recorder) -> None:
    """PyTorch refuses a capture into a pool whose graphs are all gone."""
    stream = CudaStream(torch.device("cpu"))
    assert recorder.living() == 1
    replay = stream.capture(lambda: None)
    assert recorder.living() == 2
    del replay
    assert recorder.living() == 1
    del stream
    assert recorder.living() == 0


def test_a_replay_keeps_the_weights_its_graph_reads(recorder: Recorder) -> None:
    stream, weights = CudaStream(torch.device("cpu")), torch.zeros(3)
    alive = weakref.ref(weights)
    replay = stream.capture(lambda weights=weights: weights.add_(1.0))  # type: ignore[misc]
    del weights
    gc.collect()
    assert alive() is not None
    del replay
    gc.collect()
    assert alive() is None


def test_copies_do_not_wait_and_events_do(recorder: Recorder) -> None:
    stream = CudaStream(torch.device("cpu"))
    recorder.log.clear()
    target, source = torch.zeros(2), torch.ones(2)
    stream.copy(target, source)
    stream.zero(source)
    event = stream.mark()
    assert recorder.log == ["record"]
    event.wait()
    assert recorder.log == ["record", "event awaited"]
    assert target.tolist() == [1.0, 1.0]
    assert source.tolist() == [0.0, 0.0]
    assert stream.run(lambda: list(recorder.entered)) == ["stream"]
