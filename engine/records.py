"""Frozen dataclasses from JSON objects of unknown origin: every field, every type, nothing else."""

import dataclasses
import hashlib
import json
import sys
import types
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

Record = TypeVar("Record")

LARGEST = 1 << 64
"""No whole number of a record reaches it."""


def typed_record(kind: type[Record], value: object) -> Record:
    """Build a dataclass from a JSON object as `json.loads` returns it; ValueError for any other.

    Its fields are int, float, str, None, tuples, dictionaries with text keys, such dataclasses, or
    Any. Those with a default may be left out; none may be unknown, of another type, or against the
    dataclass's own rule.
    """
    what = kind.__name__.lstrip("_")
    if not isinstance(value, dict):
        raise ValueError(f"{what} must be an object")
    hints, required = _fields(kind)  # type: ignore[arg-type]
    if not required <= value.keys() <= hints.keys():
        names = ", ".join(sorted(map(str, value.keys() ^ hints.keys())))
        raise ValueError(f"{what} must have its fields and no others: {names}")
    return kind(**{name: _typed(name, hints[name], item) for name, item in value.items()})


@cache
def _fields(kind: Any) -> tuple[dict[str, Any], frozenset[str]]:
    hints = get_type_hints(kind)
    known = {field.name: hints[field.name] for field in dataclasses.fields(kind)}
    return known, frozenset(
        field.name
        for field in dataclasses.fields(kind)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    )


def _typed(name: str, hint: Any, value: object) -> object:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        inner = [kind for kind in get_args(hint) if kind is not type(None)]
        return None if value is None else _typed(name, inner[0], value)
    if origin is tuple:
        return _tuple(name, get_args(hint), value)
    if origin is dict and isinstance(value, dict):
        return {key: _typed(name, get_args(hint)[1], item) for key, item in value.items()}
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint):
        return typed_record(hint, value)  # type: ignore[arg-type]
    kinds = (int, float) if hint is float else (hint,)
    if type(value) not in kinds:
        raise ValueError(f"{name} must be {getattr(hint, '__name__', hint)}")
    if isinstance(value, int) and not abs(value) < LARGEST:
        raise ValueError(f"{name} must be below 2^64")
    if hint is float and not abs(value) <= sys.float_info.max:  # type: ignore[arg-type]
        raise ValueError(f"{name} must be finite")
    return value


def _tuple(name: str, kinds: tuple[Any, ...], value: object) -> tuple[object, ...]:
    if not isinstance(value, list) or (kinds[-1] is not ... and len(value) != len(kinds)):
        raise ValueError(f"{name} must be a list of the right length")
    return tuple(_typed(name, kinds[0], item) for item in value)


def checksum(record: dict[str, Any]) -> str:
    """Sixteen hexadecimal digits over a JSON object, whatever the order of its fields."""
    text = json.dumps(record, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def sha256_of(data: bytes) -> str:
    """Hexadecimal SHA-256."""
    return hashlib.sha256(data).hexdigest()


def unlike(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """Names, sorted, of what two records do not both have alike."""
    return sorted(k for k in {*ours, *theirs} if ours.get(k) != theirs.get(k))


def digest_of(value: object) -> str:
    """Hexadecimal SHA-256 of a JSON value in canonical form."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return sha256_of(text.encode())


def ids_digest(image_ids: Sequence[int]) -> str:
    """SHA-256 over image ids in order."""
    return arrays_digest(np.array(image_ids, np.int64))


def arrays_digest(*arrays: Any) -> str:
    """Hexadecimal SHA-256 over types, shapes and values of arrays; images are read one by one."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        for part in array if array.ndim == 4 else [array]:
            digest.update(np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()
