"""Passes whose operators are read: whether each of them treats each row of a batch alone.

What is read is a pass on rows whose values only operators see: Python, and C that is no operator,
gets an error where it asks for one. So that pass did the same whatever the pixels are, and a pass
that did the same operators on the same numbers is one of the function that was read.
"""

import cProfile
import sys
from types import FrameType
from typing import Any

import torch
from torch import nn
from torch.fx.node import map_aggregate
from torch.utils._python_dispatch import TorchDispatchMode

from dualsmooth.engine.models.graph.layers import arguments_of
from dualsmooth.engine.models.graph.row_rules import RowRules
from dualsmooth.engine.models.graph.whole import Whole

_ATEN = torch.ops.aten
_VIEWS = (_ATEN.view.default, _ATEN.reshape.default)
_PAST = torch._C._DisableTorchDispatch
"""With it operators of C read the memory of what has none: the process would end."""


class Passes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes what each pass asks operators for: all that they are given but tensors' values."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._by_shape, self.whole = dict[tuple[int, ...], list[list[Any]]](), Whole()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Not needed, as nothing is compiled while a mode watches; it imports the compiler."""
        return False

    def of(self, batch: torch.Tensor) -> "Passes":
        """Itself, for another pass of a batch."""
        self._noted, self._failed = list[Any](), False
        self._by_shape.setdefault(tuple(batch.shape), []).append(self._noted)
        self.whole.of(batch)
        return self

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        options: dict[str, Any] = kwargs or {}
        self._noted.append((func, map_aggregate((args, options), _kind_of)))
        try:
            made = (_on_rows if Sealed in types else _plainly)(func, args, options)
        except Exception:
            self._failed = True
            raise
        self.whole.follow(func, args, options, made)
        return made

    def are_one(self, batch: torch.Tensor) -> bool:
        """Whether all passes of so many rows did the same."""
        first, *others = self._by_shape[tuple(batch.shape)]
        return all(other == first for other in others)

    def keep_rows_apart(self, reader: nn.Module, batch: torch.Tensor, wanted: torch.Tensor) -> bool:
        """Whether a pass can be read and gives the logits of the network, by operators on rows.

        The reader is a copy of the network for this alone: it may keep what has no values. An error
        that it swallows may be that of a value it asked for.
        """
        profile = sys.getprofile()
        try:
            with torch.inference_mode(), self.of(sealed := Sealed(batch.clone())):
                sys.setprofile(self._hear)
                logits = reader(sealed)
            whole = type(logits) is Sealed and (logits.place, logits.dim()) == (0, 2)
            alike = whole and torch.equal(logits.hidden, wanted)
            return alike and self.are_one(batch) and not self._failed
        except Exception:  # whatever the network and its libraries raise
            return False
        finally:
            resume(profile)

    def _hear(self, frame: FrameType, event: str, function: Any) -> None:
        self._failed |= event == "c_exception"
        if event == "call" and any(_is_past(name, frame) for name in frame.f_code.co_names):
            self._failed = True
            raise ValueError("code past Python's dispatch would read memory that is not there")


def _is_past(name: str, frame: FrameType) -> bool:
    return name == _PAST.__name__ or frame.f_globals.get(name) is _PAST


def resume(profile: Any) -> None:
    """Let a profile go on that was there before."""
    if isinstance(profile, cProfile.Profile):  # which Python shows, but does not take back
        sys.setprofile(None)
        profile.enable()
    else:
        sys.setprofile(profile)


class Sealed(torch.Tensor):
    """A value made of rows, at some axis; an operator that may mix these is an error."""

    hidden: torch.Tensor
    place: int
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, hidden: torch.Tensor, place: int = 0) -> "Sealed":
        made: Sealed = torch.Tensor._make_wrapper_subclass(
            cls,
            hidden.shape,
            strides=hidden.stride(),
            storage_offset=hidden.storage_offset(),
            dtype=hidden.dtype,
            layout=hidden.layout,
            device=hidden.device,
        )
        torch._C._set_throw_on_mutable_data_ptr(made)
        made.hidden, made.place = hidden, place
        return made

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        raise ValueError(f"{func} outside of the pass that is read")


def _plainly(func: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    return func(*args, **options)


def _on_rows(func: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """What an operator gives, sealed.

    PyTorch does not come to do this by the class: it would import all of its distributed tensors.
    """
    seen = list[Sealed]()

    def inside(value: Any) -> Any:
        seen.extend([value] if isinstance(value, Sealed) else [])
        return value.hidden if isinstance(value, Sealed) else value

    place = _place(func, *arguments_of(func, args, options))
    bare, others = map_aggregate((args, options), inside)
    made = func(*bare, **others)
    if func._schema.is_mutable:
        return args[0]
    rows = {value.shape[value.place] for value in seen}

    def outside(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or not value.numel():
            return value
        if {value.shape[place]} != rows:
            raise ValueError(f"{func} gives another number of rows")
        return Sealed(value, place)

    return type(made)(map(outside, made)) if isinstance(made, list | tuple) else outside(made)


class _Rules(RowRules):
    values = torch.Tensor

    def axes_of(self, value: object) -> int:
        return value.dim() if isinstance(value, Sealed) and value.place == 0 else 0

    def constant(self, value: object) -> torch.Tensor | None:
        return value if type(value) in (torch.Tensor, nn.Parameter) else None  # type: ignore[return-value]


_RULES = _Rules()


def _place(func: Any, source: Any, *rest: Any) -> int:
    """Axis of the batch in what an operator gives; ValueError where it may mix rows."""
    if isinstance(source, Sealed):
        axes = source.dim()
        if func is _ATEN.permute.default:
            return [dim % axes for dim in rest[0]].index(source.place)
        dim = int(rest[0]) % axes if func in (_ATEN.select.int, _ATEN.unbind.int) else source.place
        if dim != source.place:
            return source.place - (dim < source.place)
        if func in _VIEWS and source.place == 0:  # in order, so that equal parts are the rows
            return 0
    if not _RULES.result(func, source, *rest):
        raise ValueError(f"{func} may mix rows")
    return 0


def _kind_of(value: Any) -> Any:
    """A tensor without its values, and numbers told from flags."""
    if isinstance(value, torch.Tensor):
        return tuple(value.shape), value.dtype
    return type(value), value
