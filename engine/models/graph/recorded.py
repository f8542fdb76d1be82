"""One pass of a network, noted operator by operator on tensors that have no values.

`torch.export` does so for every network, and imports PyTorch's compiler, which takes longer than a
small run; so do PyTorch's own shapes of results. This is for what image classifiers are made of, on
contiguous tensors of float32. The rest is an error, and left to it: any other operator, a value
that Python asks for, a write to the input or to a tensor of the network.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torch.fx.node import map_aggregate
from torch.utils._python_dispatch import TorchDispatchMode

from dualsmooth.engine.models.graph.layers import arguments_of

_ATEN = torch.ops.aten
_SEEN = frozenset(
    "alias clone constant_pad_nd detach expand permute select slice squeeze t transpose unsqueeze "
    "view".split()
)
"""Operators that PyTorch itself carries out on tensors without values, and imports nothing."""
SAME = frozenset(
    "abs clamp clamp_ elu elu_ exp gelu hardsigmoid hardswish hardswish_ hardtanh hardtanh_ "
    "leaky_relu leaky_relu_ neg relu relu_ rsqrt sigmoid sigmoid_ silu silu_ sqrt tanh "
    "tanh_".split()
)
"""Operators whose result has the shape of what they read."""
BROADCAST = frozenset("add add_ div div_ mul mul_ sub sub_".split())
_OVER = (_ATEN.mean.dim, _ATEN.sum.dim_IntList, _ATEN.amax.default)


def recorded(
    network: Callable[[torch.Tensor], torch.Tensor], example: torch.Tensor, most: int
) -> tuple[nn.Module, fx.Graph]:
    """The tensors of a network, and operators of a pass as a graph, for batches as the example.

    ``most`` is the number of operators it may have. The network keeps what the pass changes in it.
    """
    watch = _Watch(most)
    given = watch.given(example)
    with torch.no_grad(), watch:
        logits = network(given)
    return watch.root, watch.ended(logits)


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, most: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._graph, self.root, self._most = fx.Graph(), nn.Module(), most
        self._known: dict[int, tuple[torch.Tensor, fx.Node, torch.Tensor]] = {}
        self._others = set[int]()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Not needed, as nothing is compiled while a mode watches; it imports the compiler."""
        return False

    def given(self, example: torch.Tensor) -> torch.Tensor:
        """What stands for a batch."""
        return self._other(example, self._graph.placeholder("x"))

    def ended(self, logits: torch.Tensor) -> fx.Graph:
        """The graph that ends with some logits."""
        self._graph.output((self._known[id(logits)][1],))
        return self._graph

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        options: dict[str, Any] = kwargs or {}
        if func is _ATEN.empty.memory_format:  # batch norm's own notes, which nothing reads
            return torch.empty(args[0], device="meta")
        shown = map_aggregate(args, self._stand)
        made = _result(func, shown, options)
        if func._schema.is_mutable and made.untyped_storage()._cdata in self._others:
            raise ValueError(f"{func} writes to the input, or to a tensor of the network")
        call, arguments = _as_exported(func, map_aggregate(args, self._node))
        self._know(made, self._graph.call_function(call, arguments, options), made)
        if len(self._graph.nodes) > self._most:
            raise ValueError("it has too many operators")
        unread = [torch.empty(0, device="meta") for _ in func._schema.returns[1:]]
        return (made, *unread) if unread else made

    def _node(self, value: Any) -> Any:
        return self._entry(value)[1] if isinstance(value, torch.Tensor) else value

    def _stand(self, value: Any) -> Any:
        return self._entry(value)[2] if isinstance(value, torch.Tensor) else value

    def _entry(self, tensor: torch.Tensor) -> tuple[torch.Tensor, fx.Node, torch.Tensor]:
        """A tensor, its node and what stands for it; what no operator made is the network's."""
        if id(tensor) not in self._known:
            if type(tensor) not in (torch.Tensor, nn.Parameter) or tensor.device.type != "cpu":
                raise ValueError(f"{type(tensor)} on {tensor.device} is not known")
            name = f"constant_{len(self._others)}"
            self.root.register_buffer(name, tensor.detach())
            self._other(tensor, self._graph.get_attr(name))
        return self._known[id(tensor)]

    def _other(self, tensor: torch.Tensor, node: fx.Node) -> torch.Tensor:
        """What stands for a tensor that is there before the pass."""
        if tensor.dtype != torch.float32 or not tensor.is_contiguous():
            raise ValueError("it is not contiguous, or not of float32")
        stand = torch.empty(tensor.shape, device="meta")
        self._others.add(stand.untyped_storage()._cdata)
        self._know(tensor, node, stand)
        self._know(stand, node, stand)
        return stand

    def _know(self, tensor: torch.Tensor, node: fx.Node, stand: torch.Tensor) -> None:
        node.meta["val"] = stand
        self._known[id(tensor)] = (tensor, node, stand)  # held, so that no address comes twice


