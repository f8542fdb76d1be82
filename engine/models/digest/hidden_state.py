"""Everything a network keeps between passes, as far as Python shows it."""

import gc
import hashlib
import logging
import pickle
import random
import sys
import types
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Set
from contextvars import ContextVar
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from dualsmooth.engine.models.digest.module_state import DRAWN, HOOKS
from dualsmooth.engine.models.digest.python_names import (
    is_known,
    is_of_library,
    package_of,
    pickled,
)
from dualsmooth.engine.models.digest.script_digest import script_parts

_SCALARS = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device)
_PAUSED = {types.GeneratorType: ("gi", "yieldfrom"), types.CoroutineType: ("cr", "await")}
_PAUSED |= {types.AsyncGeneratorType: ("ag", "await")}
_OF_OTHERS = ("parent", "handlers", "manager", "_cache", "root", "woken")
"""What loggers tell others is theirs, and so is when tqdm's thread looked last."""
MOST = 200_000
"""Values looked at; what lies behind them is not seen."""


def kept_state(root: object, packages: Collection[str] = ()) -> tuple[Any, ...]:
    """Parameters, buffers, attributes, closures, globals and generators, as values to compare.

    Two results of one network differ if a pass between changed anything of it. With packages the
    globals of others' functions are left out: no code of theirs runs that could read them.
    """

    def parts(value: Any) -> list[Any]:
        others = packages and isinstance(value, types.FunctionType)
        idle = others and package_of(value.__globals__) not in packages
        return _held_by(value) if idle else _parts(value)

    return tuple(plain for plain, _ in _walk(root, parts))


def packages_of(network: nn.Module) -> set[str]:
    """Names of the packages that the classes of a network come from."""
    return {root_of(base) for part in network.modules() for base in type(part).__mro__}


def names_of_changes(root: nn.Module, act: Callable[[], object]) -> str:
    """Up to three attributes, or methods that read others, that an act changes, after a colon."""
    parts = [(name, vars(part)) for name, part in root.named_modules()]
    kinds = dict.fromkeys(kind for part in root.modules() for kind in type(part).__mro__)
    parts += [(kind.__name__, vars(kind)) for kind in kinds if not is_known(kind)]
    named = [(name, fields, key) for name, fields in parts for key in fields if "__" not in key]
    kept = [(f"{n}.{key}".strip("."), fields, key) for n, fields, key in named if key != "_modules"]
    before = [kept_state(fields.get(key)) for _, fields, key in kept]
    act()
    after = [kept_state(fields.get(key)) for _, fields, key in kept]
    names = [name for (name, *_), was, now in zip(kept, before, after, strict=True) if was != now]
    return f": {', '.join(names[:3])}" if names else ""


def held(root: object, ran: Collection[types.CodeType]) -> Iterator[object]:
    """Objects that a network holds where code that ran may find them, its globals aside."""
    named = {name for code in ran for name in (*code.co_names, *code.co_consts)}

    def parts(value: Any) -> list[Any]:
        if isinstance(value, types.FunctionType):
            return _held_by(value) if value.__code__ in ran else []
        if isinstance(value, type):
            return [part for base in value.__mro__ for n, part in vars(base).items() if n in named]
        found = _parts(value)
        if found and isinstance(getattr(value, "__dict__", None), dict) and type(found[0]) is dict:
            found[0] = [part for name, part in found[0].items() if name in named]
        return found

    return (value for _, value in _walk(root, parts) if value is not None)


def _walk(root: object, parts: Callable[[Any], list[Any]]) -> Iterator[tuple[Any, object]]:
    waiting, seen = deque([root]), dict[int, object]()  # held, so that no address comes twice
    while waiting and len(seen) < MOST:
        value = waiting.popleft()
        plain = _plain(value)
        if plain is not None:
            yield plain, None
            waiting.extend(_noted_on(value))
        elif id(value) not in seen and not isinstance(value, types.ModuleType):
            seen[id(value)] = value
            yield type(value).__qualname__, value
            waiting.extend(parts(value))


def _plain(value: object) -> Any:
    """A value that holds no others, as something that compares by content."""
    if isinstance(value, _SCALARS):
        return repr(value)
    if isinstance(value, torch.Tensor):
        kind = str(value.dtype), tuple(value.shape)
        try:
            bare = value.detach().cpu()
            dense = bare.int_repr() if bare.is_quantized else bare.to_dense()
            return *kind, _sum(dense.contiguous().reshape(-1).view(torch.uint8).numpy())
        except RuntimeError:  # a tensor without values, as captured programs keep
            return kind
    if isinstance(value, np.ndarray) and value.dtype != object:
        return str(value.dtype), value.shape, _sum(np.ascontiguousarray(value))
    if isinstance(value, torch.Generator):
        return _sum(value.get_state().numpy())
    if isinstance(value, np.random.Generator | np.random.RandomState | random.Random):
        return _sum(pickle.dumps(value))
    return None


def _noted_on(value: object) -> list[object]:
    """What is kept on a tensor or array beside its values."""
    if not isinstance(value, torch.Tensor | np.ndarray):
        return []
    gradient = value.grad if isinstance(value, torch.Tensor) and value.is_leaf else None
    return [gradient, getattr(value, "__dict__", None)]


def _sum(raw: Any) -> str:
    return hashlib.blake2b(raw, digest_size=16).hexdigest()


