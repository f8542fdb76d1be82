"""Classes, functions and globals as digests name them.

Libraries count by name and this package by class name, wherever its files are; other code counts by
what it does. A name is believed only where the object is found under it.
"""

import builtins
import copyreg
import dis
import os
import sys
import sysconfig
import types
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import torch

from dualsmooth.engine.machine import installed_version

OWN, VERSIONED = "dualsmooth", {"transformers", "einops"}
"""This package; and libraries whose version counts here, because runs do not compare it."""
LIBRARIES = {OWN, "torch", "numpy", "scipy", "builtins", "typing_extensions", *VERSIONED}
DESCRIPTORS = (
    *(types.MemberDescriptorType, types.GetSetDescriptorType, types.WrapperDescriptorType),
    *(types.MethodDescriptorType, types.ClassMethodDescriptorType),
)
"""Of classes written in C: a name says it all."""
BEYOND = (eval, exec, globals, __import__, open, os.environ, sys.modules)
"""Through these, code reaches what no walk over objects can see."""
HEAP_TYPE = 1 << 9
_CLASS_NOTES = set(
    """__dict__ __weakref__ __module__ __qualname__ __doc__ __annotations__ __firstlineno__
    __static_attributes__ __dataclass_fields__ __dataclass_params__ __orig_bases__ __parameters__
    __abstractmethods__ _abc_impl __annotate_func__ __annotations_cache__ __getstate__ __setstate__
    __slotnames__""".split()
)
_READS = {"LOAD_GLOBAL": "", "LOAD_NAME": "", "IMPORT_NAME": "import"}
_ATTRIBUTES = ("LOAD_ATTR", "LOAD_METHOD")
STANDARD = sysconfig.get_paths()["stdlib"]


def stable_name(module: str, name: str) -> str:
    """Name of a class or function; of this package's wherever their file is."""
    root = module.partition(".")[0]
    release = f" {installed_version(root)}" if root in VERSIONED else ""
    return f"{OWN}:{name}" if root == OWN else f"{module}.{name}{release}"


def package_of(scope: Mapping[str, Any]) -> str:
    """Package that globals are of, by the name that they give."""
    return str(scope.get("__name__")).partition(".")[0]


def owner_of(scope: Mapping[str, Any]) -> str:
    """Name of the Python module if it belongs to a library or this package, else nothing."""
    root, file = package_of(scope), scope.get("__file__")
    standard = root in sys.stdlib_module_names and (file is None or str(file).startswith(STANDARD))
    return str(scope["__name__"]) if standard or root in LIBRARIES else ""


def is_of_library(function: object) -> bool:
    """Whether it is a function in Python, and of a library or this package."""
    return isinstance(function, types.FunctionType) and bool(owner_of(function.__globals__))


def pickled(value: object) -> Any:
    """What an object is made of again; of a kind that others pickle (`re.Pattern`), by their way.

    An exception of any kind if nothing is.
    """
    reduce = copyreg.dispatch_table.get(type(value))
    return value.__reduce_ex__(4) if reduce is None else reduce(value)


def is_known(cls: type) -> bool:
    """Whether a class is the one of a library, or of this package, that its name says."""
    if not cls.__flags__ & HEAP_TYPE:  # of C, and cannot be changed
        return True
    found: Any = sys.modules.get(cls.__module__)
    if found is None or not owner_of(vars(found)):
        return False
    for part in cls.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is cls


def is_unpatched(cls: type) -> bool:
    """Whether a class is a known one, and so are all functions of it."""
    bases = cls.__mro__
    return all(map(is_known, bases)) and not any(
        _foreign(f) for b in bases for f in vars(b).values()
    )


def base_name(cls: type) -> str:
    """Stable name of a known class, else the name alone: its parts say the rest."""
    return stable_name(cls.__module__, cls.__qualname__) if is_known(cls) else cls.__qualname__


def parts_of_class(cls: type) -> Iterator[tuple[str, object]]:
    """What a class is more than its name: everything, or what somebody put into a known one."""
    known = is_known(cls)
    for name, value in sorted(vars(cls).items()):
        inner = getattr(value, "__func__", getattr(value, "fget", value))
        data = isinstance(value, (int, float, torch.Tensor)) and not name.startswith("__")
        if name not in _CLASS_NOTES and (not known or data or name == "forward" or _foreign(inner)):
            yield name, value
        if known and name == "forward" and isinstance(inner, types.FunctionType):
            for chain in globals_of(inner.__code__):
                found, place = resolved(chain, inner.__globals__, name)
                if _foreign(found):
                    yield place, found


def _foreign(value: object) -> bool:
    return isinstance(value, types.FunctionType) and not is_of_library(value)


def words_of(code: types.CodeType) -> tuple[object, ...]:
    """What code does, but for its constants; neither its name nor its place in a file."""
    names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
    counts = (code.co_argcount, code.co_kwonlyargcount, code.co_posonlyargcount)
    return (code.co_code, code.co_exceptiontable, code.co_flags, *names, *counts)


@lru_cache(4096)
def globals_of(code: types.CodeType) -> tuple[tuple[str, ...], ...]:
    """Global names that code reads, each with the attributes it takes of them at once."""
    inner = (globals_of(part) for part in code.co_consts if isinstance(part, types.CodeType))
    return tuple(sorted({chain for chain, _ in _chains(code)}.union(*inner)))


def values_of(code: types.CodeType, scope: Mapping[str, Any]) -> Iterator[tuple[object, bool]]:
    """What global names in code stand for, and whether the code calls it at once."""
    found = ((chain, called) for chain, called in _chains(code) if not chain[0])
    return ((resolved(chain, scope, "")[0], called) for chain, called in found)


def _chains(code: types.CodeType) -> Iterator[tuple[tuple[str, ...], bool]]:
    """Kind, name and attributes of what code reads, and whether it calls that at once."""
    chain, called = tuple[str, ...](), False
    for step in dis.get_instructions(code):
        if chain and step.opname not in _ATTRIBUTES:
            yield chain, called or step.opname == "PUSH_NULL"  # since Python 3.13
            chain, called = (), False
        if step.opname in _READS:
            chain = (_READS[step.opname],)
        if chain:
            chain = (*chain, str(step.argval))
            called = called or step.opname == "LOAD_METHOD" or "NULL" in step.argrepr


def resolved(chain: tuple[str, ...], scope: Mapping[str, Any], path: str) -> tuple[object, str]:
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
    if isinstance(found, types.FunctionType) and found.__globals__["__name__"] == "torch._compile":
        found = getattr(found, "__wrapped__", found)  # PyTorch's compiler patches it when imported
    return found, f"{path} > {name}"
