"""What a network may not ask: chance, clocks, the system, and how the interpreter fares.

A pass is a function of its images if it calls nothing but what computes from what it is given. So
it is watched for what asks of others, by who answers rather than by lists of questions: modules of
C that stand for the system, Python's own audit events, operators that draw, memory that nobody
filled. C code called by C code is not seen: what could be called so, as the network holds it or its
code names it, is judged instead. And code that runs must be code that the digest is about.
"""

import _random
import ctypes
import gc
import io
import os
import random
import re
import sys
import threading
from collections.abc import Iterator, Set
from datetime import date
from functools import cache
from types import BuiltinFunctionType, CodeType, FrameType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dualsmooth.engine.models.digest.hidden_state import held
from dualsmooth.engine.models.digest.python_names import owner_of, package_of, values_of
from dualsmooth.engine.models.graph.row_passes import resume

_SYSTEM = set(
    """time posix nt _socket select resource _locale _signal _posixsubprocess _posixshmem
    _multiprocessing _uuid fcntl pwd grp mmap _winapi winreg""".split()
)
"""Modules of C that stand for the system."""
_COMPUTES = {"sleep", "fspath", "strerror"}
_INSIDE = re.compile(
    r"(sys|gc)\.get\w+|_thread\.(get\w+|_count)|(builtins\.)?(id|hash)|(\w+\.)?_?data_ptr"
    r"|torch\._C\.get_num_\w+"
)
"""What tells how a process fares, and memory of NumPy: PyTorch asks, networks may not."""
_CHANCE = re.compile(r"urandom|generate_time_safe|Generator\.(seed|initial_seed|get_state)")
_SILENT = re.compile(
    r"import|exec|compile|code\b|object\b|function\b|marshal|pickle|array|cpython|_thread|time"
    r"|sys\.(exc|unr|_getframe)|builtins|ctypes\.(cdata|addressof)|gc\."
)
"""Audit events of code that is loaded, and those that are seen as calls."""
_LOADS = re.compile(
    r"torch\._dynamo\.convert_frame$|importlib\._bootstrap|linecache$|torch\.utils\.checkpoint$|tqdm\b"
)
_WAITS = re.compile(r"threading$|queue$|concurrent\.")
_TELLS = {"debug", "info", "warning", "error", "critical", "exception", "log", "warn"}
"""Of logging; nothing comes back from these."""
_SEEN = (FunctionType, BuiltinFunctionType, MethodType)
_UNSEEN = (np.empty, np.empty_like, np.ndarray, np.datetime64, _random.Random)
"""What profiles see calls of; and what asks, where they do not."""
_NOW = {"now", "utcnow", "today"}
_aten = torch.ops.aten
_UNFILLED = {_aten.empty, _aten.empty_like, _aten.empty_strided, _aten.empty_permuted}
_UNFILLED |= {_aten.new_empty, _aten.new_empty_strided, _aten.resize_}
LEFT = float("inf"), float("-inf"), float("nan"), 1.0
"""What memory may hold that nobody filled, beside zeros."""
_WATCHING = list["Outside"]()


