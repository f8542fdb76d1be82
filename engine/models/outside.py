"""What a network may not read: random numbers, clocks and the system's entropy."""

import cProfile
import gc
import os
import random
import re
import sys
import threading
import time
from datetime import date
from functools import cache, partial
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

_OUTSIDE = set(
    """urandom getrandom Random.seed Generator.seed Generator.initial_seed generate_time_safe times
    getrusage getloadavg getpid""".split()
)
"""Functions in C that read the system's random numbers, seeds, ids and uses of time."""
_NOW = {"now", "utcnow", "today"}
_FILES = re.compile(r"/dev/(\w*random|rtc|hwrng)|/proc/(uptime|loadavg|stat|sys/kernel/random)")
"""Files of the system that are random numbers or clocks."""
_aten = torch.ops.aten
_UNFILLED = {_aten.empty, _aten.empty_like, _aten.empty_strided, _aten.empty_permuted}
_UNFILLED |= {_aten.new_empty, _aten.new_empty_strided, _aten.resize_}
LEFT = float("inf"), float("-inf"), float("nan"), 1.0
"""What memory may hold that nobody filled, beside zeros."""
_WATCHING = list["Outside"]()


class Outside(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes who takes random numbers or the time: operators, generators, clocks, the system.

    Memory that operators leave as it was is filled with ``left``.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._found: list[str] = []
        self.read: list[str] = []
        self.left, self.left_some = 0.0, False
        self._before = self._others()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Not needed, as nothing is compiled while a mode watches; it imports the compiler."""
        return False

    def __enter__(self) -> Any:
        self._profiles, self._collects = (sys.getprofile(), threading.getprofile()), gc.isenabled()
        gc.disable()  # callbacks of a collection may tell the time
        self._watches = True
        self._strangers = {t.ident for t in threading.enumerate()} - {threading.get_ident()}
        _listen()
        _WATCHING.append(self)
        sys.setprofile(self._note)
        threading.setprofile(self._note)
        return super().__enter__()  # type: ignore[no-untyped-call]

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)  # type: ignore[no-untyped-call]
        self._watches = False
        _WATCHING.remove(self)
        own, of_threads = self._profiles
        threading.setprofile(of_threads)
        if isinstance(own, cProfile.Profile):  # which Python shows, but does not take back
            sys.setprofile(None)
            own.enable()
        else:
            sys.setprofile(own)
        if self._collects:
            gc.enable()

    def _note(self, frame: FrameType, event: str, function: Any) -> None:
        """Profile of every call of the threads that run the network; logging may tell the time."""
        if not self._watches:  # a thread that outlives the pass
            sys.setprofile(None)
            return
        if event == "c_call" and frame.f_globals.get("__name__") != "logging":
            name = getattr(function, "__qualname__", "")
            self.read += [f"{name}()"] if name in _OUTSIDE or _tells_time(function) else []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if torch.Tag.nondeterministic_seeded not in func.tags:
            held = args[0].numel() if func.overloadpacket is _aten.resize_ else 0
            result = func(*args, **(kwargs or {}))
            if func.overloadpacket in _UNFILLED and result.layout is torch.strided:
                self._fill(result.view(-1)[held:] if held else result)
            return result
        every = (*args, *(kwargs or {}).values())
        given = [value for value in every if isinstance(value, torch.Generator)]
        generator = given[0] if given else torch.default_generator
        before = generator.get_state()
        result = func(*args, **(kwargs or {}))
        if not torch.equal(before, generator.get_state()):
            self._found.append(str(func))
        return result

    def _fill(self, memory: torch.Tensor) -> None:
        self.left_some = True
        whole = not (memory.is_floating_point() or memory.is_complex())
        memory.fill_(self.left != 0.0 if whole else self.left)

    def opens(self, file: Any) -> None:
        """Note a file that is opened, unless by threads that were there before."""
        if not isinstance(file, int) and threading.get_ident() not in self._strangers:
            name = os.path.normpath(os.fsdecode(file))
            self.read += [name] if _FILES.match(name) else []

    def taken(self) -> list[str]:
        """What was taken so far."""
        found, before = self._others(), self._before
        others = [f"numbers of {name}" for name in before if found[name] != before[name]]
        return [*self._found, *self.read, *others]

    def _others(self) -> dict[str, object]:
        drawn_by_others = np.random.get_state(legacy=False)  # noqa: NPY002 (nothing is drawn here)
        drawn_by_torch = torch.default_generator.get_state().numpy().tobytes()  # in other threads
        numbers = {"random": random.getstate(), "numpy.random": repr(drawn_by_others)}
        return {**numbers, "torch": drawn_by_torch}


def _tells_time(function: Any) -> bool:
    owner, name = getattr(function, "__self__", None), getattr(function, "__name__", "")
    of_calendar = isinstance(owner, type) and issubclass(owner, date)
    return (owner is time and name != "sleep") or (of_calendar and name in _NOW)


@cache
def _listen() -> None:
    """Hear of every file that Python opens, from now on: such hooks stay."""
    sys.addaudithook(_hear)


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if _WATCHING and event == "open":
        for watch in _WATCHING:
            watch.opens(arguments[0])


def unseen_clock(value: object) -> str:
    """Name of a clock that no profile sees a call of; empty for all other values."""
    if isinstance(value, partial):
        name = getattr(value.func, "__qualname__", "")
        return f"partial({name})" if name in _OUTSIDE or _tells_time(value.func) else ""
    return "numpy.datetime64" if value is np.datetime64 else ""
