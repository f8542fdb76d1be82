"""Ctrl-C ends the command soon, with one line, wherever it is.

While a command is at work it is an exception as always (`interruptible`). Before and after that it
ends the process at once (`end_at_once`), and a watch does so where Python does not get to act.
What takes long to import is imported when it is needed: this module is what guards imports.
"""

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from socket import socket

INTERRUPTED = 130
GRACE = 1.0
"""Seconds after Ctrl-C until the process ends as if it were killed, which loses nothing."""

INTERRUPTS = (bytes([signal.SIGINT]), bytes([signal.SIGTERM]))
_state = {"interrupted": False, "said": False}


def stopped(why: str, reached: str = "what was reached is on disk, ") -> str:
    """Why a command stopped, and how to go on where it can."""
    resumable = {"certify": "--resume", "train": "--resume", "frontier": "the same command"}
    how = resumable.get("".join(sys.argv[1:2]))
    return f"{why}; {reached}go on with {how}" if how else why


def end_at_once() -> None:
    """From now on Ctrl-C ends the process: nothing has begun, or all is done."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        with suppress(ValueError):  # only the main thread may
            signal.signal(signal.SIGINT, _end)


@contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C is a KeyboardInterrupt inside the block."""
    if signal.getsignal(signal.SIGINT) is not _end:
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, _end)


def said() -> None:
    """The line that ends the process has been printed; an interrupted one ends now.

    Python's own end, with all threads and libraries, takes seconds.
    """
    _state["said"] = True
    if _state["interrupted"]:
        _end_now()


@contextmanager
def watch() -> Iterator[None]:
    """See to it that Ctrl-C ends the process even where Python does not get to act on it."""
    from socket import socketpair
    from threading import Thread

    ours, theirs = socketpair()
    with ours, theirs:
        theirs.setblocking(False)
        with suppress(ValueError):
            signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        Thread(target=_wait_for_signal, args=(ours,), daemon=True).start()
        try:
            yield
        finally:
            _forget_signals()


def _wait_for_signal(ours: "socket") -> None:
    with suppress(OSError):  # closed: the command has ended
        while (number := ours.recv(1)) not in INTERRUPTS:
            if not number:
                return
        _state["interrupted"] = True
        time.sleep(GRACE)
        _say(f"\ndualsmooth: {stopped('interrupted')}\n")
        _end_now()


def _forget_signals() -> None:
    with suppress(ValueError):
        signal.set_wakeup_fd(-1)


if hasattr(os, "register_at_fork"):  # a signal to a child is not one to its parent
    os.register_at_fork(after_in_child=_forget_signals)


def _end(*_: object) -> NoReturn:
    _say("dualsmooth: interrupted\n")
    _end_now()


def _say(line: str) -> None:
    if not _state["said"]:
        os.write(2, line.encode())


def _end_now() -> NoReturn:
    if "multiprocessing" in sys.modules:
        from multiprocessing import active_children

        for child in active_children():
            child.kill()
    os._exit(INTERRUPTED)
