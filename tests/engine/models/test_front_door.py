"""What may come in, and what is refused with one line: each kind with neighbours."""

import _random
import atexit
import contextvars
import copy
import cProfile
import ctypes
import functools
import gc
import inspect
import io
import itertools
import locale
import logging
import math
import operator
import os
import random
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
import time
import types
import uuid
import warnings
import weakref
from collections import namedtuple
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from tqdm import tqdm

from dualsmooth.engine.api import Smooth
from dualsmooth.engine.errors import FileError
from dualsmooth.engine.models import front_door
from dualsmooth.engine.models.bundle import Bundle
from dualsmooth.engine.models.digest.hidden_state import kept_state
from dualsmooth.engine.models.front_door import admitted

SHAPE, CLASSES = (4, 3, 2), 5
Function = Callable[[torch.Tensor], Any]


class Head(nn.Module):
    """A linear classifier between two functions."""

    def __init__(self, before: Function = lambda x: x, after: Function = lambda y: y) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head, self.before, self.after = nn.Linear(24, CLASSES), before, after

    def forward(self, x: torch.Tensor) -> Any:
        return self.after(self.head(self.before(x).flatten(1)))


def enter(module: nn.Module) -> nn.Module:
    return admitted(module.eval(), SHAPE, CLASSES, "classifier", "memory")


def branching(x: torch.Tensor) -> torch.Tensor:
    """As TorchScript, which Python does not see into."""
    if bool(((x - 6).abs().flatten(1).amax(1) < 0.1).any()):
        return -x
    return x


def scaled(x: torch.Tensor) -> torch.Tensor:
    """Dynamic quantization with one scale for the batch."""
    step = x.abs().max() / 127
    return (x / step).round() * step


MIXING: dict[str, Head] = {
    "divided by the largest": Head(lambda x: x / x.max()),
    "switched by the largest": Head(lambda x: torch.where(x.max() > 2, x / 255, x)),
    "switched by the smallest": Head(lambda x: torch.where(x.min() < -5, -x, x)),
    "branch on the mean": Head(lambda x: x if x.mean() > 0.7 else -x),
    "batch mean": Head(lambda x: x - 0.01 * x.mean(0)),
    "batch norm in training": Head(lambda x: functional.batch_norm(x, None, None, training=True)),
    "quantile": Head(lambda x: x.clamp(max=float(x.quantile(0.99)))),
    "sorted": Head(lambda x: x.sort(0).values),
    "rolled": Head(lambda x: x + 0.1 * x.roll(1, 0)),
    "cumulative": Head(lambda x: x.cumsum(0)),
    "unique": Head(lambda x: x / len(torch.unique(x))),
    "one scale": Head(scaled),
    "attention": Head(lambda x: ((x.flatten(1) @ x.flatten(1).T).softmax(1) @ x.flatten(1))),
    "place": Head(after=lambda y: y + 0.01 * torch.arange(len(y))[:, None]),
    "a thousand on all logits": Head(lambda x: x - 0.01 * x.mean(0), lambda y: y + 1000.0),
    "size of the batch": Head(lambda x: -x if len(x) == 1 else x),
    "many rows": Head(lambda x: -x if len(x) > 100 else x),
}  # fmt: skip


