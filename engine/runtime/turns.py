"""One caller at a time on a sampler: its slots hold images of one, and votes go to no other."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from threading import Lock, get_ident
from typing import TypeVar
from weakref import WeakKeyDictionary

from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.samplers.sampler import Sampler


class _Turn:
    """A lock that knows its thread; any thread may let go of it, as it closes an iterator."""

    def __init__(self) -> None:
        self._lock, self._thread = Lock(), 0

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Other threads wait; the same one would wait for itself and is refused."""
        if self._thread == get_ident():
            rule, hint = "must wait for the end of those before", "use up or close their iterator"
            raise ArgumentError("images", rule, "a second iterator beside one", hint)
        with self._lock:
            self._thread = get_ident()
            try:
                yield
            finally:
                self._thread = 0


_Done = TypeVar("_Done")
_TURNS: WeakKeyDictionary[Sampler, _Turn] = WeakKeyDictionary()
_LOCK = Lock()


def in_turn(sampler: Sampler, found: Iterator[_Done], count: int) -> Iterator[_Done]:
    """So many items, the sampler alone from the first of them until the last is there."""
    with _LOCK:
        turn = _TURNS.setdefault(sampler, _Turn())
    with turn.taken():
        yield from islice(found, max(count - 1, 0))
        last = list(found)
    yield from last
