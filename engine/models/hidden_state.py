"""Everything a network keeps between passes, as far as Python shows it."""

import hashlib
import pickle
import random
from collections import deque
from collections.abc import Iterator, Mapping, Set
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch

_SCALARS = (bool, int, float, complex, str, bytes, type(None), type, torch.dtype, torch.device)
_LIBRARIES = ("dualsmooth", "torch", "numpy", "builtins", "typing", "collections", "abc")
MOST = 200_000
"""Values looked at; what lies behind them is not seen."""


def kept_state(root: object) -> tuple[Any, ...]:
    """Parameters, buffers, attributes, closures, globals and generators, as values to compare.

    Two results of one network differ if a pass between changed anything of it.
    """
    return tuple(_walk(root))


def _walk(root: object) -> Iterator[Any]:
    waiting, seen = deque([root]), dict[int, object]()  # held, so that no address comes twice
    while waiting and len(seen) < MOST:
        value = waiting.popleft()
        plain = _plain(value)
        if plain is not None:
            yield plain
        elif id(value) not in seen and not isinstance(value, ModuleType):
            seen[id(value)] = value
            yield type(value).__qualname__
            waiting.extend(_parts(value))


def _plain(value: object) -> Any:
    """A value that holds no others, as something that compares by content."""
    if isinstance(value, _SCALARS):
        return repr(value)
    if isinstance(value, torch.Tensor) and not value.is_sparse:
        raw = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        return str(value.dtype), tuple(value.shape), _sum(raw.numpy())
    if isinstance(value, np.ndarray) and value.dtype != object:
        return str(value.dtype), value.shape, _sum(np.ascontiguousarray(value))
    if isinstance(value, torch.Generator):
        return _sum(value.get_state().numpy())
    if isinstance(value, np.random.Generator | np.random.RandomState | random.Random):
        return _sum(pickle.dumps(value))
    return None


def _sum(raw: Any) -> str:
    return hashlib.blake2b(raw, digest_size=16).hexdigest()


def _parts(value: Any) -> list[object]:
    """What a value holds; a class counts as part of its instances, and globals of functions."""
    if isinstance(value, Mapping):
        return [part for item in list(value.items()) for part in item]
    if isinstance(value, list | tuple | Set | deque):
        return [len(value), *value]
    if isinstance(value, MethodType):
        return [value.__self__, value.__func__]
    if isinstance(value, CellType):
        return [] if value == CellType() else [value.cell_contents]
    if isinstance(value, FunctionType):
        names = [] if _is_library(value) else value.__code__.co_names
        read = [value.__globals__[name] for name in names if name in value.__globals__]
        return [*(value.__closure__ or ()), value.__defaults__, vars(value), *read]
    attributes = getattr(value, "__dict__", None)
    if attributes is None:
        try:
            return [pickle.dumps(value)]  # counters and cycles of itertools, for example
        except Exception:  # a lock, a session of a library
            return []
    own = [kind for kind in type(value).__mro__ if not _is_library(kind)]
    return [dict(attributes), *(dict(vars(kind)) for kind in own)]


def _is_library(definition: type | FunctionType) -> bool:
    return str(definition.__module__).split(".")[0] in _LIBRARIES