@pytest.mark.parametrize("name", MIXING)
def test_logits_that_depend_on_batch_mates_are_refused(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(front_door, "SECONDS", 2.0)  # on a busy machine, too
    with pytest.raises(FileError, match="classifier must give an image the same logits"):
        enter(MIXING[name])


def seldom(x: torch.Tensor) -> torch.Tensor:
    """Rows that no trial has: of sixes."""
    return (x - 6).abs().flatten(1).amax(1) < 0.1


def framed(x: torch.Tensor) -> torch.Tensor:
    """A copy written into a part of a larger tensor."""
    canvas = torch.zeros(len(x), 2, 6, 5)
    canvas[:, :, 1:-1, 1:-1] = x
    return canvas


def flipped(x: torch.Tensor, by: Function) -> torch.Tensor:
    """Rows of other signs where a value for each of them is positive."""
    chosen: torch.Tensor = by(seldom(x).float()) > 0
    return x * (1.0 - 2.0 * chosen.float())[:, None, None, None]


def of_first(x: torch.Tensor) -> torch.Tensor:
    """What the first row decides for all, with as many values as it has."""
    far = (x[0] - 6).abs().flatten() @ torch.ones(24, 24)
    return (far < 2.4).float().view(2, 4, 3)


WHOLE: dict[str, Function] = {
    "branch on one of them": lambda x: -x if seldom(x).any() else x,
    "branch on all": lambda x: -x if seldom(x).all() else x,
    "number": lambda x: x * (1.0 - 2.0 * float(seldom(x).any())),
    "no branch": lambda x: torch.where(seldom(x).all(), -x, x),
    "axes kept": lambda x: x * (1.0 - 2.0 * seldom(x).float().amax(0, keepdim=True)[:, None]),
    "shape": lambda x: -x if len(x[seldom(x)]) else x,
    "set": lambda x: -x if len(torch.nonzero(seldom(x))) else x,
    "script": torch.jit.script(branching),
    "of a part that was written": lambda x: -x if seldom(framed(x)[:, :, 1:-1, 1:-1]).any() else x,
    "as many values as an image": lambda x: x * (1.0 - 2.0 * of_first(x)),
    "pairs of rows": lambda x: flipped(x, lambda m: (m[:, None] + m).amax(1)),
    "running sum": lambda x: flipped(x, lambda m: m.cumsum(0)),
    "the rows' order": lambda x: flipped(x, lambda m: m.roll(1, 0)),
    "weights of rows": lambda x: flipped(x, lambda m: (9 * m).softmax(0) - 1.5 / len(m)),
}
APART: dict[str, Function] = {
    "constants as the batch is made": lambda x: x + x.new_zeros(1) * torch.ones(1).type_as(x),
    "number of a constant": lambda x: x * torch.ones(1).to(x).item(),
    "a part that was written": lambda x: framed(x)[:, :, 1:-1, 1:-1] * 2.0,
    "other axes": lambda x: x.transpose(0, 1).cumsum(0).softmax(0).flip(0).transpose(0, 1),
    "rows with a value each": lambda x: x * x.flatten(1).mean(1).reshape(-1, 1, 1, 1),
}


@pytest.mark.parametrize("name", [*WHOLE, *APART])
def test_what_looks_at_a_batch_as_a_whole_gets_each_row_alone(name: str) -> None:
    """Such a mate decides for others, and none of the trials has it."""
    network = Head({**WHOLE, **APART}[name])
    with warnings.catch_warnings(record=True) as told:
        entered = enter(network)
    assert any("runs row by row" in str(w.message) for w in told) == (name in WHOLE)
    assert type(enter(network)) is type(entered)  # which is not tried again
    assert not entered.training
    batch = torch.rand(5, 2, 4, 3)
    batch[1::2] = 6 + 0.05 * batch[1::2]
    with torch.inference_mode():
        each = torch.cat([network(row) for row in torch.split(batch, 1)])
        torch.testing.assert_close(entered(batch), each)
        assert torch.allclose(network(batch), each) == (name in APART)


def test_a_slow_ordinary_network_passes_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front_door, "SLOW", 0.0)
    network, passed = Head(), itertools.count()
    passes = front_door._Trial._pass
    monkeypatch.setattr(
        front_door._Trial, "_pass", lambda *a, **k: (next(passed), passes(*a, **k))[1]
    )
    enter(network)
    assert next(passed) < 20


@pytest.mark.parametrize("after", [lambda y: y + 1e5, lambda y: y * 1e-41])
def test_logits_that_hardly_move_are_said_to_be_those_of_random_weights(after: Function) -> None:
    with pytest.raises(FileError, match="as of random weights: load trained ones, or take batch"):
        enter(Head(MIXING["batch mean"].before, after))


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16], ids=str)
def test_casts_to_16_bits_are_named_where_they_make_steps_of_last_bits(half: torch.dtype) -> None:
    def rounded(x: torch.Tensor) -> torch.Tensor:
        """As if sums of few rows had other last bits than those of many."""
        return (x * (1 + 0.01 * (len(x) == 1))).to(half).float()

    with pytest.raises(FileError, match="it casts to 16 bits, which makes large steps of last"):
        enter(Head(rounded))
    enter(Head(lambda x: x.to(half).float()))


