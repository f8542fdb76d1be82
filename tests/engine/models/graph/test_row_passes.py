"""Which passes are read to keep rows apart: operators with neighbours that mix them."""

import operator
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from dualsmooth.engine.errors import FileError
from dualsmooth.engine.models import front_door
from dualsmooth.engine.models.graph.row_passes import Passes
from dualsmooth.engine.models.rows import MATES, fault, noisy

ROWS, SHAPE = 2, (4, 6, 6)
Function = Callable[[torch.Tensor], Any]


class Net(nn.Module):
    """Layers of every kind, and a function of maps that looks like tokens (rows, 36, 4)."""

    def __init__(self, act: Function) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.act, self.conv, self.norm = act, nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.norm(self.conv(x)).relu_().flatten(2).transpose(1, 2)
        logits: torch.Tensor = self.head(self.act(tokens).mean(1))
        return logits


def heads(x: torch.Tensor) -> torch.Tensor:
    """As timm's attention: the batch's axis moves, and comes back."""
    q, k, v = torch.cat([x, x, x], 2).reshape(ROWS, 36, 3, 2, 2).permute(2, 0, 3, 1, 4).unbind(0)
    mixed = functional.scaled_dot_product_attention(q, k, v) + q @ k.transpose(-2, -1) @ v
    return mixed.transpose(1, 2).reshape(ROWS, 36, 4)


def turned(x: torch.Tensor) -> torch.Tensor:
    return x.transpose(0, 1)


LAYER = nn.MultiheadAttention(4, 2, batch_first=True).eval().requires_grad_(False)
POOL, SQUARE = ThreadPoolExecutor(1), torch.rand(ROWS, ROWS)
TOKEN, SCALE, PLACES = torch.rand(1, 1, 4), torch.rand(4), torch.rand(ROWS, 1, 4)
KEYS, SIGNS = torch.rand(ROWS, 36, 4), (torch.tensor(1.0), torch.tensor(-1.0))
ALONE: dict[str, Function] = {
    "attention of a layer": lambda x: LAYER(x, x, x, need_weights=False)[0],
    "attention by hand": heads,
    "a token more": lambda x: torch.cat([TOKEN.expand(ROWS, -1, -1), x], 1)[:, 1:],
    "norms": lambda x: functional.group_norm(functional.layer_norm(x, (4,)), 6),
    "a constant first": lambda x: SCALE * x + TOKEN * x,
    "parts": lambda x: torch.cat([part.softmax(-1) for part in x.chunk(2, 2)], 2),
    "over axes": lambda x: x * x.sum(1, keepdim=True) - x.amax((1, 2), keepdim=True),
    "selected": lambda x: x - x.select(1, 3).reshape(ROWS, 1, 4),
    "dropout off": lambda x: functional.dropout(x, 0.5, training=False),
}
MIXED: dict[str, Function] = {
    "attention over the batch": lambda x: turned(LAYER(*[turned(x)] * 3)[0]),
    "attention to another row": lambda x: LAYER(x, x.flip(0), x, need_weights=False)[0],
    "attention to constants with places": lambda x: torch._native_multi_head_attention(
        x, KEYS, KEYS, 4, 2, LAYER.in_proj_weight, LAYER.in_proj_bias, LAYER.out_proj.weight,
        LAYER.out_proj.bias, None, False)[0],
    "products with constants with places":
        lambda x: functional.scaled_dot_product_attention(x, KEYS, KEYS),
    "a mask for each place":
        lambda x: functional.scaled_dot_product_attention(x, x, x, KEYS @ KEYS.transpose(1, 2)),
    "a layer's mask for each place": lambda x: torch._native_multi_head_attention(
        x, x, x, 4, 2, LAYER.in_proj_weight, LAYER.in_proj_bias, LAYER.out_proj.weight,
        LAYER.out_proj.bias, KEYS[:, :, 0] > 0.5, False, mask_type=1)[0],
    "a kernel of rows": lambda x: functional.conv2d(
        x.reshape(ROWS, 36, 2, 2), 1.0 * x.reshape(ROWS, 36, 2, 2)
        ).sum(1, keepdim=True).reshape(ROWS, 1, 1) * x,
    "a layer over the batch": lambda x: functional.linear(
        x.mean((1, 2)), PLACES[:, 0, :2]).reshape(ROWS, 1, 1) * x,
    "a token for each place": lambda x: torch.cat([PLACES, x], 1),
    "a norm of all": lambda x: functional.layer_norm(x, (ROWS, 36, 4)),
    "a constant with places first": lambda x: PLACES * x,
    "softmax over the batch": lambda x: x.softmax(0),
    "a sum over the batch": lambda x: x - x.sum(0, keepdim=True),
    "the largest of all": lambda x: x - x.amax((), keepdim=True),
    "weights for rows": lambda x: functional.linear(x.mean((1, 2)), SQUARE).reshape(ROWS, 1, 1) * x,
    "one row": lambda x: x - x.select(0, 0),
    "a part of the batch": lambda x: torch.cat([x[:1], x[:1]]),
    "pieces of the batch": lambda x: torch.cat(x.chunk(2, 0)[::-1], 0),
    "exchanged axes": lambda x: x.permute(1, 0, 2).reshape(ROWS, 36, 4),
    "rows as maps": lambda x: x.reshape(36, ROWS, 4).permute(1, 0, 2),
    "one long row": lambda x: x.reshape(1, -1, 4).softmax(1).reshape(ROWS, 36, 4),
    "one row in two": lambda x: x.reshape(ROWS, ROWS, 18, 4).select(0, 0),
    "softmax over a batch that moved": lambda x: x.reshape(ROWS, ROWS, 18, 4).permute(
        1, 0, 2, 3).softmax(1).exp().flatten(1, 2),
    "products of rows": lambda x: (x.flatten(1) @ x.flatten(1).t()).mean() * x,
    "a square of rows": lambda x: (x.mean(2)[:, :ROWS] @ x.mean(2)[:, :ROWS]).mean(
        1, keepdim=True).reshape(ROWS, 1, 1) * x,
    "a matrix of each place": lambda x: x @ PLACES.transpose(1, 2) @ PLACES,
}  # fmt: skip


