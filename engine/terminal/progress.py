"""Progress on standard error: a bar in a terminal or a notebook, a line now and then elsewhere."""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Event, Thread, Timer
from typing import Any

PERIOD, DELAY = 30.0, 2.0
"""Seconds between two lines where standard error is no terminal, and before what may be quick is
told."""

_SHOWN = ContextVar("what goes on is said", default=False)
_LINE = "{desc}: {n_fmt}/{total_fmt} {unit} [{elapsed}<{remaining}{postfix}]"


def progress_bar(*, show: bool = True, **look: Any) -> Any:
    """A tqdm bar: moving in terminals and notebooks, one line every 30 seconds elsewhere.

    What is shown is the caller's choice; ``look`` is as tqdm takes it.
    """
    from tqdm.std import tqdm as plain

    if not show:
        return plain(disable=True, **look)
    from tqdm.auto import tqdm

    if live() or _in_notebook(tqdm):
        return tqdm(dynamic_ncols=True, **look)

    class Lines(plain):  # type: ignore[misc]
        """Counts as a bar does, and says where it is from a thread of its own."""

        def __init__(self) -> None:
            super().__init__(file=io.StringIO(), disable=False, **look | {"bar_format": _LINE})
            self._ended, self._stderr = Event(), sys.stderr
            Thread(target=self._say, daemon=True).start()

        def _say(self) -> None:
            while not self._ended.wait(PERIOD):
                print(self, file=self._stderr, flush=True)

        def close(self) -> None:
            if hasattr(self, "_ended"):
                self._ended.set()
            super().close()

    return Lines()


def passing_bar(**look: Any) -> Any:
    """A bar that comes after two seconds and goes at the end: for what is mostly quick."""
    return progress_bar(leave=False, delay=DELAY, **look)


@contextmanager
def shown(asked: bool) -> Iterator[None]:
    """Have `step` say in the block what goes on, if that is asked for."""
    before = _SHOWN.set(asked)
    try:
        yield
    finally:
        _SHOWN.reset(before)


@contextmanager
def step(what: str) -> Iterator[None]:
    """Say on a terminal what the block is about if it takes long; the line then goes."""
    stream, said = sys.stderr, Event()

    def say() -> None:
        said.set()
        print(f"{what} ..", end="", file=stream, flush=True)

    timer = Timer(DELAY, say)
    timer.daemon = True
    if _SHOWN.get() and live():
        timer.start()
    try:
        yield
    finally:
        timer.cancel()
        if said.is_set():
            timer.join()
            print("\r\x1b[K", end="", file=stream, flush=True)


def live() -> bool:
    """Whether standard error is a terminal on which what is shown can change."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def _in_notebook(kind: Any) -> bool:
    return any(base.__name__ == "tqdm_notebook" for base in kind.__mro__)