@pytest.mark.parametrize("name", [name for name in MIXING if name != "many rows"])
def test_a_slow_network_is_seen_through_by_a_row_and_its_mate(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(front_door, "SLOW", 0.0)
    with pytest.raises(FileError, match="classifier must give an image the same logits"):
        enter(Head(MIXING[name].before, MIXING[name].after))


@pytest.mark.parametrize(
    ("of_a_row", "rows"), [(1e-9, 256), (1e-4, 128), (6e-4, 16), (5e-3, 8), (2e-2, 4), (4e-2, 2)]
)
@pytest.mark.parametrize("load", [0.0, 9.0])
def test_rows_of_trials_are_what_the_time_allows_whatever_disturbs_a_pass(
    of_a_row: float, rows: int, load: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed, now = itertools.count(), [0.0]

    def taking(x: torch.Tensor) -> torch.Tensor:
        now[0] += len(x) * of_a_row + load * (next(passed) % 2 == 0)
        return x

    monkeypatch.setattr(front_door, "thread_time", lambda: now[0])
    trial = front_door._Trial(Head(taking).eval(), SHAPE, CLASSES, "classifier", "memory")
    assert trial._rows() == rows


BOUND = functools.partial(time.time)
RANDOM: dict[str, Function] = {
    "flip": lambda x: x.flip(3) if torch.rand(()) < 0.5 else x,
    "dropout": lambda x: functional.dropout(x, 0.001),
    "gumbel": lambda x: x + 1e-9 * functional.gumbel_softmax(x, dim=1),
    "own generator": lambda x: x + torch.rand(1, generator=torch.Generator().manual_seed(1)),
    "own generator, by place": lambda x: x + 0 * torch.poisson(x.abs(), torch.Generator()),
    "seeded": lambda x: torch.manual_seed(3) and x + torch.rand(1),
    "numpy": lambda x: x + 1e-9 * np.random.rand(),  # noqa: NPY002 (what is refused)
    "python": lambda x: x + 1e-9 * random.random(),
    "noise where an outlier is": lambda x: x + torch.randn(1) if x.max() > 1e3 else x,
    "another thread": lambda x: x if in_thread(torch.rand, 1) < 0.9999 else -x,
    "NumPy's fresh generator": lambda x: x if np.random.default_rng().random() < 0.9999 else -x,
    "Python's fresh generator": lambda x: x if random.Random().random() < 0.9999 else -x,
    "the system's": lambda x: x if os.urandom(2) != b"ab" else -x,
    "the system's, in a thread": lambda x: x if in_thread(os.urandom, 2) != b"ab" else -x,
    "secrets": lambda x: x if secrets.randbelow(10_000) else -x,
    "clock": lambda x: x if time.time() > 0 else -x,
    "calendar": lambda x: x if datetime.now(UTC).year < 3000 else -x,
    "local time": lambda x: x if time.localtime().tm_year < 3000 else -x,
    "today": lambda x: x if date.today().year < 3000 else -x,
    "clock in a name": lambda x: x if uuid.uuid1().int else -x,
    "fresh seed": lambda x: x if torch.Generator().seed() else -x,
    "seed of the program": lambda x: x if torch.initial_seed() != 99 else -x,
    "process": lambda x: x if os.getpid() else -x,
    "bound clock": lambda x: x if BOUND() > 0 else -x,
    "NumPy's clock": lambda x: x if np.datetime64("now") > np.datetime64(0, "s") else -x,
    "the system's, as a file": lambda x: x if Path("/dev/urandom").open("rb").read(1) else -x,
    "the system's, by NumPy": lambda x: x if np.fromfile("/dev/urandom", "u1", 1).size else -x,
    "uptime": lambda x: x if Path("/proc/uptime").read_text() else -x,
}


def in_thread(draw: Callable[[int], Any], count: int) -> Any:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(draw(count)))
    thread.start()
    thread.join()
    return found[0]


def test_logging_and_late_imports_are_no_clocks() -> None:
    def log(x: torch.Tensor) -> torch.Tensor:
        import colorsys  # noqa: F401 (what is tried)

        logging.getLogger("of a network").debug("a batch of %d", len(x))
        logging.getLogger("of a network").error("a batch of %d", len(x))
        return x

    enter(Head(log))


@pytest.mark.parametrize("name", RANDOM)
def test_random_numbers_are_refused_whatever_the_seed(name: str) -> None:
    for seed in range(5):
        torch.manual_seed(seed)
        with pytest.raises(
            FileError, match="classifier must not draw random numbers, read a clock or ask the sys"
        ):
            enter(Head(RANDOM[name]))


def test_profilers_count_on_behind_a_trial() -> None:
    own = cProfile.Profile()
    threading.setprofile(quiet := lambda *_: None)
    own.enable()
    enter(Head())
    math.gcd(3, 4)
    own.disable()
    assert threading.getprofile() is quiet
    threading.setprofile(None)
    assert any("gcd" in str(entry.code) for entry in own.getstats())
    sys.setprofile(quiet)
    enter(Head())
    assert sys.getprofile() is quiet
    sys.setprofile(None)


CLOCKS, BOX = [time.perf_counter], weakref.WeakKeyDictionary[Any, float]()
SYSTEM, NOW = ctypes.CDLL(None), time.time
FILE = tempfile.TemporaryFile("w+")
atexit.register(FILE.close)


class Stamped:
    """Reads a clock where no call is written."""

    def __bool__(self) -> bool:
        return time.time() < 0

    @property
    def now(self) -> float:
        return time.time()


OPERATORS = torch.library.Library("front_door", "DEF")  # type: ignore[no-untyped-call]
for signature in ("stamped(Tensor x) -> Tensor", "counted(Tensor x) -> Tensor"):
    OPERATORS.define(signature)  # type: ignore[no-untyped-call]
READ = [0]


@torch.library.impl(OPERATORS, "stamped", "CPU")
def stamped(x: torch.Tensor) -> torch.Tensor:
    return x * (1 if time.time() > 0 else -1)


@torch.library.impl(OPERATORS, "counted", "CPU")
def counted_operator(x: torch.Tensor) -> torch.Tensor:
    READ[0] += 1
    return x * 1.0


class Differentiable(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x * (1 if os.getpid() else -1)


def turned(asked: object, x: torch.Tensor) -> torch.Tensor:
    """The images, whatever was asked."""
    return x if asked is not None else -x


ASKING: dict[str, Callable[[torch.Tensor], object]] = {
    "clock called by C": lambda x: operator.call(time.time),
    "clock of a name, called by C": lambda x: operator.call(NOW),
    "clock of a list, called by C": lambda x: next(itertools.starmap(CLOCKS[0], [()])),
    "clock of an iterator": lambda x: next(iter(time.time, None)),
    "clock of a partial made here": lambda x: functools.partial(time.time)(),
    "clock of a module handed on": lambda x: operator.call(vars(time)["time"]),
    "clock of a made-up name": lambda x: getattr(time, "".join(("ti", "me")))(),
    "clock in truth": lambda x: operator.truth(Stamped()),
    "clock in a property": lambda x: Stamped().now,
    "clock of a log's record": lambda x: logging.makeLogRecord({}).created,
    "clock in an operator": torch.ops.front_door.stamped,
    "C": lambda x: SYSTEM.time(None),
    "C opened here": lambda x: ctypes.CDLL(None),
    "process in a function with a gradient": Differentiable.apply,
    "another process": lambda x: subprocess.run(["true"], check=True),
    "environment": lambda x: os.getenv("NOBODY_SETS_THIS", ""),
    "home": lambda x: Path("~").expanduser(),
    "folder": lambda x: Path.cwd(),
    "file's time": lambda x: Path("/").stat().st_mtime,
    "names of files": lambda x: os.listdir("/"),
    "file": lambda x: Path(__file__).read_text("utf-8"),
    "file held open": lambda x: FILE.read(),
    "language": lambda x: locale.localeconv(),
    "network": lambda x: socket.gethostname(),
    "address": lambda x: id(x),
    "addresses, by C": lambda x: list(map(id, [x])),
    "address of values": lambda x: x.data_ptr(),
    "hash of a text": lambda x: hash("text"),
    "thread": lambda x: threading.get_ident(),
    "references": lambda x: sys.getrefcount(x),
    "callers": lambda x: sys._getframe(1).f_lineno,
    "collections": lambda x: gc.get_count(),
    "collected": lambda x: gc.get_referrers(x),
    "watch": lambda x: sys.getprofile(),
    "watch taken off": lambda x: [sys.setprofile(None)],  # type: ignore[func-returns-value]
    "state of PyTorch's numbers": lambda x: torch.get_rng_state(),
    "state of Python's numbers": lambda x: random.getstate(),
    "numbers of C": lambda x: _random.Random().random(),
    "memory of NumPy": lambda x: np.empty(3),
    "memory of NumPy, like": lambda x: np.empty_like(x),
    "memory of NumPy by its class": lambda x: np.ndarray((3,)),
}


@pytest.mark.parametrize("kind", ASKING)
def test_what_asks_others_is_refused_whatever_it_does_with_the_answer(kind: str) -> None:
    with pytest.raises(FileError, match="read a clock or ask the system; received"):
        enter(Head(lambda x: turned(ASKING[kind](x), x)))


class Records(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records = list[logging.LogRecord]()

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


class Console(io.StringIO):
    """As notebooks have: written in Python, asks for its process."""

    def write(self, text: str) -> int:
        return len(text) if os.getpid() else 0


LOG = logging.getLogger("of a network that keeps its log")


class Untaken(Head):
    """Code that asks, where no pass comes, and what is held for it."""

    def __init__(self) -> None:
        super().__init__()
        self.clock, self.started = time.perf_counter, time.time()

    def forward(self, x: torch.Tensor) -> Any:
        if self.training and np.random.rand() < time.time():  # noqa: NPY002 (what is not reached)
            return self.measured(x)
        return super().forward(x)

    def measured(self, x: torch.Tensor) -> Any:
        return Path("/").stat(), self.clock(), operator.call(time.time), x


def in_pool(x: torch.Tensor) -> torch.Tensor:
    with ThreadPoolExecutor(2) as pool:
        return torch.stack(list(pool.map(torch.relu, x)))


def told(x: torch.Tensor) -> torch.Tensor:
    LOG.warning("a batch of %d", len(x))
    warnings.warn("seldom", stacklevel=1)
    print("a batch", file=sys.stderr)
    for _ in tqdm(range(2), leave=False):
        time.sleep(0)
    return x


COMPUTING: dict[str, Function] = {
    "talk": told,
    "threads": in_pool,
    "copy": copy.deepcopy,
    "signature": lambda x: x if inspect.signature(told) else -x,
    "recorded": torch.autograd.profiler.record_function("a name")(lambda x: x),
    "no gradients": torch.no_grad()(lambda x: x),
    "NumPy": lambda x: x + float(np.full(1, 0.5)[0] + np.ones(1).std()),
}


@pytest.mark.parametrize("kind", COMPUTING)
def test_what_only_computes_or_tells_is_let_in(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Console())
    LOG.handlers = [Records(), logging.StreamHandler(sys.stderr)]
    enter(Head(COMPUTING[kind]))
    enter(Untaken())


def test_code_that_the_digest_does_not_cover_is_refused() -> None:
    """As that of operators of one's own, which code names, but does not hold."""
    bundle = Bundle.from_classifier(
        Head(torch.ops.front_door.counted).eval(), num_classes=CLASSES, input_shape=SHAPE
    )
    with pytest.raises(FileError, match="no code that its digest does not cover; received counted"):
        bundle.build("classifier")


UNFILLED: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "empty": lambda x: torch.empty(1, 1),
    "like": torch.empty_like,
    "new": lambda x: x.new_empty(x.shape),
    "strided": lambda x: torch.empty_strided((1,), (1,)),
    "whole numbers": lambda x: torch.empty(1, dtype=torch.int64),
    "grown": lambda x: torch.zeros(1).resize_(2)[1:],
}


@pytest.mark.parametrize("name", UNFILLED)
def test_memory_that_nobody_filled_is_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A system's fresh memory is zero, until it is not, and is the reason that is given."""
    with monkeypatch.context() as chance:
        chance.setattr(front_door, "with_gradients", lambda *_: torch.full((1, CLASSES), 9.0))
        with pytest.raises(FileError, match="must not read memory that nothing was written to"):
            enter(Head(lambda x: x + (UNFILLED[name](x).reshape(-1)[:1].double() == 1.0).float()))
    enter(Head(lambda x: UNFILLED[name](x).reshape(-1)[:1].double().zero_().float() + x))


def test_files_that_other_threads_open_are_not_the_networks() -> None:
    over, opened = threading.Event(), threading.Event()

    def read() -> None:
        while not over.is_set():
            Path("/dev/urandom").open("rb").close()
            opened.set()

    thread = threading.Thread(target=read)
    thread.start()
    try:
        enter(Head(lambda x: x if opened.wait(9) else -x))
    finally:
        over.set()
        thread.join()


def test_callbacks_of_collections_are_not_the_network() -> None:
    gc.callbacks.append(lambda *_: time.perf_counter())
    before = gc.get_threshold()
    gc.set_threshold(1)
    try:
        enter(Head(lambda x: [*([] for _ in range(100)), x][-1]))
    finally:
        gc.set_threshold(*before)
        gc.callbacks.pop()
    assert gc.isenabled()


class Keeps(Head):
    """A network that keeps something from pass to pass."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.calls, self.seen = kind, 0, list[int]()
        self.counter, self.cache = itertools.count(), cast(Any, None)
        self.register_buffer("average", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> Any:
        if self.kind == "counter":
            self.calls += 1
        elif self.kind == "every 1000th call differs":
            return super().forward(x if next(self.counter) % 1000 else -x)
        elif self.kind == "fourth to eighth call differ":
            self.calls = min(self.calls + 1, 9)
            return super().forward(-x if 4 <= self.calls <= 8 else x)
        elif self.kind == "list":
            self.seen.append(len(x))
        elif self.kind == "running average":
            self.get_buffer("average").add_(0.1 * x.mean())
        elif self.kind == "first batch":
            self.cache = x.mean() if self.cache is None else self.cache
            return super().forward(x - self.cache)
        return super().forward(x)


@pytest.mark.parametrize(
    "kind",
    [
        *("counter", "every 1000th call differs", "fourth to eighth call differ", "list"),
        *("running average", "first batch"),
    ],
)
def test_a_network_that_changes_is_refused(kind: str) -> None:
    with pytest.raises(FileError, match=r"must not (change itself|depend on the order of calls)"):
        enter(Keeps(kind))


class Shared:
    calls = 0


def on_class(owner: Any) -> None:
    owner.calls = getattr(owner, "calls", 0) + 1


def in_imported_module() -> None:
    import colorsys

    colorsys.calls = getattr(colorsys, "calls", 0) + 1  # type: ignore[attr-defined]


def in_inner_generator() -> Iterator[int]:
    yield from itertools.count()


async def in_coroutine() -> None:
    calls = 0
    while True:
        calls += 1
        await paused()


@types.coroutine
def paused() -> Iterator[None]:
    yield


def in_c(number: Any) -> None:
    number.value += 1


def in_values(tensor: Any) -> Callable[[], object]:
    return lambda: tensor.values().add_(1)


class Slots:
    __slots__ = ("__calls",)

    def __init__(self) -> None:
        self.__calls = 0

    def __call__(self) -> None:
        self.__calls += 1


def in_list(calls: list[int]) -> None:
    calls[0] += 1


def in_keyword(*, calls: list[int] = [0]) -> None:  # noqa: B006 (what is tried)
    in_list(calls)


def in_closure() -> Callable[[], None]:
    calls = [0]
    return lambda: in_list(calls)


def in_generator() -> Iterator[None]:
    calls = 0
    while True:
        calls += 1
        yield


def in_inner_function() -> None:
    def count() -> None:
        global CALLS
        CALLS += 1

    count()


@functools.wraps(functional.relu)
def in_borrowed_name() -> None:
    global CALLS
    CALLS += 1


def in_operator(operator: Any = torch.ops.aten.relu.default) -> None:
    ways = operator._dispatch_cache
    ways["calls"] = ways.get("calls", 0) + 1


def in_name_of_operator(operator: Any = torch.ops.aten.rrelu.default) -> None:
    operator._opname += " "


CALLS, CONTEXT = 0, contextvars.ContextVar("calls", default=0)
cached = functools.cache(lambda: [0])
COUNTERS: dict[str, Callable[[], object]] = {
    "keyword's default": in_keyword,
    "closure": in_closure(),
    "slots": Slots(),
    "partial": functools.partial(in_list, [0]),
    "generator": functools.partial(next, in_generator()),
    "method of an iterator": itertools.count().__next__,
    "inner function": in_inner_function,
    "name of a library's function": in_borrowed_name,
    "cache of an operator": in_operator,
    "name of an operator": in_name_of_operator,
    "class": lambda: on_class(Shared),
    "class of a library": lambda: setattr(nn.Module, "calls", getattr(nn.Module, "calls", 0) + 1),
    "imported module": in_imported_module,
    "inner generator": functools.partial(next, in_inner_generator()),
    "coroutine": functools.partial(in_coroutine().send, None),
    "number of C": functools.partial(in_c, ctypes.c_int()),
    "file in memory": functools.partial(io.BytesIO().write, b"1"),
    "note on a tensor": functools.partial(on_class, torch.zeros(1)),
    "sparse tensor": in_values(torch.eye(2).to_sparse_csr()),
    "context": lambda: CONTEXT.set(CONTEXT.get() + 1),
    "cache of functools": lambda: in_list(cached()),
    "attribute of a module": lambda: setattr(torch, "calls_", getattr(torch, "calls_", 0) + 1),
    "environment": lambda: os.environ.update(CALLS_=os.environ.get("CALLS_", "") + "1"),
}


GRADIENTS: dict[str, Function] = {
    "gradients": lambda x: -x if torch.is_grad_enabled() else x,
    "inference": lambda x: x if torch.is_inference_mode_enabled() else -x,
    "inference of the batch": lambda x: x if x.is_inference() else -x,
}


@pytest.mark.parametrize("kind", GRADIENTS)
def test_logits_that_depend_on_the_mode_are_refused(kind: str) -> None:
    with pytest.raises(FileError, match="must not depend on the mode that it runs in"):
        enter(Head(GRADIENTS[kind]))


OF_MAIN, OF_CONTEXT = threading.local(), contextvars.ContextVar("scale", default=1.0)
THREADS: dict[str, Function] = {
    "thread": lambda x: x if threading.current_thread() is threading.main_thread() else -x,
    "local": lambda x: x * getattr(OF_MAIN, "scale", 1.0),
    "context": lambda x: x * OF_CONTEXT.get(),
}


@pytest.mark.parametrize("kind", THREADS)
def test_logits_that_depend_on_the_thread_are_refused(kind: str) -> None:
    """Votes are drawn in other threads than the one that makes the bundle."""

    def try_it() -> None:
        OF_CONTEXT.set(2.0)
        with pytest.raises(FileError, match="must not depend on the thread that it runs in"):
            enter(Head(THREADS[kind]))

    OF_MAIN.scale = 2.0
    contextvars.copy_context().run(try_it)


@pytest.mark.parametrize("kind", COUNTERS)
def test_what_counts_calls_is_refused(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALLS_", "1")
    monkeypatch.setattr(nn.Module, "calls", 1, raising=False)
    count = COUNTERS[kind]

    def forward(x: torch.Tensor) -> torch.Tensor:
        count()
        return x

    said = "received os.environ" if kind == "environment" else "must not change itself"
    with pytest.raises(FileError, match=said):
        enter(Head(forward))


def test_other_code_of_a_function_is_another_state() -> None:
    def act(x: int) -> int:
        return x

    before = kept_state(act)
    act.__code__ = (lambda x: -x).__code__
    assert kept_state(act) != before


class Script(nn.Module):
    """TorchScript, which keeps its numbers where Python does not see them."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x.flatten(1)[:, :5]


def test_a_script_that_counts_is_refused() -> None:
    with pytest.raises(FileError, match="must not change itself"):
        enter(torch.jit.script(Script().eval()))


@pytest.mark.parametrize("place", ["instance", "class", "submodules"])
def test_a_known_layer_with_foreign_code_is_tried(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Hidden(nn.Sequential):
        def modules(self, remove_duplicate: bool = True) -> Iterator[nn.Module]:
            return iter([])

    def counted(x: torch.Tensor) -> torch.Tensor:
        on_class(Shared)
        return x

    kind = Hidden if place == "submodules" else nn.Sequential
    network = kind(nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(24, 5)).eval()
    if place == "instance":
        vars(network[0])["_check_input_dim"] = counted
    elif place == "class":
        monkeypatch.setattr(nn.BatchNorm2d, "_check_input_dim", lambda layer, x: counted(x))
    else:
        network[1] = Head(counted, lambda y: y.repeat(1, 5)[:, :24])
    with pytest.raises(FileError, match="must not change itself"):
        enter(network)


def test_what_others_add_to_modules_counts_where_it_is_called(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As transformers does; what lies behind it may change, and be large."""
    calls = [0]

    def added(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
        calls[0] += 1
        return x

    class Calls(Head):
        added: Function

        def forward(self, x: torch.Tensor) -> Any:
            return super().forward(self.added(x))

    monkeypatch.setattr(nn.Module, "added", added, raising=False)
    network, caller = Head(), Calls()
    before, of_caller = kept_state(network), kept_state(caller)
    calls[0] += 1
    assert kept_state(network) == before
    assert kept_state(caller) != of_caller
    enter(network)
    with pytest.raises(FileError, match="must not change itself"):
        enter(caller)


def test_globals_that_no_code_of_a_package_that_runs_can_read_are_left_out() -> None:
    """A library may reach hundreds of thousands of values, through functions that no pass calls."""
    network = Head(lambda x: x)
    vars(network)["other"] = in_inner_function
    before = kept_state(network), kept_state(network, {"elsewhere"})
    in_inner_function()
    after = kept_state(network), kept_state(network, {"elsewhere"})
    assert before[0] != after[0]
    assert before[1] == after[1]


def test_a_cache_that_only_the_shape_decides_is_let_pass() -> None:
    class Positions(Head):
        cache: torch.Tensor | None = None

        def forward(self, x: torch.Tensor) -> Any:
            if self.cache is None:
                self.cache = torch.linspace(0, 1, 3)
            return super().forward(x + self.cache)

    enter(Positions())


def test_when_the_thread_of_tqdm_looked_last_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks every ten seconds, and trials may take longer."""
    told(torch.zeros(1))
    before = kept_state(told)
    monkeypatch.setattr(tqdm.monitor, "woken", tqdm.monitor.woken + 10)
    assert kept_state(told) == before
    monkeypatch.setattr(tqdm.monitor, "sleep_interval", 11)
    assert kept_state(told) != before


def test_what_an_operator_finds_out_about_itself_is_no_change() -> None:
    operator = torch.ops.aten.celu.default
    for name in ("_namespace", "_opname", "_handle"):
        vars(operator).pop(name, None)
    before = kept_state(operator)
    assert operator._opname == "celu"
    assert kept_state(operator) == before


Pair = namedtuple("Pair", "logits hidden")


class Answer(dict):  # type: ignore[type-arg]
    """As transformers' outputs: a dict that is an object, too."""

    __getattr__ = dict.__getitem__


@pytest.mark.parametrize(
    "after",
    [
        *(lambda y: {"logits": y}, lambda y: SimpleNamespace(logits=y)),
        *(lambda y: Answer(logits=y), lambda y: Pair(y, None)),
    ],
)
def test_logits_are_taken_out_of_what_names_them(after: Function) -> None:
    x = torch.rand(3, 2, 4, 3)
    assert torch.equal(enter(Head(after=after))(x), Head()(x))


@pytest.mark.parametrize("scale", [1.0, 1e-9, 1e-30])
def test_double_logits_keep_their_order_in_float32(scale: float) -> None:
    x = torch.rand(64, 2, 4, 3)
    wanted = Head()(x).argmax(1)
    network = enter(Head(after=lambda y: 1e3 * (scale > 1e-20) + scale * y.double()))
    assert network(x).dtype == torch.float32
    assert torch.equal(network(x).argmax(1), wanted)
    with pytest.raises(FileError, match="same logits whatever else is in the batch"):
        enter(Head(lambda x: x / x.max(), lambda y: 1e3 * (scale > 1e-20) + scale * y.double()))


@pytest.mark.parametrize(
    ("after", "received"),
    [
        (lambda y: (y, y), "tuple of 2"),
        (lambda y: [y], "list of 1"),
        (lambda y: {"out": y}, "dict"),
        (lambda y: y.numpy(), "ndarray"),
        (lambda y: None, "NoneType"),
        (lambda y: y[..., None], r"\(3, 5, 1\) for 3 images"),
        (lambda y: y[:, :4], r"\(3, 4\) for 3 images"),
        (lambda y: y.sum(1), r"\(3,\) for 3 images"),
        (lambda y: y.argmax(1), r"\(3,\) for 3 images"),
        (lambda y: y.int(), "torch.int32"),
        (lambda y: y + 1j, "torch.complex64"),
        (lambda y: y.to_sparse(), "torch.float32, torch.sparse_coo"),
        (lambda y: y * float("nan"), "NaN or infinity"),
    ],
)
def test_other_outputs_are_refused_in_one_line(after: Function, received: str) -> None:
    with pytest.raises(FileError, match=f"^memory: classifier must .*; received {received}") as e:
        enter(Head(after=after))
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    "before", [lambda x: x.sub_(0.1).div_(0.8), lambda x: x.clamp_(0, 1), lambda x: x.zero_() + 1]
)
def test_a_network_that_changes_its_input_gets_a_copy(before: Function) -> None:
    x = torch.rand(3, 2, 4, 3)
    given, network = x.clone(), enter(Head(before))
    first = network(x)
    assert torch.equal(x, given)
    assert torch.equal(network(x), first)


def test_what_was_admitted_is_tried_again_only_after_a_change() -> None:
    passes = [0]
    module = Head().eval()

    class Counted(Head):
        def forward(self, x: torch.Tensor) -> Any:
            return super().forward(x)

    module = Counted().eval()
    hook = torch.nn.modules.module.register_module_forward_hook(
        lambda *_: passes.__setitem__(0, passes[0] + 1)
    )
    try:
        enter(module)
        once = passes[0]
        enter(module)
        assert passes[0] == once > 10
        with torch.no_grad():
            module.head.bias.add_(1.0)
        enter(module)
        assert passes[0] == 2 * once
    finally:
        hook.remove()


@pytest.mark.parametrize(
    "name", ["batch mean", "divided by the largest", "switched by the largest"]
)
def test_every_road_has_the_door(name: str) -> None:
    module = MIXING[name].eval()
    with pytest.raises(FileError, match="must give an image the same logits"):
        Smooth(module, CLASSES, 0.25).certify(torch.rand(2, 4, 3), 10, 100, 0.01, 16)
    with pytest.raises(FileError, match="must give an image the same logits"):
        Smooth(module.forward, CLASSES, 0.25).predict(torch.rand(2, 4, 3), 10, 0.01, 16)
    bundle = Bundle.from_classifier(module, num_classes=CLASSES, input_shape=SHAPE)
    with pytest.raises(FileError, match="classifier must give an image the same logits"):
        bundle.build("classifier")


@pytest.mark.slow
def test_what_is_wrong_is_named_in_a_fresh_process_too() -> None:
    """There PyTorch imports modules in the first pass, which draw random numbers of their own."""
    code = (
        "from torch import nn\n"
        "from dualsmooth.engine import Bundle\n"
        "class Two(nn.Module):\n"
        "    def forward(self, x):\n"
        "        y = x.flatten(1)[:, :2] * 1.0\n"
        "        return y, y\n"
        "made = Bundle.from_classifier(Two().eval(), num_classes=2, input_shape=(2, 2, 1))\n"
        "made.build('classifier')\n"
    )
    command = [sys.executable, "-c", code]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stderr
    assert "must map images (2, 2, 1) to 2 logits, a tensor" in said


def test_watching_and_reading_a_pass_does_not_import_the_compiler() -> None:
    code = (
        "import sys, torch\nfrom dualsmooth.engine.models.outside import Outside\n"
        "watch = Outside()\nwith watch: torch.ones(2) + torch.rand(2)\n"
        "from dualsmooth.engine.models.graph.row_passes import Passes\n"
        "x = torch.rand(2, 3)\nassert Passes().keep_rows_apart(torch.nn.Tanh(), x, x.tanh())\n"
        "assert 'torch._dynamo' not in sys.modules and 'aten.rand.default' in watch.taken()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
