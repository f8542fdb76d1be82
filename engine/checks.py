"""Argument checks shared by the statistics. Every check is written so that NaN fails it."""

import math
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from itertools import pairwise
from numbers import Integral, Real

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dualsmooth.engine.errors import ArgumentError

LEAST_LEVEL = 1e-100
"""Smallest error level of a bound: SciPy's binomial tails lose their digits below."""


def open_unit(argument: str, value: object) -> float:
    """Return ``value`` as a float in (0, 1), for example an error level."""
    return _within(argument, value, "must be in (0, 1)", lambda x: 0.0 < x < 1.0)


def error_level(argument: str, value: object, parts: int = 1) -> float:
    """Return ``value`` as a float in (0, 1) each of whose equal parts SciPy has exact tails for."""
    level = open_unit(argument, value)
    if level / parts < LEAST_LEVEL:
        rule = f"must be at least {LEAST_LEVEL * parts:g}"
        hint = "no tail is exact below" + (f"; it is split in {parts}" if parts > 1 else "")
        raise ArgumentError(argument, rule, value, hint)
    return level


def closed_unit(argument: str, value: object) -> float:
    """Return ``value`` as a float in [0, 1]."""
    return _within(argument, value, "must be in [0, 1]", lambda x: 0.0 <= x <= 1.0)


def positive(argument: str, value: object) -> float:
    """Return ``value`` as a finite float > 0."""
    return _within(argument, value, "must be a finite number > 0", lambda x: 0.0 < x < math.inf)


def non_negative(argument: str, value: object) -> float:
    """Return ``value`` as a finite float >= 0."""
    return _within(argument, value, "must be a finite number >= 0", lambda x: 0.0 <= x < math.inf)


def positive_integer(argument: str, value: object, most: float = math.inf) -> int:
    """Return ``value`` as an int >= 1, at most ``most``; floats are refused, even whole ones."""
    if not isinstance(value, Integral) or isinstance(value, bool) or int(value) < 1:
        raise ArgumentError(argument, "must be an integer >= 1", value)
    if int(value) > most:
        raise ArgumentError(argument, f"must be at most {most:,}", value)
    return int(value)


def below(argument: str, value: object, stop: int) -> None:
    """Refuse what is no int in [0, stop)."""
    if type(value) is not int or not 0 <= value < stop:
        end = f"2^{stop.bit_length() - 1}" if stop > 1 << 16 else stop
        raise ArgumentError(argument, f"must be an integer in [0, {end})", value)


def one_of(argument: str, value: str, known: Sequence[str]) -> str:
    """Return ``value``, one of the known names."""
    if value not in known:
        rule = f"must be one of {', '.join(known)}"
        raise ArgumentError(argument, rule, value, did_you_mean(value, known))
    return value


_OTHER_NAMES = {"gpu": "cuda", "mnist": "idx", "imagenet": "folder", "imagefolder": "folder"}
_OTHER_NAMES |= {"float32": "fp32", "float": "fp32", "bfloat16": "bf16", "half": "bf16"}


def did_you_mean(value: str, known: Iterable[str]) -> str:
    """A hint at the known name that is nearest to one received; empty if none is near."""
    listed = list(known)
    asked = str(value).lower()
    other = _OTHER_NAMES.get(asked)
    nearest = [other] if other in listed else get_close_matches(asked, listed, n=1)
    return f"did you mean {nearest[0]}?" if nearest else ""


def ascending(argument: str, values: Sequence[float]) -> tuple[float, ...]:
    """Return noise levels as floats, finite, > 0 and ascending: in a digest 1 is not 1.0."""
    numbers = tuple(_number(argument, value) for value in values)
    if not all(low < high for low, high in pairwise((0.0, *numbers, math.inf))):
        raise ArgumentError(argument, "must be finite, > 0 and ascending", values)
    return numbers


def integers(argument: str, value: ArrayLike) -> NDArray[np.int64]:
    """Return ``value`` as an int64 array of any shape; floats are refused, even whole ones."""
    array = np.asarray(value)
    if array.dtype.kind not in "iu":
        raise ArgumentError(argument, "must hold integers", value)
    return array.astype(np.int64)


def _within(argument: str, value: object, rule: str, holds: Callable[[float], bool]) -> float:
    number = _number(argument, value)
    if not holds(number):
        raise ArgumentError(argument, rule, value)
    return number


def _number(argument: str, value: object) -> float:
    if not isinstance(value, Real) or isinstance(value, bool):
        raise ArgumentError(argument, "must be a real number", value)
    return float(value)


def check_votes(name: str, count: int) -> int:
    """Return a vote count; raise `ArgumentError` unless it is an integer in [1, 2^32)."""
    if type(_plain(count)) is not int or not 1 <= count < 1 << 32:
        raise ArgumentError(name, "must be an integer in [1, 2^32)", count)
    return int(count)


def keep_plain(record: object, *names: str) -> None:
    """Make NumPy's numbers in fields of a frozen dataclass Python's, which JSON has."""
    for name in names:
        value = getattr(record, name)
        if isinstance(value, tuple):
            object.__setattr__(record, name, tuple(map(_plain, value)))
        else:
            object.__setattr__(record, name, _plain(value))


def _plain(value: object) -> object:
    return value.item() if isinstance(value, np.generic) else value