def _result(func: Any, args: tuple[Any, ...], options: dict[str, Any]) -> torch.Tensor:
    """What stands for the result of an operator; ValueError if that is not known."""
    if func._opname in _SEEN:
        seen: torch.Tensor = func(*args, **options)
        return seen
    read = [*args[:2], *(args[0] if func is _ATEN.cat.default else ())]
    plain = all(x.is_contiguous() for x in read if isinstance(x, torch.Tensor))
    if not plain and func not in (_ATEN.addmm.default, _ATEN.mm.default):
        raise ValueError(f"{func} reads what is not contiguous")
    shape = _shape(func, *arguments_of(func, args, options))
    if func._schema.is_mutable:
        written: torch.Tensor = args[0]
        return written
    return torch.empty(shape, device="meta")


def _shape(func: Any, source: Any, *rest: Any) -> tuple[int, ...]:
    """Shape of a result, by what an operator reads first and its other arguments."""
    name = func._opname
    if name in SAME or (func is _ATEN.native_batch_norm.default and not rest[4]):
        return tuple(source.shape)
    if name in BROADCAST:
        return np.broadcast_shapes(source.shape, getattr(rest[0], "shape", ()))
    if func in _OVER and rest[0] and not any(rest[2:]):
        over, kept = [dim % len(source.shape) for dim in rest[0]], [1] * bool(rest[1])
        sizes = [kept if dim in over else [size] for dim, size in enumerate(source.shape)]
        return tuple(size for part in sizes for size in part)
    if func is _ATEN.cat.default:
        dim = rest[0] % len(source[0].shape)
        total = sum(part.shape[dim] for part in source)
        return (*source[0].shape[:dim], total, *source[0].shape[dim + 1 :])
    if func in (_ATEN.addmm.default, _ATEN.mm.default):
        left, right = (source, *rest)[-2 - 2 * (name == "addmm") :][:2]
        return left.shape[0], right.shape[1]
    if len(source.shape) == 4:
        return _shape_of_maps(func, source.shape, *rest)
    raise ValueError(f"{func} is not known")


def _shape_of_maps(func: Any, maps: tuple[int, ...], *rest: Any) -> tuple[int, ...]:
    """Shape of the maps that a convolution or pooling gives."""
    if func is _ATEN._adaptive_avg_pool2d.default:
        return (*maps[:2], *rest[0])
    if func is _ATEN.convolution.default and not rest[5]:
        channels, window, (stride, padding, dilation) = len(rest[0]), rest[0].shape[2:], rest[2:5]
    elif func is _ATEN.max_pool2d_with_indices.default and not rest[4]:
        channels, window, (stride, padding, dilation) = maps[1], rest[0], rest[1:4]
    elif func is _ATEN.avg_pool2d.default and not rest[3]:
        channels, window, (stride, padding, dilation) = maps[1], rest[0], (*rest[1:3], [1])
    else:
        raise ValueError(f"{func} is not known")
    pairs = [((*p, *p)[:2]) for p in (window, stride or window, padding, dilation)]
    sizes = [
        (size + 2 * margin - spread * (width - 1) - 1) // step + 1
        for size, width, step, margin, spread in zip(maps[2:], *pairs, strict=True)
    ]
    return (maps[0], channels, *sizes)


def _as_exported(func: Any, args: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
    """An operator as `torch.export` names it, and its arguments."""
    if func is _ATEN.convolution.default:
        return _ATEN.conv2d.default, (*args[:6], args[8])
    if func is _ATEN.native_batch_norm.default:
        return _ATEN.batch_norm.default, (*args, False)
    if func is _ATEN.max_pool2d_with_indices.default:
        return _ATEN.max_pool2d.default, args
    if func in (_ATEN.addmm.default, _ATEN.mm.default):
        bias, source, weight = args if func is _ATEN.addmm.default else (None, *args)
        if weight.target is _ATEN.t.default and weight.args[0].op == "get_attr":
            return _ATEN.linear.default, (source, weight.args[0], bias)
    return func, args
