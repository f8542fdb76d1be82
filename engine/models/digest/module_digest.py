"""Digest of a module in memory: everything that can decide what it computes.

It covers classes, their code and the code, closures, defaults and globals of every function they
reach; parameters, buffers, tensors and plain values wherever they are kept; submodules in order;
hooks, global ones too; and which of these are one object. Addresses, devices, module paths and the
order of attributes do not enter. PyTorch, NumPy, SciPy and the standard library count by name, and
this package by class name wherever it is kept. Code is bytecode: digests hold for one version of
Python, and are equal in all its processes.
"""

import builtins
import dis
import enum
import hashlib
import io
import os
import pickletools
import re
import sys
import sysconfig
import types
import weakref
import zipfile
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from itertools import takewhile
from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torch.nn.modules import module as torch_module

from dualsmooth.engine.models.sources.exported import Exported

_LIBRARIES = {"torch", "numpy", "scipy", "builtins"}
_OWN = "dualsmooth"
_ATOMS = (type(None), bool, int, float, complex, str, bytes, range, type(...), type(NotImplemented),
          torch.dtype, torch.layout, torch.memory_format, np.dtype)  # fmt: skip
_BEYOND = (eval, exec, globals, __import__, open, os.environ)
"""Through these, code reaches what no walk over objects can see."""
HOOKS = ("_forward_pre_hooks", "_forward_hooks")
_BOOKKEEPING = {
    "_backward_hooks", "_backward_pre_hooks", "_is_full_backward_hook", "_state_dict_hooks",
    "_state_dict_pre_hooks", "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks",
    "_non_persistent_buffers_set", "_forward_hooks_with_kwargs", "_forward_hooks_always_called",
    "_forward_pre_hooks_with_kwargs", *HOOKS,
}  # fmt: skip
"""What a module keeps for training and files; hooks are read apart."""
DRAWN = {
    "_graph", "_code", "_lineno_map", "_prologue_start", "_graphmodule_cls_name", "meta", "_in_spec",
    "_out_spec", "_tracer_cls", "_tracer_extras", "_replace_hooks", "_create_node_hooks",
    "_erase_node_hooks", "_deepcopy_hooks", "shape_env", "range_constraints", "train", "eval",
    "validate_inputs",
}  # fmt: skip
"""What a `fx.GraphModule` keeps of its graph, which is read node by node."""
_CLASS_NOTES = {
    "__dict__", "__weakref__", "__module__", "__qualname__", "__doc__", "__annotations__",
    "__firstlineno__", "__static_attributes__", "__dataclass_fields__", "__dataclass_params__",
    "__orig_bases__", "__parameters__", "__abstractmethods__", "_abc_impl", "__annotate_func__",
    "__annotations_cache__", "__getstate__", "__setstate__", "__slotnames__",
}  # fmt: skip
_DESCRIPTORS = (types.MemberDescriptorType, types.GetSetDescriptorType, types.WrapperDescriptorType,
                types.MethodDescriptorType, types.ClassMethodDescriptorType)  # fmt: skip
_HEAP_TYPE = 1 << 9
_STANDARD = sysconfig.get_paths()["stdlib"]
_COUNTER = "num_batches_tracked"


