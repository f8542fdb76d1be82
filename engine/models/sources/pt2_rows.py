"""Programs whose every operator treats each row alone: of these nothing has to be tried.

By induction over the operators: the first axis of a value is that of the batch, and its row i is a
function of row i of the batch and of constants. An operator or an argument of which that is not
plain leaves a program to the trials of the front door.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from dualsmooth.engine.models.graph.layers import arguments_of
from dualsmooth.engine.models.graph.recorded import BROADCAST, SAME
from dualsmooth.engine.models.sources.pt2_program import Pt2Program, Result, Step

_ATEN = torch.ops.aten
_BY_VALUE = SAME.union("alias clone contiguous detach relu6 relu6_".split())
_POOLING = frozenset("adaptive_avg_pool2d avg_pool2d max_pool2d".split())


def is_row_wise(program: Pt2Program) -> bool:
    """Whether logits are seen to be a function of the one row that they stand in."""
    found = _Rows(program.constants, {program.pixels: 4})
    return all(map(found.add, program.steps)) and found.axes.get(program.logits) == 2


@dataclass
class _Rows:
    """How many axes the values have that consist of rows."""

    constants: Mapping[str, torch.Tensor]
    axes: dict[str, int] = field(default_factory=dict)

    def add(self, step: Step) -> bool:
        """Take in an operator; False if its result may not consist of rows."""
        target, given, names, _ = step
        if not isinstance(target, torch._ops.OpOverload) or len(names) != 1:
            return False
        axes = self._result(target, *arguments_of(target, (), given))
        self.axes[names[0]] = axes
        return axes > 1

    def _of(self, value: object) -> int:
        """Axes of a value made of rows; 0 if it is none."""
        return self.axes.get(value.name, 0) if isinstance(value, Result) else 0

    def _constant(self, value: object) -> torch.Tensor | None:
        """The program's own tensor that a value is, whose name no result has taken."""
        named = isinstance(value, Result) and value.name not in self.axes
        return self.constants.get(value.name) if named else None  # type: ignore[attr-defined]

    def _result(self, target: torch._ops.OpOverload, source: Any, *rest: Any) -> int:
        """Axes of a result that consists of rows, or 0."""
        name, axes = target._opname, self._of(source)
        if target is _ATEN.cat.default:
            parts = {self._of(part) for part in source}
            axes = parts.pop() if len(parts) == 1 else 0
            return axes if axes and _within(rest[:1], axes) else 0
        if target is _ATEN.conv2d.default:
            return axes * (axes == 4 and self._fits(rest, (4, 1)))
        if target is _ATEN.linear.default:
            return axes * self._fits(rest, (2, 1))
        if target is _ATEN.batch_norm.default:
            return axes * (rest[4] is False and self._fits(rest, (1, 1, 1, 1)))
        if name in BROADCAST and target._overloadname == "Tensor":
            return axes * (_plain(rest[1:]) and self._goes_with(rest[0], axes))
        if not axes or not _plain(rest):
            return 0
        if target is _ATEN.dropout.default:
            return axes * (rest[1] is False)
        if target is _ATEN.mean.dim:
            return _averaged(axes, *rest[:2])
        if target is _ATEN.flatten.using_ints:
            return _flat(axes, *rest)
        by_value = name in _BY_VALUE or (name in _POOLING and axes == 4)
        return axes * (by_value and target._overloadname == "default")

    def _fits(self, rest: tuple[Any, ...], axes: tuple[int, ...]) -> bool:
        """Whether a layer's first arguments are constants of so many axes, the others plain."""
        tensors = [None if value is None else self._constant(value) for value in rest[: len(axes)]]
        pairs = zip(rest, tensors, axes, strict=False)
        fit = (value is None or (t is not None and t.dim() == n) for value, t, n in pairs)
        return all(fit) and _plain(rest[len(axes) :])

    def _goes_with(self, other: object, axes: int) -> bool:
        """Whether the second of two has rows at the same places, or is the same for every row."""
        if not isinstance(other, Result):
            return isinstance(other, int | float)
        constant = self._constant(other)
        if constant is None:
            return self._of(other) == axes
        return constant.dim() < axes or (constant.dim() == axes and len(constant) == 1)


def _plain(arguments: object) -> bool:
    """Whether no argument is a result."""
    if isinstance(arguments, list | tuple):
        return all(map(_plain, arguments))
    return not isinstance(arguments, Result)


def _within(dims: Any, axes: int) -> bool:
    """Whether axes are named, and none of them is that of the batch."""
    return bool(dims) and _plain(dims) and all(dim % axes for dim in dims)


def _averaged(axes: int, dims: Any, kept: bool) -> int:
    gone = 0 if kept else len({dim % axes for dim in dims or ()})
    return (axes - gone) * _within(dims, axes)


def _flat(axes: int, first: int, last: int) -> int:
    return (axes - max(last % axes - first % axes, 0)) * _within((first, last), axes)