class Outside(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes what a pass asks of others, and the code that it runs.

    Memory that operators leave as it was is filled with ``left``; ``halves``: tensors had 16 bits.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._found: list[str] = []
        self.read: list[str] = []
        self._ran: dict[CodeType, dict[str, Any]] = {}
        self._met: dict[int, CodeType] = {}  # held, so that no address comes twice
        self._answers: dict[tuple[int, bool, str], tuple[object, str]] = {}
        self.left, self.left_some, self.halves = 0.0, False, False
        self._before = dict[str, object]()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Not needed, as nothing is compiled while a mode watches; it imports the compiler."""
        return False

    def __enter__(self) -> Any:
        self._profiles, self._collects = (sys.getprofile(), threading.getprofile()), gc.isenabled()
        self._before = self._before or self._others()  # copies of a network may draw, passes not
        gc.disable()  # callbacks of a collection may tell the time
        self._strangers = {t.ident for t in threading.enumerate()} - {threading.get_ident()}
        self._outer, self._watches = sys._getframe(1), True
        _listen()
        threading.setprofile(self._note)
        sys.setprofile(self._note)
        _WATCHING.append(self)
        return super().__enter__()  # type: ignore[no-untyped-call]

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)  # type: ignore[no-untyped-call]
        _WATCHING.remove(self)
        self._watches = False
        own, of_threads = self._profiles
        threading.setprofile(of_threads)
        resume(own)
        if self._collects:
            gc.enable()

    def _note(self, frame: FrameType, event: str, function: Any) -> None:
        """Profile of every call of the threads that run the network."""
        if not self._watches:  # a thread that outlives the pass
            sys.setprofile(None)
        elif event == "call":
            code = frame.f_code  # by its address: a hash goes through all of it
            if id(code) not in self._met and not self._aside(frame):
                self._met[id(code)] = code
                self._ran.setdefault(code, frame.f_globals)
            if code.co_qualname.startswith("_Environ."):
                self._notice("os.environ", frame)
        elif event == "c_call" and frame.f_code is not _DISPATCH:
            owner = getattr(function, "__self__", None)
            kind = owner if isinstance(owner, ModuleType | type) else type(owner)
            key = id(kind), kind is owner, getattr(function, "__qualname__", "")
            if key not in self._answers:
                self._answers[key] = kind, _question(function)
            if asked := self._answers[key][1]:
                self._notice(asked, frame)

    def hears(self, event: str, frame: FrameType) -> None:
        """Note an audit event, unless of threads that were there before."""
        if threading.get_ident() not in self._strangers:
            self._notice(event, frame)

    def _notice(self, asked: str, frame: FrameType) -> None:
        inside = owner_of(frame.f_globals) and _INSIDE.fullmatch(asked)
        if not inside and not self._aside(frame, asked):
            self.read.append(asked)

    def _aside(self, caller: FrameType | None, asked: str = "") -> bool:
        """Whether code is loaded, waits, or tells a log or a console what nobody reads."""
        told, consoles = "", {type(s).__module__ for s in (sys.stdout, sys.stderr)} - {"__main__"}
        while caller is not None and caller is not self._outer:
            name = str(caller.f_globals.get("__name__"))
            waits = _WAITS.match(name) and asked.startswith(("time.", "sys.set"))
            if waits or _LOADS.match(name) or name in consoles:
                return True
            told = caller.f_code.co_name if name == "logging" else told
            caller = caller.f_back
        return told in _TELLS

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if torch.Tag.nondeterministic_seeded not in func.tags:
            held = args[0].numel() if func.overloadpacket is _aten.resize_ else 0
            result = func(*args, **(kwargs or {}))
            self.halves |= getattr(result, "dtype", None) in (torch.float16, torch.bfloat16)
            if func.overloadpacket in _UNFILLED and result.layout is torch.strided:
                self._fill(result.view(-1)[held:] if held else result)
            return result
        every = (*args, *(kwargs or {}).values())
        drawer = next((v for v in every if isinstance(v, torch.Generator)), torch.default_generator)
        before = drawer.get_state()
        result = func(*args, **(kwargs or {}))
        if not torch.equal(before, drawer.get_state()):
            self._found.append(str(func))
        return result

    def _fill(self, memory: torch.Tensor) -> None:
        self.left_some = True
        whole = not (memory.is_floating_point() or memory.is_complex())
        memory.fill_(self.left != 0.0 if whole else self.left)

    def taken(self, network: object = None) -> list[str]:
        """What was taken so far, or could have been by calls that no profile sees."""
        found, before = self._others(), self._before
        others = [f"numbers of {name}" for name in before if found[name] != before[name]]
        return [*self._found, *self.read, *others, *self._unseen(network)]

    def _unseen(self, network: object) -> Iterator[str]:
        named = list[object]()
        for code, scope in self._ran.items() if network is not None else ():
            for value, called in values_of(code, scope) if not owner_of(scope) else ():
                if any(value is kind and called for kind in _UNSEEN):
                    yield str(getattr(value, "__name__", value))
                if isinstance(value, ModuleType) and value.__name__ in _SYSTEM:
                    yield value.__name__
                named += [] if called and isinstance(value, _SEEN) else [value]
        for value in held([network, *named], self._ran):
            if isinstance(value, BuiltinFunctionType):
                yield from filter(None, [_question(value)])
            elif isinstance(value, ctypes._CFuncPtr | ctypes.CDLL):  # type: ignore[attr-defined]
                yield "C code by ctypes"
            elif isinstance(value, torch.jit.ScriptModule):  # what a first pass folds, stays
                graph = getattr(value, "inlined_graph", None)
                yield from ["torch.empty"] if graph and graph.findNode("aten::empty") else []

    def packages(self) -> set[str]:
        """Names of the packages whose code ran."""
        return {package_of(scope) for scope in self._ran.values()}

    def hands_over(self) -> bool:
        """Whether other threads, or arrays of others, could have got values in a pass."""
        ran = {c.co_name for c in self._ran} | {s.get("__name__") for s in self._ran.values()}
        ran |= {getattr(kind, "__module__", "") for kind, _ in self._answers.values()}
        return not ran.isdisjoint(("threading", "_thread", "_queue", "__dlpack__"))

    def others(self, covered: Set[CodeType], packages: Set[str]) -> list[str]:
        """Code that ran, and is neither a library's, nor covered, nor of some packages."""
        ran = [(c, s) for c, s in self._ran.items() if "__name__" in s and not owner_of(s)]
        foreign = [c for c, scope in ran if package_of(scope) not in packages]
        return [c.co_qualname for c in foreign if c not in covered]

    def _others(self) -> dict[str, object]:
        drawn = np.random.get_state(legacy=False)  # noqa: NPY002 (nothing is drawn here)
        by_torch = torch.default_generator.get_state().numpy().tobytes()  # in other threads
        return {"random": random.getstate(), "numpy.random": repr(drawn), "torch": by_torch}


_DISPATCH = Outside.__torch_dispatch__.__code__


def _question(function: Any) -> str:
    """What a call of C code asks of others; empty if it computes."""
    owner, name = getattr(function, "__self__", None), getattr(function, "__qualname__", "")
    if isinstance(owner, ModuleType):
        full = f"{owner.__name__}.{name}"
        asks = owner.__name__ in _SYSTEM and name not in _COMPUTES
    else:
        full, bare = name, name.rpartition(".")[2]
        of_calendar = isinstance(owner, type) and issubclass(owner, date) and bare in _NOW
        of_file = isinstance(owner, io.IOBase) and not isinstance(owner, io.BytesIO | io.StringIO)
        asks = of_calendar or isinstance(owner, _random.Random) or (of_file and "read" in bare)
    asks = asks or full == "sys._getframe"
    return full if asks or _INSIDE.fullmatch(full) or _CHANCE.fullmatch(name) else ""


@cache
def _listen() -> None:
    """Hear of what Python announces, from now on: such hooks stay."""
    sys.addaudithook(_hear)


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    by_number = event == "open" and isinstance(arguments[0], int)
    if _WATCHING and not by_number and not _SILENT.match(event):
        for watch in _WATCHING:
            watch.hears(event if event != "open" else os.fsdecode(arguments[0]), sys._getframe(1))
