"""Digest of a module in memory: everything that can decide what it computes.

It covers classes, their code and the code, closures, defaults and globals of every function they
reach; parameters, buffers, tensors and plain values wherever they are kept; submodules in order;
hooks, global ones too; and which of these are one object. Addresses, devices and the order of
attributes do not enter. Libraries count by name. Code is bytecode: digests hold for one version of
Python, and are equal in all its processes (but a module scripted anew may get another). After what
no digest covers, globals are not followed: they may lead through whole libraries.
"""

import enum
import functools
import hashlib
import logging
import types
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torch.nn.modules import module as torch_module

from dualsmooth.engine.models.digest import module_state as held
from dualsmooth.engine.models.digest import python_names as python
from dualsmooth.engine.models.digest.script_digest import script_parts

_ATOMS = (
    *(type(None), bool, int, float, complex, str, bytes, range, type(...), type(NotImplemented)),
    *(torch.dtype, torch.layout, torch.memory_format, np.dtype),
)


class ModuleDigest:
    """SHA-256 of a module (or another object), and the objects it was taken over."""

    def __init__(self, module: object, opaque: Iterable[str] = ()) -> None:
        self._hash = hashlib.sha256()
        self._seen: dict[int, tuple[int, object]] = {}
        self.opaque = [*opaque]
        self.codes = set[types.CodeType]()
        for name in ("_global_forward_pre_hooks", "_global_forward_hooks"):
            self._visit(tuple(getattr(torch_module, name).values()), name)
        self._visit(module, "module")

    @property
    def sha256(self) -> str:
        """Hexadecimal; says nothing about what is in `opaque`."""
        return self._hash.hexdigest()

    @property
    def tensors(self) -> list[torch.Tensor]:
        """Every tensor reached, each once."""
        return [value for _, value in self._seen.values() if isinstance(value, torch.Tensor)]

    def _put(self, *words: object) -> None:
        for word in words:
            data = word if isinstance(word, bytes) else str(word).encode("utf-8", "surrogatepass")
            self._hash.update(b"%d:" % len(data) + data)

    def _visit(self, value: Any, path: str) -> None:
        kind = type(value)
        if kind in _ATOMS or isinstance(value, np.dtype):
            self._put(kind.__name__, repr(value))
        elif kind is torch.device:
            self._put("device")
        elif kind is tuple or kind is torch.Size:
            self._sequence("tuple", value, path)
        elif kind is types.CodeType:
            self.codes.add(value)
            self._put("code", *python.words_of(value))
            self._visit(value.co_consts, path)
        elif kind is types.MethodType:
            self._sequence("method", (value.__func__, value.__self__), path)
        elif kind is functools.partial and not vars(value):  # a value: copies are not shared alike
            self._sequence("partial", (value.func, value.args, *value.keywords.items()), path)
        elif kind in (set, frozenset):
            parts, known = [ModuleDigest(part, self.opaque) for part in value], len(self.opaque)
            self._put("set", *sorted(part.sha256 for part in parts))  # in no order, so each alone
            self.opaque += [f"{path}, {name}" for part in parts for name in part.opaque[known:]]
            self.codes.update(*(part.codes for part in parts))
        elif isinstance(value, nn.Module) and (inner := held.unwrapped(value)) is not value:
            self._visit(inner, path)
        elif id(value) in self._seen:
            self._put("again", self._seen[id(value)][0])
        else:
            self._seen[id(value)] = len(self._seen), value
            self._mutable(value, path)

    def _mutable(self, value: Any, path: str) -> None:
        kind = type(value)
        if any(value is beyond for beyond in python.BEYOND):
            self._refuse(value, path)
        for known, reader in _READERS:
            if isinstance(value, known):
                return reader(self, value, path)
        if kind is list:
            self._sequence("list", value, path)
        elif kind is dict or kind is types.MappingProxyType:
            self._put("dict", len(value))
            for key, part in value.items():
                self._visit(key, path)
                self._visit(part, f"{path}[{key!r:.40}]")
        elif kind is np.ndarray and value.dtype != object:
            self._put("array", value.dtype.str, value.shape, np.ascontiguousarray(value).tobytes())
        elif isinstance(value, enum.Enum):
            self._put("member", value.name)
            self._visit(kind, path)
        elif kind.__module__ in ("torch._ops", "typing") or kind is types.GenericAlias:
            self._put(kind.__name__, value)
        elif kind.__module__ == "functools" and hasattr(value, "__wrapped__"):
            self._sequence("cached", (value.__wrapped__,), path)
        else:
            self._object(value, path)

    def _sequence(self, kind: str, values: Iterable[object], path: str) -> None:
        self._put(kind, len(parts := tuple(values)))
        for index, part in enumerate(parts):
            self._visit(part, f"{path}[{index}]" if kind in ("tuple", "list") else path)

    def _fields(self, fields: Mapping[Any, object], path: str) -> None:
        self._put("fields", len(fields))
        for key in sorted(fields, key=str):
            self._put(key)
            self._visit(fields[key], f"{path}.{key}")

    def _tensor(self, tensor: torch.Tensor, path: str) -> None:
        plain = tensor.detach()
        rows = plain.dim() == 4 and plain.is_contiguous(memory_format=torch.channels_last)
        self._put("tensor", tensor.dtype, tuple(tensor.shape), rows and not plain.is_contiguous())
        self._put(tensor.requires_grad and tensor.is_leaf)
        self._visit(type(tensor), path)
        self._fields(vars(tensor), path)
        try:
            values = plain.resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
            self._put(values.view(torch.uint8).numpy().tobytes())
        except (RuntimeError, NotImplementedError, TypeError, ValueError):  # no plain memory
            self._refuse(tensor, path)

    def _module(self, module: nn.Module, path: str) -> None:
        self._visit(type(module), path)
        self._hooks(vars(module), path)
        for table, name, part in held.members_of(module):
            self._put(table, name)
            self._visit(part, f"{path}.{name}")
        if isinstance(module, fx.GraphModule):
            self._put(module.code)
            self._graph(module.graph, path)
        self._fields(held.fields_of(module), path)

    def _graph(self, graph: fx.Graph, path: str) -> None:
        for node in graph.nodes:
            name = "output" if node.op == "output" else node.name  # copies call it so
            self._put(node.op, name, node.args, node.kwargs)
            self._visit(node.target, f"{path}.{node.name}")

    def _hooks(self, state: Mapping[str, Any], path: str) -> None:
        for name in held.HOOKS:
            takers = [state.get(name + end, {}) for end in ("_with_kwargs", "_always_called")]
            self._put(name, len(state.get(name, {})))
            for index, (key, hook) in enumerate(state.get(name, {}).items()):
                self._put(*(key in taker for taker in takers))
                self._visit(hook, f"{path}.{name}[{index}]")

    def _script(self, module: Any, path: str) -> None:
        self._put(*script_parts(module))
        for name, part in module.named_modules():
            self._hooks(vars(part), f"{path}.{name}")

    def _class(self, cls: type, path: str) -> None:
        self._put("class")
        for base in cls.__mro__[:-1]:
            self._put(python.base_name(base))
            for name, value in python.parts_of_class(base):
                self._put(name)
                self._visit(value, f"{path}<{base.__qualname__}>.{name}")
        if not python.is_known(type(cls)):
            self._visit(type(cls), path)

    def _function(self, function: types.FunctionType, path: str) -> None:
        code, scope = function.__code__, function.__globals__
        owner = python.owner_of(scope)
        self._put("function", python.stable_name(owner, code.co_qualname) if owner else "")
        self._visit(function.__defaults__, path)
        self._fields(function.__kwdefaults__ or {}, path)
        cells = None if owner in held.MAKERS else function.__closure__
        for name, cell in zip(code.co_freevars, cells or (), strict=False):
            try:
                self._visit(cell.cell_contents, f"{path} > {name}")
            except ValueError:
                self._put("empty")
        if owner:
            return
        self._fields({k: v for k, v in vars(function).items() if k != "__wrapped__"}, path)
        self._visit(code, path)
        for chain in () if self.opaque else python.globals_of(code):
            self._put(*chain)
            self._visit(*python.resolved(chain, scope, path))

    def _builtin(self, value: Any, path: str) -> None:
        self._put("builtin", value.__qualname__)
        owner = value.__self__
        if not isinstance(owner, types.ModuleType) and "py" not in type(owner).__name__.lower():
            self._visit(owner, path)  # not the capsule of a C extension

    def _python_module(self, module: types.ModuleType, path: str) -> None:
        self._put("python module", module.__name__)
        if not (self.opaque or python.owner_of(vars(module))):
            public = {k: v for k, v in vars(module).items() if not k.startswith("__")}
            self._fields(public, path)

    def _object(self, value: Any, path: str) -> None:
        self._put("object")
        self._visit(type(value), path)
        try:
            parts = python.pickled(value)
        except Exception:  # types refuse in many ways
            return self._refuse(value, path)
        if isinstance(parts, str):
            return self._put(parts)
        *made, state, items, pairs = (*parts, None, None, None)[:5]
        self._sequence("made", made, path)
        self._sequence("items", (*(items or ()), None, *(pairs or ())), path)
        for fields in state if isinstance(state, tuple) else (state,):
            if fields is None or isinstance(fields, dict):
                self._fields(fields or {}, path)
            else:
                self._visit(fields, path)
        if not isinstance(value, torch.optim.Optimizer):  # whose copies keep their state alone
            self._fields(getattr(value, "__dict__", {}), path)

    def _refuse(self, value: object, path: str) -> None:
        self.opaque.append(f"{path}, {type(value).__name__}")
        self._put("opaque", type(value).__qualname__)


_of = ModuleDigest
_READERS: tuple[tuple[Any, Callable[[ModuleDigest, Any, str], None]], ...] = (
    *((torch.Tensor, _of._tensor), (torch.jit.ScriptModule, _of._script), (nn.Module, _of._module)),
    *((type, _of._class), (types.FunctionType, _of._function), (fx.Graph, _of._graph)),
    *((types.ModuleType, _of._python_module), (types.BuiltinFunctionType, _of._builtin)),
    (logging.Logger, lambda d, v, _: d._put(type(v).__name__, v.name)),
    (python.DESCRIPTORS, lambda d, v, _: d._put(type(v).__name__, v.__name__)),
    (weakref.ref, lambda d, v, path: d._sequence("weak", (v(),), path)),
    (property, lambda d, v, path: d._sequence(type(v).__name__, (v.fget,), path)),
    ((staticmethod, classmethod), lambda d, v, p: d._sequence(type(v).__name__, (v.__func__,), p)),
)
"""By kind, the first that fits."""
