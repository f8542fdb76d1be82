"""What counts as logits, and where they are in what a network returns."""

from collections.abc import Mapping
from threading import RLock
from typing import Any

import torch
from torch import nn

LOGITS = "must return a tensor of logits (rows, classes)"
_IN_FLOAT32 = "it runs in float32: call .float(), and cast inputs to the dtype of its weights"

_ONE_PASS = RLock()


class Wrap(nn.Module):
    """What goes around a network; ``told`` is what users are told of how it runs then."""

    told = ""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network


class Plain(Wrap):
    """A network that keeps its input as it is and gives its logits alone."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = logits_in(self.network(x.clone(memory_format=torch.preserve_format)))
        if logits.dtype == torch.float64:  # votes are cast in float32, where near logits are ties
            logits = (logits - logits.amax(1, keepdim=True)).float()
        return logits


class RowByRow(Wrap):
    """A network on one row at a time, so that no row can have a place, or mates."""

    told = "row by row: it makes a value of its whole batch, or asks for one"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.network(row.clone()) for row in torch.split(x, 1)])


class InTurns(Wrap):
    """A network of which no two passes overlap, whatever threads run them.

    All such networks wait for each other: a lock of its own would be another one in each copy.
    """

    told = "one pass at a time: what it keeps during a pass is of all its copies"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with _ONE_PASS:
            logits: torch.Tensor = self.network(x)
        return logits


FORMS: tuple[type[Wrap], ...] = (Plain, RowByRow, InTurns)
"""What a network may need, from the inside out."""


def logits_in(received: Any) -> Any:
    """The logits in what a network returns; None where there are none to be seen."""
    if isinstance(received, Mapping):
        received = received.get("logits")
    elif not isinstance(received, torch.Tensor):
        received = getattr(received, "logits", None)
    return received if isinstance(received, torch.Tensor) else None


def hint_at(reason: str, otherwise: str = "") -> str:
    """What to do about what a network raised."""
    return _IN_FLOAT32 if "type" in reason else otherwise


def kind_of(received: object) -> str:
    """What was returned instead of logits, in a word."""
    kind = type(received).__name__
    return f"{kind} of {len(received)}" if isinstance(received, tuple | list) else kind


def fault_of(received: object, rows: int, outputs: int | None) -> str:
    """What is wrong with what a network returns for some rows; empty if nothing is."""
    if (logits := logits_in(received)) is None:
        return kind_of(received)
    shape = tuple(logits.shape)
    fits = len(shape) == 2 and (shape[1] >= 2 if outputs is None else shape[1] == outputs)
    if not fits or shape[0] != rows:
        return f"{shape} for {rows} images"
    if not logits.dtype.is_floating_point or logits.layout != torch.strided:
        return f"{logits.dtype}, {logits.layout}"
    if logits.isfinite().all(1).float().mean() < 0.5:
        return "NaN or infinity for most images with noise"
    return ""
