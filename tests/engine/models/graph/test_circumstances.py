"""Passes of two threads side by side: what networks keep during one, outside of themselves."""

import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import nn

from dualsmooth.engine.models.forms import AsItIs
from dualsmooth.engine.models.front_door import admitted
from dualsmooth.engine.models.graph import circumstances
from dualsmooth.engine.models.logits import InTurns

SHAPE = (6, 5, 2)
Kept = dict[str, torch.Tensor]
GLOBAL, LOCK = Kept(), threading.Lock()


class Keeps(nn.Module):
    """Adds to later values those that a hook kept."""

    def __init__(self, where: Callable[[Any], Kept]) -> None:
        super().__init__()
        self.layer, self.head = nn.Conv2d(2, 3, 3, padding=1), nn.Linear(3 * 6 * 5, 4)
        self.where, self.own = where, Kept()

    def forward(self, x: torch.Tensor) -> Any:
        kept = self.where(self)
        kept["y"] = self.layer(x)
        time.sleep(0.002)  # other threads go on
        y = kept["y"].relu().exp()
        return self.head((y + kept.pop("y")).flatten(1))


class Locked(Keeps):
    def forward(self, x: torch.Tensor) -> Any:
        with LOCK:
            return super().forward(x)


def closed() -> nn.Module:
    kept = Kept()
    return Keeps(lambda _: kept)


SHARE: dict[str, Callable[[], nn.Module]] = {
    "closure": closed,
    "global": lambda: Keeps(lambda _: GLOBAL),
}
APART: dict[str, Callable[[], nn.Module]] = {
    "module": lambda: Keeps(lambda m: m.own),
    "lock": lambda: Locked(lambda _: GLOBAL),
}


@pytest.mark.parametrize("name", [*SHARE, *APART])
def test_passes_that_share_what_they_keep_do_not_overlap(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(circumstances, "_PATIENCE", 0.5)  # for the lock
    network = {**SHARE, **APART}[name]().eval()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        entered = admitted(network, SHAPE, 4, "classifier", "memory")
    assert isinstance(entered, InTurns) == (name in SHARE)
    assert any("runs one pass at a time" in str(w.message) for w in told) == (name in SHARE)
    batches = torch.rand(8, 2, 2, 6, 5)
    with torch.no_grad(), ThreadPoolExecutor(4) as pool:
        wanted = [network(batch) for batch in batches]
        form = AsItIs(entered, torch.float32)
        passes = [pool.submit(form, batch) for batch in batches]
        for made, own in zip(passes, wanted, strict=True):
            torch.testing.assert_close(made.result(), own)