class ModuleDigest:
    """SHA-256 of a module's structure, and the objects it was taken over.

    Parameters
    ----------
    module : torch.nn.Module
    """

    def __init__(self, module: nn.Module) -> None:
        self._hash = hashlib.sha256()
        self._seen: dict[int, tuple[int, object]] = {}
        self.opaque: list[str] = []
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
            self._code(value, path)
        elif kind is types.MethodType:
            self._sequence("method", (value.__func__, value.__self__), path)
        elif kind in (set, frozenset):
            self._put("set", *sorted(_alone(part, self.opaque, path) for part in value))
        elif id(value) in self._seen:
            self._put("again", self._seen[id(value)][0])
        else:
            self._seen[id(value)] = len(self._seen), value
            self._mutable(value, path)

    def _mutable(self, value: Any, path: str) -> None:
        readers: tuple[tuple[Any, Callable[[Any, str], None]], ...] = (
            (torch.Tensor, self._tensor), (torch.jit.ScriptModule, self._script),
            (nn.Module, self._module), (type, self._class), (types.FunctionType, self._function),
            (types.ModuleType, self._python_module), (types.BuiltinFunctionType, self._builtin),
        )  # fmt: skip
        if any(value is beyond for beyond in _BEYOND):
            self._refuse(value, path)
        for kind, reader in readers:
            if isinstance(value, kind):
                return reader(value, path)
        kind = type(value)
        if kind is list:
            self._sequence("list", value, path)
        elif kind is dict or kind is types.MappingProxyType:
            self._put("dict", len(value))
            for key, part in value.items():
                self._visit(key, path)
                self._visit(part, f"{path}[{key!r:.40}]")
        elif isinstance(value, weakref.ref):
            self._sequence("weak", (value(),), path)
        elif isinstance(value, (staticmethod, classmethod)):
            self._sequence(kind.__name__, (value.__func__,), path)
        elif isinstance(value, property):
            self._sequence("property", (value.fget,), path)
        elif isinstance(value, np.ndarray) and kind is np.ndarray and value.dtype != object:
            self._put("array", value.dtype.str, value.shape, np.ascontiguousarray(value).tobytes())
        elif isinstance(value, _DESCRIPTORS):
            self._put(kind.__name__, value.__name__)
        elif isinstance(value, enum.Enum):
            self._put("member", value.name)
            self._visit(kind, path)
        elif kind.__module__ in ("torch._ops", "typing") or kind is types.GenericAlias:
            self._put(kind.__name__, value)
        elif hasattr(value, "__wrapped__") and kind.__module__ == "functools":
            self._sequence("cached", (value.__wrapped__,), path)
        else:
            self._object(value, path)

    def _sequence(self, kind: str, values: Iterable[object], path: str) -> None:
        parts = tuple(values)
        self._put(kind, len(parts))
        for index, part in enumerate(parts):
            self._visit(part, f"{path}[{index}]" if kind in ("tuple", "list") else path)

    def _fields(self, fields: Mapping[Any, object], path: str) -> None:
        self._put("fields", len(fields))
        for key in sorted(fields, key=str):
            self._put(key)
            self._visit(fields[key], f"{path}.{key}")

    def _tensor(self, tensor: torch.Tensor, path: str) -> None:
        plain = tensor.detach()
        learns = tensor.requires_grad and tensor.is_leaf
        rows = plain.dim() == 4 and plain.is_contiguous(memory_format=torch.channels_last)
        self._put("tensor", tensor.dtype, tuple(tensor.shape), learns,
                  rows and not plain.is_contiguous())  # fmt: skip
        self._visit(type(tensor), path)
        self._fields(vars(tensor), path)
        try:
            values = plain.resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
            self._put(memoryview(values.view(torch.uint8).numpy()).tobytes())
        except (RuntimeError, NotImplementedError, TypeError, ValueError):  # no plain memory
            self._refuse(tensor, path)

    def _module(self, module: nn.Module, path: str) -> None:
        if type(module).__name__ == "OptimizedModule":  # of torch.compile
            return self._visit(module._orig_mod, path)
        self._visit(type(module), path)
        state = {name: part for name, part in vars(module).items() if name not in _BOOKKEEPING}
        self._hooks(vars(module), path)
        norm = isinstance(module, nn.modules.batchnorm._BatchNorm) and _is_known(type(module))
        for name in ("_parameters", "_buffers", "_modules"):
            parts = state.pop(name, {})
            self._put(name)
            for key, part in parts.items():
                if not (norm and key == _COUNTER) and key != "_guards_fn":
                    self._put(key)
                    self._visit(part, f"{path}.{key}")
        if type(module) is Exported:
            state.pop("_run")  # is known by the digest of its file
        if isinstance(module, fx.GraphModule):
            state = {name: part for name, part in state.items() if name not in DRAWN}
            self._put(module.code)
            for node in module.graph.nodes:
                self._put(node.op, node.name, node.args, node.kwargs)
                self._visit(node.target, f"{path}.{node.name}")
        self._fields(state, path)

    def _hooks(self, state: Mapping[str, Any], path: str) -> None:
        for name in HOOKS:
            takers = [state.get(name + end, {}) for end in ("_with_kwargs", "_always_called")]
            self._put(name, len(state.get(name, {})))
            for index, (key, hook) in enumerate(state.get(name, {}).items()):
                self._put(*(key in taker for taker in takers))
                self._visit(hook, f"{path}.{name}[{index}]")

    def _script(self, module: Any, path: str) -> None:
        file = io.BytesIO()
        torch.jit.save(module, file)
        with zipfile.ZipFile(file) as parts:
            for name in sorted(parts.namelist(), key=_unmangled):
                if not re.search(r"\.debug_pkl$|/\.data/|/traced_inputs", name):
                    data = parts.read(name)
                    self._put(_unmangled(name))
                    self._put(_unmangled(_pickled(data) if name.endswith(".pkl") else data))
        for name, part in module.named_modules():
            self._hooks(vars(part), f"{path}.{name}")

    def _class(self, cls: type, path: str) -> None:
        self._put("class")
        for base in cls.__mro__[:-1]:
            known = _is_known(base)
            self._put(
                stable_name(base.__module__, base.__qualname__) if known else base.__qualname__
            )
            for name, value in sorted(vars(base).items()):
                inner = getattr(value, "__func__", getattr(value, "fget", value))
                foreign = isinstance(inner, types.FunctionType) and not _owner(inner.__globals__)
                data = isinstance(value, (int, float, torch.Tensor)) and not name.startswith("__")
                if name not in _CLASS_NOTES and (foreign or data or not known):
                    self._put(name)
                    self._visit(value, f"{path}<{base.__qualname__}>.{name}")
        if not _is_known(type(cls)):
            self._visit(type(cls), path)

    def _function(self, function: types.FunctionType, path: str) -> None:
        code, scope = function.__code__, function.__globals__
        owner = _owner(scope)
        self._put("function", stable_name(owner, code.co_qualname) if owner else "")
        self._visit(function.__defaults__, path)
        self._fields(function.__kwdefaults__ or {}, path)
        # Its properties hold the module that was parametrized first; copies read `self`.
        cells = None if owner == "torch.nn.utils.parametrize" else function.__closure__
        for name, cell in zip(code.co_freevars, cells or (), strict=False):
            try:
                self._visit(cell.cell_contents, f"{path} > {name}")
            except ValueError:
                self._put("empty")
        if owner:
            return
        self._fields({k: v for k, v in vars(function).items() if k != "__wrapped__"}, path)
        self._visit(code, path)
        for chain in _globals_of(code):
            self._put(*chain)
            self._visit(*_resolved(chain, scope, path))

    def _code(self, code: types.CodeType, path: str) -> None:
        self._put("code", code.co_code, code.co_exceptiontable, code.co_flags, code.co_names,
                  code.co_varnames, code.co_freevars, code.co_cellvars, code.co_argcount,
                  code.co_kwonlyargcount, code.co_posonlyargcount)  # fmt: skip
        self._visit(code.co_consts, path)

    def _builtin(self, value: Any, path: str) -> None:
        self._put("builtin", value.__qualname__)
        owner = value.__self__
        if not isinstance(owner, types.ModuleType) and "py" not in type(owner).__name__.lower():
            self._visit(owner, path)  # not the capsule of a C extension

    def _python_module(self, module: types.ModuleType, path: str) -> None:
        self._put("python module", module.__name__)
        if not _owner(vars(module)):
            public = {k: v for k, v in vars(module).items() if not k.startswith("__")}
            self._fields(public, path)

    def _object(self, value: Any, path: str) -> None:
        self._put("object")
        self._visit(type(value), path)
        try:
            parts = value.__reduce_ex__(4)
        except Exception:  # types refuse in many ways
            return self._refuse(value, path)
        if isinstance(parts, str):
            return self._put(parts)
        make, arguments, state, items, pairs = (*parts, None, None, None)[:5]
        self._visit(make, path)
        self._visit(arguments, path)
        self._sequence("items", items or (), path)
        self._sequence("pairs", pairs or (), path)
        for fields in state if isinstance(state, tuple) else (state,):
            if fields is None or isinstance(fields, dict):
                self._fields(fields or {}, path)
            else:
                self._visit(fields, path)
        self._fields(getattr(value, "__dict__", {}), path)

    def _refuse(self, value: object, path: str) -> None:
        self.opaque.append(f"{path}, {type(value).__name__}")
        self._put("opaque", type(value).__qualname__)


