"""What a network may not read: random numbers, clocks and the system's entropy."""

import cProfile
import gc
import random
import sys
import threading
import time
from datetime import date
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


class Outside(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes who takes random numbers or the time: operators, generators, clocks, the system."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._found: list[str] = []
        self.read: list[str] = []
        self._before = self._others()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Not needed, as nothing is compiled while a mode watches; it imports the compiler."""
        return False

    def __enter__(self) -> Any:
        self._profiles, self._collects = (sys.getprofile(), threading.getprofile()), gc.isenabled()
        gc.disable()  # callbacks of a collection may tell the time
        self._watches = True
        sys.setprofile(self._note)
        threading.setprofile(self._note)
        return super().__enter__()  # type: ignore[no-untyped-call]

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)  # type: ignore[no-untyped-call]
        self._watches = False
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
            return func(*args, **(kwargs or {}))
        every = (*args, *(kwargs or {}).values())
        given = [value for value in every if isinstance(value, torch.Generator)]
        generator = given[0] if given else torch.default_generator
        before = generator.get_state()
        result = func(*args, **(kwargs or {}))
        if not torch.equal(before, generator.get_state()):
            self._found.append(str(func))
        return result

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