def swallowed(read: Function) -> Function:
    """A function that goes on, as if nothing was there, where values cannot be read."""

    def act(x: torch.Tensor) -> torch.Tensor:
        try:
            large = bool(np.any(read(x) > 1e3))
        except Exception:
            large = False
        return -x if large else x

    return act


def windowed(read: Function) -> Function:
    """As swallowed, of values that only trials in full have; the same operators either way."""

    def act(x: torch.Tensor) -> torch.Tensor:
        try:
            largest = float(read(x))
        except Exception:
            largest = 0.0
        return x * (SIGNS[1] if 5 < largest < 100 else SIGNS[0])

    return act


READS: dict[str, Function] = {
    "by NumPy": swallowed(lambda x: x.numpy()),
    "as a list": swallowed(lambda x: np.array(x.tolist())),
    "by DLPack": swallowed(np.from_dlpack),
    "as a number": swallowed(lambda x: x.max().item()),
    "by a method that C calls": swallowed(operator.methodcaller("numpy")),
    "in a window": windowed(lambda x: x.abs().max().numpy()),
    "of a comparison": swallowed(lambda x: 1e4 * (x > 1e3).numpy()),
    "as truth": lambda x: -x if (x > 1e3).any() else x,
}
ASKED, TOLD = SimpleQueue[Any](), SimpleQueue[float]()


def waiting() -> None:
    while (x := ASKED.get()) is not None:
        try:
            TOLD.put(np.abs(x.numpy()).max())
        except Exception:
            TOLD.put(0.0)


def told(x: torch.Tensor) -> float:
    ASKED.put(x)
    return TOLD.get()


Thread(target=waiting, daemon=True).start()
HANDED: dict[str, Function] = {
    "by a new thread": windowed(
        lambda x: ThreadPoolExecutor(1).submit(lambda: np.abs(x.numpy()).max()).result()
    ),
    "by a thread": windowed(lambda x: POOL.submit(lambda: np.abs(x.numpy()).max()).result()),
    "by operators of a thread": windowed(
        lambda x: POOL.submit(lambda: float(x.abs().max())).result()
    ),
    "by a thread that waits": windowed(told),
    "by DLPack, if it can": windowed(
        lambda x: np.abs(np.from_dlpack(x)).max() if type(x) is torch.Tensor else 0.0
    ),
}


def networks(act: Function) -> tuple[nn.Module, torch.Tensor]:
    return Net(act).eval(), torch.rand(ROWS, *SHAPE, generator=torch.Generator().manual_seed(1))


def is_read(network: nn.Module, batch: torch.Tensor) -> bool:
    passes = Passes()
    with torch.inference_mode(), passes.of(given := batch.clone()):
        wanted = network(given)
    return passes.keep_rows_apart(network, batch, wanted)


@pytest.mark.parametrize("name", ALONE)
def test_operators_on_single_rows_are_read(name: str) -> None:
    network, batch = networks(ALONE[name])
    assert is_read(network, batch)


