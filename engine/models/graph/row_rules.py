"""Operators that treat each row alone, by what they read.

By induction over the operators of a pass: the first axis of a value is that of the batch, and its
row i is a function of row i of the batch and of constants. An operator or an argument of which that
is not plain is none of these.
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch

from dualsmooth.engine.models.graph.recorded import BROADCAST, SAME

_ATEN = torch.ops.aten
_BY_VALUE = SAME.union("alias clone contiguous detach relu6 relu6_".split())
_POOLING = frozenset("adaptive_avg_pool2d avg_pool2d max_pool2d".split())
_DROPOUTS = (_ATEN.dropout.default, _ATEN.dropout_.default)
_OVER = (_ATEN.mean.dim, _ATEN.sum.dim_IntList, _ATEN.amax.default)
_DIMS = {
    **{_ATEN.softmax.int: slice(1), _ATEN.slice.Tensor: slice(1), _ATEN.transpose.int: slice(2)},
    **{_ATEN.chunk.default: slice(1, 2), _ATEN.split.Tensor: slice(1, 2)},
}
"""Which of their arguments name axes, and all of these."""
_ATTENTION = _ATEN._native_multi_head_attention.default


class RowRules(ABC):
    """What is known of values: whether they consist of rows, or are constants."""

    values: ClassVar[type]
    """What stands for a value in an argument."""

    @abstractmethod
    def axes_of(self, value: object) -> int:
        """Axes of a value made of rows; 0 if it is none."""

    @abstractmethod
    def constant(self, value: object) -> torch.Tensor | None:
        """The tensor that a value is in every pass, if it is one."""

    def result(self, target: torch._ops.OpOverload, source: Any, *rest: Any) -> int:
        """Axes of a result that consists of rows, or 0."""
        name, axes = target._opname, self.axes_of(source)
        if target is _ATEN.cat.default:
            axes = max(map(self.axes_of, source))
            fit = all(self.axes_of(p) == axes or self._is_alike(p, axes) for p in source)
            return axes * (fit and _within(rest[:1], axes))
        if target is _ATEN.conv2d.default:
            return axes * (axes == 4 and self._fits(rest, (4, 1)))
        if target is _ATEN.linear.default:
            return axes * (axes > 1 and self._fits(rest, (2, 1)))
        if target is _ATEN.batch_norm.default:
            return axes * (rest[4] is False and self._fits(rest, (1, 1, 1, 1)))
        if target is _ATEN.layer_norm.default:
            over = len(rest[0])
            return axes * (over < axes and self._fits(rest[1:], (over, over)))
        if target is _ATEN.group_norm.default:
            return axes * self._fits(rest[1:], (1, 1))
        if target is _ATEN.matmul.default:
            return axes * self._multiplied(rest[:1], axes)
        if target is _ATTENTION:
            return axes * (self._multiplied(rest[:2], axes) and self._fits(rest[4:], (2, 1, 2, 1)))
        if target is _ATEN.scaled_dot_product_attention.default:
            plain = rest[3] == 0.0 and self._plain(rest[2:])
            return axes * (self._multiplied(rest[:2], axes) and plain)
        if name in BROADCAST and target._overloadname == "Tensor":
            if not axes and not target._schema.is_mutable:
                source, rest, axes = rest[0], (source, *rest[1:]), self.axes_of(rest[0])
            return axes * (self._plain(rest[1:]) and self._goes_with(rest[0], axes))
        return self._of_numbers(target, axes, rest) if axes and self._plain(rest) else 0

    def _of_numbers(self, target: torch._ops.OpOverload, axes: int, rest: tuple[Any, ...]) -> int:
        """As `result`, of an operator whose other arguments are no values."""
        if target in _DROPOUTS:
            return axes * (rest[1] is False)
        if target in _OVER:
            return _averaged(axes, *rest[:2])
        if target is _ATEN.flatten.using_ints:
            return _flat(axes, *rest)
        if target in _DIMS:
            return axes * _within(rest[_DIMS[target]], axes)
        by_value = target._opname in _BY_VALUE or (target._opname in _POOLING and axes == 4)
        return axes * (by_value and target._overloadname == "default")

    def _multiplied(self, others: tuple[Any, ...], axes: int) -> bool:
        """Whether matrices of each row are multiplied with others of the same row."""
        return axes > 2 and all(self.axes_of(other) == axes for other in others)

    def _plain(self, arguments: object) -> bool:
        """Whether no argument is a value."""
        if isinstance(arguments, list | tuple):
            return all(map(self._plain, arguments))
        return not isinstance(arguments, self.values)

    def _fits(self, rest: tuple[Any, ...], axes: tuple[int, ...]) -> bool:
        """Whether a layer's first arguments are constants of so many axes, the others plain."""
        tensors = [None if value is None else self.constant(value) for value in rest[: len(axes)]]
        pairs = zip(rest, tensors, axes, strict=False)
        fit = (value is None or (t is not None and t.dim() == n) for value, t, n in pairs)
        return all(fit) and self._plain(rest[len(axes) :])

    def _goes_with(self, other: object, axes: int) -> bool:
        """Whether the second of two has rows at the same places, or is the same for every row."""
        if not isinstance(other, self.values):
            return isinstance(other, int | float)
        constant = self.constant(other)
        if constant is None:
            return self.axes_of(other) == axes
        return constant.dim() < axes or self._is_alike(other, axes)

    def _is_alike(self, value: object, axes: int) -> bool:
        """Whether it is a constant of so many axes that is the same for every row."""
        constant = self.constant(value)
        if constant is None or constant.dim() != axes:
            return False
        return len(constant) == 1 or constant.stride(0) == 0


def _within(dims: Any, axes: int) -> bool:
    """Whether axes are named, and none of them is that of the batch."""
    return bool(dims) and all(isinstance(dim, int) and dim % axes for dim in dims)


def _averaged(axes: int, dims: Any, kept: bool) -> int:
    gone = 0 if kept else len({dim % axes for dim in dims or ()})
    return (axes - gone) * _within(dims, axes)


def _flat(axes: int, first: int, last: int) -> int:
    return (axes - max(last % axes - first % axes, 0)) * _within((first, last), axes)