def _alone(value: object, opaque: list[str], path: str) -> str:
    """Digest of a member of a set: sets have no order, so members are read one by one."""
    walk = ModuleDigest.__new__(ModuleDigest)
    walk._hash, walk._seen, walk.opaque = hashlib.sha256(), {}, opaque
    walk._visit(value, path)
    return walk.sha256


def _pickled(data: bytes) -> str:
    """A pickle's instructions; memory places by where they were set, not by number."""
    places: dict[object, int] = {}
    words: list[str] = []
    for code, argument, _ in pickletools.genops(data):
        if "PUT" in code.name:
            places[argument] = len(words)
        else:
            words.append(f"{code.name} {places[argument] if 'GET' in code.name else argument!r}")
    return "\n".join(words)


def _unmangled(text: Any) -> Any:
    """Without the numbers PyTorch gives to classes of one name in a process."""
    mark = r"\.?___torch_mangle_\d+"
    return re.sub(mark, "", text) if isinstance(text, str) else re.sub(mark.encode(), b"", text)


def stable_name(module: str, name: str) -> str:
    """Name of a class or function; of this package's wherever their file is."""
    return f"{_OWN}:{name}" if module.partition(".")[0] == _OWN else f"{module}.{name}"


def _owner(scope: Mapping[str, Any]) -> str:
    """Name of the Python module if it belongs to a library or this package, else nothing."""
    name = str(scope.get("__name__"))
    root = name.partition(".")[0]
    if root == _OWN or root in _LIBRARIES:
        return name
    file = scope.get("__file__")
    standard = root in sys.stdlib_module_names and (file is None or str(file).startswith(_STANDARD))
    return name if standard and name != "__main__" else ""