@pytest.mark.parametrize("name", [*MIXED, *READS])
def test_what_mixes_rows_or_reads_values_is_not(name: str) -> None:
    network, batch = networks((MIXED | READS)[name])
    with torch.inference_mode():
        wanted, moved = network(batch), network(batch.flip(0)).flip(0)
        beside = [network(torch.stack([batch[0], s * batch[1]]))[:1] for s in (0.1, 20.0, 9e4)]
    assert (
        max(float((found - wanted[: len(found)]).abs().max()) for found in (moved, *beside)) > 1e-5
    )
    assert not is_read(network, batch)


PAST = torch._C._DisableTorchDispatch


@pytest.mark.parametrize("past", [lambda: torch._C._DisableTorchDispatch(), lambda: PAST()])
def test_code_past_python_s_dispatch_is_not_run_without_values(past: Callable[[], object]) -> None:
    """Operators of C would read the memory of what has none, and end the process."""
    passes = list[torch.Tensor]()

    def act(x: torch.Tensor) -> torch.Tensor:
        guard = past()
        passes.append(x)
        del guard  # while it is the last one, as it gives back what was before it
        return x

    network, batch = networks(act)
    assert not is_read(network, batch)
    assert len(passes) == 1


def test_logits_of_another_axis_or_other_ones_are_not_read() -> None:
    network, batch = networks(ALONE["norms"])
    with torch.inference_mode(), (passes := Passes()).of(given := batch.clone()):
        wanted = network(given)
    assert not passes.keep_rows_apart(network, batch, wanted + 1.0)
    assert passes.keep_rows_apart(network, batch, wanted)
    square = nn.Sequential(nn.Flatten(), nn.Linear(144, ROWS)).requires_grad_(False)
    square.register_forward_hook(lambda *passed: passed[2].permute(1, 0))
    assert not is_read(square, batch)


@pytest.mark.parametrize("name", [*READS, *HANDED])
def test_a_slow_network_that_swallows_errors_of_reading_is_seen_through(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(front_door, "SLOW", 0.0)
    network, _ = networks((READS | HANDED)[name])
    with pytest.raises(FileError, match="classifier must give an image the same logits whatever"):
        front_door.admitted(network, (6, 6, 4), 3, "classifier", "memory")


def test_passes_of_other_operators_or_numbers_are_told_apart() -> None:
    numbers, passes, batch = iter([1.0, 1.0, 2.0]), Passes(), torch.rand(ROWS, 3)
    for alike in (True, True, False):
        with passes.of(batch):
            batch * next(numbers)
        assert passes.are_one(batch) is alike
    with passes.of(batch[:1]):
        batch[:1].relu()
    assert passes.are_one(batch[:1])
    with passes.of(batch[:1]):
        batch[:1].tanh()
    assert not passes.are_one(batch[:1])


def test_few_trials_have_large_mates_and_other_numbers_of_rows() -> None:
    networks: dict[str, Function] = {
        "at another place beside other rows": lambda x: x * (1.0 - 2.0 * (x.max() > 2e3)),
        "in a batch of 1": lambda x: x if len(x) > 1 else -x,
    }
    for said, network in networks.items():
        batch = noisy(4, (2, 2, 1)).flatten(1)[:, :, None, None]
        run = partial(lambda network, x: network(x.flatten(1)), network)
        assert fault(run, batch, mates=MATES, brief=True) == said


def test_a_network_that_was_read_is_tried_in_full_if_another_pass_does_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def act(x: torch.Tensor) -> torch.Tensor:
        largest = float(x.abs().max())
        if largest > 1e3:
            return x * 1.0
        return -x if largest > 5 else x

    monkeypatch.setattr(front_door, "SLOW", 0.0)
    monkeypatch.setattr(Passes, "keep_rows_apart", lambda *_: True)
    with pytest.raises(FileError, match="classifier must give an image the same logits whatever"):
        front_door.admitted(Net(act).eval(), (6, 6, 4), 3, "classifier", "memory")


@pytest.mark.parametrize(("name", "most"), [("norms", 16), ("exchanged axes", 40)])
def test_a_slow_network_that_is_read_passes_half_as_often(
    name: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(front_door, "SLOW", 0.0)
    rows = list[int]()

    def noted(x: torch.Tensor) -> torch.Tensor:
        return ALONE["norms"](x) if name == "norms" else x.flip(2).flip(2)

    class Counted(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x)

    hook = torch.nn.modules.module.register_module_forward_pre_hook(
        lambda module, given: rows.append(len(given[0])) if type(module) is Counted else None
    )
    try:
        front_door.admitted(Counted(noted).eval(), (6, 6, 4), 3, "classifier", "memory")
    finally:
        hook.remove()
    assert len(rows) <= most
    assert (len(rows) > 20) == (most > 20)
