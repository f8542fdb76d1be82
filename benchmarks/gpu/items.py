"""What a device pass is made of: items that run one after the other; see `__main__.py`."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import torch

from dualsmooth.benchmarks.gpu.contest import Uncaptured
from dualsmooth.engine.samplers.null import HostStream
from dualsmooth.engine.samplers.stream import CudaStream, DeviceStream

DONE, FAILED, NOT_RUN = "done", "failed", "not run"

States: TypeAlias = Mapping[str, str]
"""Item -> done, failed or not run, of items met so far."""


class Unavailable(Exception):
    """An item asks for something that is not here; that is no failure."""


@dataclass(frozen=True)
class Place:
    """Where items run."""

    device: torch.device
    tiny: bool  # sizes for a rehearsal
    work: Path  # what later items, or a later command, go on with
    options: Mapping[str, str] = field(default_factory=dict)

    def stream(self) -> DeviceStream:
        """A fresh stream."""
        if self.device.type == "cpu":
            return HostStream()
        return CudaStream(self.device)

    def plain_stream(self) -> DeviceStream:
        """A stream without graphs."""
        if self.device.type == "cpu":
            return HostStream()
        return Uncaptured(self.device)

    def synchronize(self) -> None:
        """Wait for the device; raises if it is broken."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


@dataclass(frozen=True)
class Turn:
    """What an item is run with."""

    place: Place
    until: float  # when to stop by itself, on the monotonic clock
    keep: Callable[[Any], None]  # takes a result that is not whole yet
    states: States  # of the items before it
    results: Mapping[str, Any]

    def left(self) -> float:
        """Seconds."""
        return self.until - time.monotonic()

    def passed(self, *names: str) -> bool:
        """Whether these items are done."""
        return all(self.states.get(name) == DONE for name in names)


@dataclass(frozen=True)
class Item:
    """One step of a pass."""

    name: str
    work: Callable[[Turn], Any]  # returns what JSON can hold
    needs: tuple[str, ...] = ()  # without which it must not run: its correctness gates, most of all
    uses: tuple[str, ...] = ()  # whose results it reads where they are there
    unless: str = ""  # an item whose result makes this one needless
    limit: float = 60.0  # seconds after which it is given up
    beside: bool = False  # nothing in it is timed: it runs first, beside others

    def refusal(self, states: States, left: float) -> str:
        """Why it cannot run now; empty if it can."""
        missing = [name for name in self.needs if states.get(name) != DONE]
        if missing:
            return f"needs {', '.join(missing)}"
        if self.unless and states.get(self.unless) == DONE:
            return f"{self.unless} is done"
        return "no time left" if left < min(5.0, self.limit) else ""