def _is_known(cls: type) -> bool:
    """Whether a class is the one of a library, or of this package, that its name says."""
    if not cls.__flags__ & _HEAP_TYPE:  # of C, and cannot be changed
        return True
    found: Any = sys.modules.get(cls.__module__)
    if found is None or not _owner(vars(found)):
        return False
    for part in cls.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is cls


@lru_cache(4096)
def _globals_of(code: types.CodeType) -> tuple[tuple[str, ...], ...]:
    """Global names that code reads, each with the attributes it takes of them at once."""
    steps = list(dis.get_instructions(code))
    chains = set()
    for index, step in enumerate(steps):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME", "IMPORT_NAME"):
            after = takewhile(
                lambda s: s.opname in ("LOAD_ATTR", "LOAD_METHOD"), steps[index + 1 :]
            )
            kind = "import" if step.opname == "IMPORT_NAME" else ""
            chains.add((kind, str(step.argval), *(str(found.argval) for found in after)))
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            chains.update(_globals_of(inner))
    return tuple(sorted(chains))


def _resolved(chain: tuple[str, ...], scope: Mapping[str, Any], path: str) -> tuple[object, str]:
    """What a global name stands for: the object in the last Python module of its attributes."""
    kind, name, *attributes = chain
    if kind:
        package = f"{scope.get('__package__')}.{name}"
        found: Any = sys.modules.get(name, sys.modules.get(package))
    else:
        found = scope.get(name, vars(builtins).get(name, NotImplemented))
    for attribute in attributes:
        if not isinstance(found, types.ModuleType):
            break
        found, name = getattr(found, attribute, None), f"{name}.{attribute}"
    return found, f"{path} > {name}"
