"""Passes as votes or users may run them: with gradients noted, and beside another one."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Condition
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

_PATIENCE = 5.0
"""Seconds that a pass waits for the other one, which may wait for a lock that it holds itself."""


def with_gradients(network: nn.Module, row: torch.Tensor) -> torch.Tensor | None:
    """Logits of a row where gradients are noted; None where that cannot be."""
    try:
        with torch.inference_mode(False), torch.enable_grad():
            logits: torch.Tensor = network(row.clone()).detach()
            return logits
    except Exception:  # tensors changed in place, or kept from inference mode
        return None


def side_by_side(
    networks: Sequence[nn.Module], rows: torch.Tensor, run: Callable[[Callable[[], Any]], Any]
) -> torch.Tensor | None:
    """Logits of two rows, each by a copy of a network in a thread of its own; None for an error.

    The passes take turns at each operator. So what one of them keeps from an operator to a later
    one, and not in its copy, is the other one's by then. ``run`` runs a thread's pass.
    """
    turns = _Turns()

    def one(number: int) -> Any:
        try:
            with torch.inference_mode(), _InTurns(turns, number):
                return networks[number](rows[number : number + 1].clone())
        finally:
            turns.end()

    try:
        with ThreadPoolExecutor(2) as threads:
            passes = [threads.submit(run, partial(one, number)) for number in (0, 1)]
            return torch.cat([made.result() for made in passes])
    except Exception:  # whatever the network and its libraries raise
        return None


class _Turns:
    """Whose turn it is of two; None once one of them has ended, or waited in vain."""

    def __init__(self) -> None:
        self._turn: int | None = 0
        self._changed = Condition()

    def hand_over(self, number: int) -> None:
        with self._changed:
            if self._turn is None:
                return
            self._turn = 1 - number
            self._changed.notify_all()
            if not self._changed.wait_for(lambda: self._turn in (number, None), _PATIENCE):
                self._turn = None

    def end(self) -> None:
        with self._changed:
            self._turn = None
            self._changed.notify_all()


class _InTurns(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, turns: _Turns, number: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._turns, self._number = turns, number

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """As of `dualsmooth.engine.models.graph.row_passes.Passes`."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self._turns.hand_over(self._number)
        return func(*args, **(kwargs or {}))
