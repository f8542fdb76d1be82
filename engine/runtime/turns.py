"""One call at a time on a sampler: its slots hold images of one, and votes go to no other.

Calls may be read side by side, from one thread or many. Who comes to a sampler while another call
is half read finishes that one first and keeps its answers for whoever reads them: so nobody waits
for a reader who may never go on.
"""

from collections import deque
from collections.abc import Iterator
from threading import Lock, get_ident
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.samplers.sampler import Sampler

_Done = TypeVar("_Done")


class _Call(Generic[_Done]):
    """Answers of one call: those that are there, and where the others come from."""

    def __init__(self, found: Iterator[_Done], count: int) -> None:
        self.found, self.left = found, count
        self.ready, self.error = deque[_Done](), BaseException()

    def work(self) -> None:
        """Get one more answer; after the last, or an error, none is left."""
        try:
            self.ready.append(next(self.found))
            self.left -= 1
            if not self.left:
                deque(self.found, maxlen=0)  # votes under way may still read the slots
        except BaseException as error:
            self.left, self.error = 0, error
            if not isinstance(error, Exception):
                raise


class _Turn:
    """The call that a sampler works for."""

    def __init__(self) -> None:
        self._lock, self._thread = Lock(), 0
        self._open: _Call[Any] | None = None

    def work(self, call: _Call[Any]) -> None:
        """Have one more answer ready for a call, others' calls finished before."""
        if self._thread == get_ident():
            rule, hint = "must not be certified while others are", "certify them before or after"
            raise ArgumentError("images", rule, "a call from within another one's", hint)
        with self._lock:
            self._thread = get_ident()
            try:
                while self._open is not call and self._open is not None and self._open.left > 0:
                    self._open.work()
                if call.left > 0:
                    self._open = call
                    call.work()
            finally:
                self._thread = 0


_TURNS: WeakKeyDictionary[Sampler, _Turn] = WeakKeyDictionary()
_LOCK = Lock()


def in_turn(sampler: Sampler, found: Iterator[_Done], count: int) -> Iterator[_Done]:
    """So many items of a call, which has the sampler alone while it works for one."""
    with _LOCK:
        turn = _TURNS.setdefault(sampler, _Turn())
    call = _Call(found, count)
    try:
        for _ in range(count):
            if not call.ready:
                turn.work(call)
            if not call.ready:
                raise call.error
            yield call.ready.popleft()
    finally:
        call.left, call.found = 0, iter(())  # nobody reads on, so nobody works on
