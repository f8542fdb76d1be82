"""Everything a network keeps between passes, as far as Python shows it."""

import gc
import hashlib
import pickle
import random
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Set
from contextvars import ContextVar
from functools import cached_property
from types import (
    CellType,
    CodeType,
    FunctionType,
    GeneratorType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
)
from typing import Any

import numpy as np
import torch

_SCALARS = (bool, int, float, complex, str, bytes, type(None), type, torch.dtype, torch.device)
_LIBRARIES = {"dualsmooth", "torch", "numpy", *sys.stdlib_module_names}
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
        kind = str(value.dtype), tuple(value.shape)
        try:
            raw = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            return *kind, _sum(raw.numpy())
        except RuntimeError:  # a tensor without values, as captured programs keep
            return kind
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
        read = [] if _is_library(value) else _globals(value)
        return [*(value.__closure__ or ()), value.__defaults__, vars(value), *read]
    if isinstance(value, GeneratorType):
        frame = value.gi_frame
        return [] if frame is None else [frame.f_lasti, dict(frame.f_locals)]
    if isinstance(value, ContextVar):
        return [value.get(None)]
    if hasattr(type(value), "cache_info"):  # of functools, which shows no values otherwise
        return gc.get_referents(value)
    kinds = type(value).__mro__
    members = [item for kind in kinds for item in vars(kind).items()]
    slots = [name for name, member in members if type(member) is MemberDescriptorType]
    held = {name: getattr(value, name) for name in slots if hasattr(value, name)}
    attributes = getattr(value, "__dict__", None)
    if attributes is None and not held:
        try:
            return [pickle.dumps(value)]  # counters and cycles of itertools, for example
        except Exception:  # a lock, a session of a library, an iterator over functions
            return gc.get_referents(value)
    own = [kind for kind in kinds if not _is_library(kind)]
    kept = dict(attributes or {})
    if isinstance(value, torch._ops.OpOverload):  # how PyTorch calls it, found out at a first call
        known = kept.pop("_dispatch_cache", {}).items()
        later = [name for name, member in members if type(member) is cached_property]
        kept |= {name: _found_out(value, name) for name in later}
        kept |= {str(key): way for key, way in known if not _is_of_torch(way)}
    return [kept, held, *(dict(vars(kind)) for kind in own)]


def _found_out(operator: torch._ops.OpOverload, name: str) -> object:
    """What an operator finds out when it is first asked: now, so that it is no change later."""
    try:
        return getattr(operator, name)
    except Exception:  # operators on plain numbers have no handle
        return None


def _globals(function: FunctionType) -> list[object]:
    """Values of the names in its code, among its globals and in the modules named there."""
    codes, spaces, found = [function.__code__], [function.__globals__], list[object]()
    for code in codes:
        codes += [inner for inner in code.co_consts if isinstance(inner, CodeType)]
    texts = {c for code in codes for c in code.co_consts if isinstance(c, str)}  # as in getattr
    names = sorted(texts.union(*(code.co_names for code in codes)))
    for space in spaces:
        values = [space[name] for name in names if name in space]
        found += [value for value in values if not isinstance(value, ModuleType)]
        inner_spaces = [vars(value) for value in values if isinstance(value, ModuleType)]
        spaces += [new for new in inner_spaces if all(new is not known for known in spaces)]
    return found


def _is_of_torch(value: object) -> bool:
    return str(getattr(value, "__module__", "")).split(".")[0] == "torch"


def _is_library(definition: type | FunctionType) -> bool:
    return str(definition.__module__).split(".")[0] in _LIBRARIES