def _parts(value: Any) -> list[object]:
    """What a value holds; a class counts as part of its instances, and globals of functions."""
    if isinstance(value, Mapping):
        return [part for item in list(value.items()) for part in item]
    if isinstance(value, list | tuple | Set | deque):
        return [len(value), *value]
    if isinstance(value, types.FunctionType):
        read = [] if is_of_library(value) else [value.__code__, *_globals(value)]
        return [*_held_by(value), *read]
    if isinstance(value, types.CodeType):
        return [value.co_code, value.co_consts]
    if type(value) in _PAUSED:
        kind, inner = _PAUSED[type(value)]
        frame, behind = getattr(value, f"{kind}_frame"), getattr(value, f"{kind}_{inner}")
        return [] if frame is None else [frame.f_lasti, dict(frame.f_locals), behind]
    if isinstance(value, type):
        return [repr(value), type(value), *map(_own_of_class, value.__mro__)]
    if isinstance(value, torch.jit.ScriptModule):
        texts = (part.encode() if isinstance(part, str) else part for part in script_parts(value))
        hooks = [vars(part).get(name) for part in value.modules() for name in HOOKS]
        return [*map(_sum, texts), *hooks]
    if isinstance(value, logging.Logger) or root_of(type(value)) == "tqdm":
        return [type(value), {k: v for k, v in vars(value).items() if k not in _OF_OTHERS}]
    if isinstance(value, ContextVar):
        return [value.get(None)]
    if isinstance(value, types.MethodType | types.CellType) or hasattr(type(value), "cache_info"):
        return gc.get_referents(value)  # of a cache of functools it shows the values, too
    kinds = type(value).__mro__
    members = [item for kind in kinds for item in vars(kind).items()]
    slots = [name for name, member in members if type(member) is types.MemberDescriptorType]
    held = {name: getattr(value, name) for name in slots if hasattr(value, name)}
    attributes = getattr(value, "__dict__", None)
    if attributes is None and not held:  # counters, cycles, weights packed by PyTorch
        return _pickled(value)
    kept = dict(attributes or {})
    if isinstance(value, fx.GraphModule):  # its graph, and the symbols of its sizes
        kept = {name: part for name, part in kept.items() if name not in DRAWN}
    if isinstance(value, torch._ops.OpOverload):  # how PyTorch calls it, found out at a first call
        known = kept.pop("_dispatch_cache", {}).items()
        later = [name for name, member in members if type(member) is cached_property]
        kept |= {name: _found_out(value, name) for name in later}
        kept |= {str(key): way for key, way in known if root_of(way) != "torch"}
    return [kept, held, type(value), *_reduced(value)]


def _held_by(function: types.FunctionType) -> list[object]:
    defaults = [function.__defaults__, function.__kwdefaults__]
    return [*(function.__closure__ or ()), *defaults, vars(function)]


def _own_of_class(kind: type) -> dict[str, object]:
    """What a class holds, and of one of a library the functions that others put in its way.

    Others may add what no code of the library calls; who calls it names it (`_globals`). Which
    classes an abstract one was asked about is no part: the walk itself asks.
    """
    held = {name: value for name, value in vars(kind).items() if name != "_abc_impl"}
    if not is_known(kind):
        return held
    put = {k: v for k, v in held.items() if type(v) is types.FunctionType and not is_of_library(v)}
    called = set[str]()
    for base in kind.__mro__ if put else ():
        called.update(*(f.__code__.co_names for f in vars(base).values() if is_of_library(f)))
    return {k: v for k, v in put.items() if k in called or k.startswith("__")}


def _reduced(value: object) -> list[object]:
    """What an object of a class written in C keeps beside attributes, as it would be pickled."""
    kind = type(value)
    pairs = (kind.__reduce__, object.__reduce__), (kind.__getstate__, object.__getstate__)
    plainly = all(isinstance(own, types.FunctionType) or own is plain for own, plain in pairs)
    return [] if plainly else _pickled(value)


def _pickled(value: object) -> list[object]:
    try:
        return [pickled(value)]
    except Exception:  # a lock, a file, a session of a library, an iterator over functions
        return gc.get_referents(value)


def _found_out(operator: torch._ops.OpOverload, name: str) -> object:
    """What an operator finds out when it is first asked: now, so that it is no change later."""
    try:
        return getattr(operator, name)
    except Exception:  # operators on plain numbers have no handle
        return None


def _globals(function: types.FunctionType) -> list[object]:
    """Values of the names in its code: among its globals, in modules and classes named there."""
    codes, found = [function.__code__], list[object]()
    for code in codes:
        codes += [inner for inner in code.co_consts if isinstance(inner, types.CodeType)]
    texts = {c for code in codes for c in code.co_consts if isinstance(c, str)}  # as in getattr
    names = sorted(texts.union(*(code.co_names for code in codes)))
    imports = (sys.modules.get(name) for name in names)
    owners: list[Any] = [owner for owner in imports if isinstance(owner, types.ModuleType)]
    spaces = [function.__globals__, vars(nn.Module), *map(vars, owners)]
    for space in spaces:
        values = [space[name] for name in names if name in space]
        found += [value for value in values if not isinstance(value, types.ModuleType)]
        new = [value for value in values if isinstance(value, types.ModuleType | type)]
        new = [value for value in new if all(value is not owner for owner in owners)]
        owners += new
        spaces += map(vars, new)
    return found


def root_of(definition: object) -> str:
    """Package that a class or function says it is of."""
    return str(getattr(definition, "__module__", "")).partition(".")[0]
