"""Layers and what follows them put into single calls of a library, in a traced network."""

import copy
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn
from torch.nn.modules.utils import _pair

from dualsmooth.engine.models.capture import capture, has_hooks, is_captured

TRIED_ROWS = 2
"""Rows that are run to learn the shapes inside a network."""

Fuse = Callable[[fx.GraphModule, fx.Node, nn.Module], None]
"""Puts operators of a library in place of a layer and what follows it."""

_RELUS = (torch.relu, torch.relu_, nn.functional.relu)
SUMS = (operator.add, operator.iadd, torch.add)
"""Functions that add two tensors."""


def rewrite(module: nn.Module, example: torch.Tensor, fuse: Fuse) -> nn.Module:
    """A network as a graph with ``fuse`` called for every layer that may be replaced.

    A network that was captured before is changed in place, any other is copied.

    Layers with hooks, and convolutions with padding other than zeros, are left alone. ``module``
    itself is returned if it cannot be captured. Later layers come first: of two convolutions that
    are added, the one that is computed last takes the sum.
    """
    traced = module if is_captured(module) else capture(module, example)
    if traced is None:
        return module
    try:
        note_shapes(traced, example)
    except Exception:  # a network may have no use for so few rows
        return module
    for node in list(traced.graph.nodes)[::-1]:
        layer = layer_of(traced, node)
        if layer is not None and not has_hooks(layer) and _is_plain(layer):
            fuse(traced, node, layer)
    traced.graph.eliminate_dead_code()
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced.eval()


def note_shapes(traced: fx.GraphModule, example: torch.Tensor) -> None:
    """Run a few rows of an example where a graph does not know what shapes its nodes give."""
    if not all("shape" in node.meta for node in traced.graph.nodes if node.op != "output"):
        with torch.inference_mode():
            _Shapes(traced, len(example)).run(example[:TRIED_ROWS])


class _Shapes(fx.Interpreter):
    """Runs a few rows and notes the shape that every intermediate tensor has for all of them.

    PyTorch's own pass imports its symbolic-shape machinery, which takes longer than a small run.
    """

    def __init__(self, traced: fx.GraphModule, rows: int) -> None:
        super().__init__(traced)
        self._rows = rows

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        shape = tuple(getattr(result, "shape", ()))
        if shape and shape[0] == min(self._rows, TRIED_ROWS):
            shape = (self._rows, *shape[1:])
        n.meta["shape"] = shape
        return result


def replace(
    traced: fx.GraphModule,
    first: fx.Node,
    last: fx.Node,
    call: Callable[..., torch.Tensor],
    inputs: tuple[Any, ...],
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    options: tuple[Any, ...],
    middle: tuple[Any, ...] = (),
) -> None:
    """Put call(*inputs, weight, *middle, bias, *options) in place of the nodes up to ``last``."""
    name = f"fused_{first.name}"
    constants: list[fx.Node | None] = []
    with traced.graph.inserting_before(last):
        for suffix, value in (("weight", weight), ("bias", bias)):
            if value is not None:
                traced.register_buffer(f"{name}_{suffix}", value.detach(), persistent=False)
            attribute = None if value is None else traced.graph.get_attr(f"{name}_{suffix}")
            constants.append(attribute)
        arguments = (*inputs, constants[0], *middle, constants[1], *options)
        fused = traced.graph.call_function(call, arguments)
    take_place(fused, last)
    traced.graph.erase_node(last)


def replace_by_module(
    traced: fx.GraphModule,
    first: fx.Node,
    last: fx.Node,
    module: nn.Module,
    inputs: tuple[Any, ...],
) -> None:
    """Put module(*inputs) in place of the nodes up to ``last``."""
    take_place(put_module(traced, first, last, module, inputs), last)
    traced.graph.erase_node(last)


def put_module(
    traced: fx.GraphModule,
    first: fx.Node,
    place: fx.Node,
    module: nn.Module,
    inputs: tuple[Any, ...],
) -> fx.Node:
    """Call a module before a node; ``first`` is the first of those that it is put in place of."""
    name = f"fused_{first.name}"
    traced.add_submodule(name, module)
    with traced.graph.inserting_before(place):
        return traced.graph.call_module(name, inputs)


def take_place(new: fx.Node, old: fx.Node) -> None:
    """Let all that read one node read another."""
    new.meta = dict(old.meta)
    old.replace_all_uses_with(new)


