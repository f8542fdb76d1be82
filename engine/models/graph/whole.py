"""Whether passes decide for a batch as a whole, told by what operators make of its rows."""

import re
from itertools import combinations
from typing import Any

import torch
from torch.fx.node import map_aggregate
from torch.multiprocessing.reductions import StorageWeakRef

from dualsmooth.engine.models.graph.layers import arguments_of

_TELLS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
"""Marks of operators that tell Python of values: as a number, or by a shape."""
_FORMS = re.compile(r"new_\w+|\w+_like|(\w+_as|to)")
"""Operators that read of a tensor how it is made; the last ones have values of the first one."""
_ALONG = re.compile(r"(log)?cum\w+|_?(log_)?softmax|sort|flip|roll")
"""Operators that give as many values as they get, and mix those along an axis."""

_Made = tuple[Any, list[int], bool]
"""An operator, how many values it made of rows, and whether it went along what may be these."""


class Whole:
    """Follows what passes make of rows: by memory, as parts of a tensor are written and read.

    A pass decides for a batch as a whole if it makes less than a value for each row, as a mean of
    all of them, or as many whatever the number of rows, mixes rows along their axis, or tells
    Python of values.
    """

    def __init__(self) -> None:
        self._by_count, self._seen = dict[int, list[_Made]](), False

    def of(self, batch: torch.Tensor) -> None:
        """Follow a pass of a batch; the first one of so many rows is compared with others."""
        self._count, self._of_rows = len(batch), {_memory(batch): _kept(batch)}
        self._made = list[_Made]()
        self._by_count.setdefault(self._count, self._made)

    def follow(self, func: Any, args: tuple[Any, ...], options: dict[str, Any], made: Any) -> None:
        """Note what an operator makes of rows."""
        form = _FORMS.fullmatch(_name(func))
        given = (args, options) if form is None else args[:1] if form[1] else ()
        if any(_memory(value) in self._of_rows for value in _tensors(given)):
            values = _tensors(made)
            self._of_rows.update((_memory(value), _kept(value)) for value in values)
            sizes = [value.numel() for value in values]
            self._seen |= any(0 < size < self._count for size in sizes)
            self._seen |= not _TELLS.isdisjoint(func.tags)
            along = _is_along(func, arguments_of(func, args, options), self._count)
            self._made.append((func, [] if func.is_view else sizes, along))

    def is_decided(self) -> bool:
        """Whether a pass decided for a batch as a whole."""
        return self._seen or any(
            any(m * size != n * other for size, other in zip(made, others, strict=True))
            or (along and too)
            for (n, first), (m, second) in combinations(self._by_count.items(), 2)
            if [func for func, *_ in first] == [func for func, *_ in second]
            for (_, made, along), (_, others, too) in zip(first, second, strict=True)
            if len(made) == len(others)
        )


def _name(func: Any) -> str:
    """Of the operator: what it keeps of it stands behind a lock, as of code that has threads."""
    name: str = func._schema.name
    return name.partition("::")[2]


def _is_along(func: Any, arguments: tuple[Any, ...], rows: int) -> bool:
    if not _ALONG.fullmatch(_name(func)) or arguments[0].shape[:1] != (rows,):
        return False
    named = {a.name: value for a, value in zip(func._schema.arguments, arguments, strict=True)}
    dims, axes = named.get("dim", named.get("dims")), arguments[0].dim()
    return any(dim % axes == 0 for dim in ([dims] if isinstance(dims, int) else dims or [0]))


def _memory(value: torch.Tensor) -> int:
    """What a value shares with its parts, while it is there."""
    strided = value.layout is torch.strided
    return value.untyped_storage()._cdata if strided else id(value)


def _kept(value: torch.Tensor) -> Any:
    """What keeps a place in memory from others, without its values where they are many."""
    if value.layout is not torch.strided:
        return value
    return StorageWeakRef(value.untyped_storage())  # type: ignore[no-untyped-call]


def _tensors(values: Any) -> list[torch.Tensor]:
    found = list[torch.Tensor]()
    map_aggregate(values, lambda v: found.append(v) if isinstance(v, torch.Tensor) else None)
    return found