def layer_of(traced: fx.GraphModule, node: fx.Node | None) -> nn.Module | None:
    """The layer that a node calls, if it calls one."""
    if node is None or node.op != "call_module":
        return None
    return traced.get_submodule(str(node.target))


def channels_last(maps: torch.Tensor) -> torch.Tensor:
    """Maps (rows, channels, height, width) as our kernels take them, (rows, height, width, ...)."""
    return maps.permute(0, 2, 3, 1).contiguous()


def following_relu(traced: fx.GraphModule, node: fx.Node) -> tuple[fx.Node, bool]:
    """The ReLU that alone reads a node, and True; else the node, and False."""
    user = only_user(node)
    if user is not None:
        layer = layer_of(traced, user)
        module = type(layer) is nn.ReLU and not has_hooks(layer)
        function = user.op == "call_function" and user.target in _RELUS
        method = user.op == "call_method" and user.target in ("relu", "relu_")
        if module or function or method:
            return user, True
    return node, False


def following_sum(node: fx.Node) -> tuple[fx.Node, fx.Node] | None:
    """The sum of a node with another of the same shape, and that, if nothing else reads the node.

    The other must be computed already, so that the fused call can stand where the sum stood.
    """
    user = only_user(node)
    if user is None or user.op != "call_function" or user.target not in SUMS or user.kwargs:
        return None
    others = [arg for arg in user.args if arg is not node]
    if len(others) != 1 or not isinstance(others[0], fx.Node):
        return None
    if user.target is operator.iadd and user.args[0] is not node:
        return None  # the other tensor is changed in place, and an alias of it may be read later
    return (user, others[0]) if shape_of(others[0]) == shape_of(node) else None


def tail_of(traced: fx.GraphModule, node: fx.Node) -> tuple[fx.Node, fx.Node | None, fx.Node, bool]:
    """A layer's sum with another, or itself, the other, the last node behind it, and if a ReLU."""
    total, other = following_sum(node) or (node, None)
    return total, other, *following_relu(traced, total)


def flattens(traced: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node makes one row of all maps of an image."""
    layer = layer_of(traced, node)
    if layer is None:
        called = node.target in (torch.flatten, "flatten") and not node.kwargs
        return called and node.args[1:] == (1,)
    whole = type(layer) is nn.Flatten and (layer.start_dim, layer.end_dim) == (1, -1)
    return whole and not has_hooks(layer)


def pooling_of(traced: fx.GraphModule, node: fx.Node | None) -> list[tuple[int, int]]:
    """Kernel, stride, padding and dilation of plain max pooling; empty for anything else."""
    layer = layer_of(traced, node)
    if type(layer) is not nn.MaxPool2d or has_hooks(layer):
        return []
    if layer.ceil_mode or layer.return_indices:
        return []
    return [*map(_pair, (layer.kernel_size, layer.stride, layer.padding, layer.dilation))]


def taken_bias(
    traced: fx.GraphModule, summand: fx.Node, bias: torch.Tensor | None
) -> torch.Tensor | None:
    """A bias with that of a summand, if it is a convolution, which then loses its own.

    PyTorch adds the bias of a convolution in a pass over memory of its own.
    """
    layer = layer_of(traced, summand)
    calls = [node.target for node in traced.graph.nodes if node.op == "call_module"]
    alone = len(summand.users) == 1 and calls.count(summand.target) == 1
    if type(layer) is not nn.Conv2d or layer.bias is None or has_hooks(layer) or not alone:
        return bias
    bare, own = copy.deepcopy(layer), layer.bias.detach()
    bare.register_parameter("bias", None)
    traced.set_submodule(str(summand.target), bare)
    return own if bias is None else (own.float() + bias.detach().float()).to(own.dtype)


def only_user(node: fx.Node) -> fx.Node | None:
    """The node that reads this one, if exactly one does."""
    return next(iter(node.users)) if len(node.users) == 1 else None


def _is_plain(layer: nn.Module) -> bool:
    if not isinstance(layer, nn.Conv2d):
        return True
    return layer.padding_mode == "zeros" and not isinstance(layer.padding, str)


def shape_of(node: Any) -> tuple[int, ...]:
    """Shape of what a traced node gives for the example."""
    shape: tuple[int, ...] = node.meta["shape"]
    return shape
