"""Convolutions and linear layers fused with what follows them, through oneDNN's own operators.

oneDNN applies bias, the sum with a shortcut and the ReLU while a tile of the output is still in
registers, and keeps weights in the layout its kernels read. PyTorch's compiler emits these
operators; here they are put in by hand, so no C++ compiler is needed and nothing is compiled while
a run waits.
"""

import copy
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

Fuse = Callable[[fx.GraphModule, fx.Node, nn.Module], None]
"""Puts operators of a library in place of a layer and what follows it."""

_RELUS = (torch.relu, torch.relu_, nn.functional.relu)
_SUMS = (operator.add, operator.iadd, torch.add)


def fuse_for_cpu(module: nn.Module, example: torch.Tensor) -> nn.Module:
    """A copy of a network for one batch shape and dtype, with fewer passes over memory.

    The result agrees with the network up to rounding, and row by row does not depend on the other
    rows.

    Parameters
    ----------
    module : torch.nn.Module
        A network in eval mode with batch norm folded (`fold_batch_norm`); float32 or bfloat16.
    example : torch.Tensor, shape (rows, channels, height, width)
        A batch like those the network will get: shape, dtype, memory layout and values.

    Returns
    -------
    torch.nn.Module
        ``module`` itself if torch.fx cannot trace it faithfully or oneDNN is missing.
    """
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return module
    return rewrite(module, example, _fuse_layer)


def rewrite(module: nn.Module, example: torch.Tensor, fuse: Fuse) -> nn.Module:
    """A traced copy of a network with ``fuse`` called for every layer that may be replaced.

    Layers with hooks, and convolutions with padding other than zeros, are left alone. ``module``
    itself is returned if torch.fx cannot trace it, or loses something of it: a trace has a sum in
    place as one that makes a new tensor.
    """
    try:
        traced = fx.symbolic_trace(copy.deepcopy(module))
        with torch.inference_mode():
            same = _close(_Shapes(traced).run(example), module(example))
    except Exception:  # forward runs on proxies, so it can fail in any way
        return module
    if not same:
        return module
    for node in list(traced.graph.nodes):
        if node.op == "call_module":
            layer = traced.get_submodule(str(node.target))
            if not _has_hooks(layer) and _is_plain(layer):
                fuse(traced, node, layer)
    traced.graph.eliminate_dead_code()
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced.eval()


def _close(output: torch.Tensor, expected: torch.Tensor) -> bool:
    """Whether outputs agree up to the rounding of bfloat16, relative to the largest."""
    error = (output.float() - expected.float()).abs().max()
    return bool(error <= 2.0**-6 * expected.float().abs().max())


class _Shapes(fx.Interpreter):
    """Notes the shape of every intermediate tensor.

    PyTorch's own pass imports its symbolic-shape machinery, which takes longer than a small run.
    """

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        n.meta["shape"] = tuple(getattr(result, "shape", ()))
        return result


def _fuse_layer(traced: fx.GraphModule, node: fx.Node, layer: nn.Module) -> None:
    if type(layer) is nn.Linear and len(_shape(node.args[0])) == 2:
        last, relu = following_relu(traced, node)
        weight = _packed_linear(layer, _shape(node.args[0])[0])
        replace(traced, node, last, torch.ops.mkldnn._linear_pointwise.default,
                (node.args[0],), weight, layer.bias, (_attribute(relu), [], ""))  # fmt: skip
    elif type(layer) is nn.Conv2d:
        _fuse_convolution(traced, node, layer)


def _fuse_convolution(traced: fx.GraphModule, node: fx.Node, layer: nn.Conv2d) -> None:
    source = node.args[0]
    weight = _packed_convolution(layer, _shape(source))
    geometry = (list(layer.padding), list(layer.stride), list(layer.dilation), layer.groups)
    total = following_sum(node)
    if total is None:
        last, relu = following_relu(traced, node)
        replace(traced, node, last, torch.ops.mkldnn._convolution_pointwise.default,
                (source,), weight, layer.bias, (*geometry, _attribute(relu), [], ""))  # fmt: skip
        return
    other = next(arg for arg in total.all_input_nodes if arg is not node)
    last, relu = following_relu(traced, total)
    unary: tuple[Any, ...] = ("relu", [], "") if relu else (None, [], None)
    replace(traced, total, last, torch.ops.mkldnn._convolution_pointwise.binary,
            (source, other), weight, layer.bias, (*geometry, "add", 1, *unary))  # fmt: skip


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
    fused.meta = dict(last.meta)
    last.replace_all_uses_with(fused)
    traced.graph.erase_node(last)


def following_relu(traced: fx.GraphModule, node: fx.Node) -> tuple[fx.Node, bool]:
    """The ReLU that alone reads a node, and True; else the node, and False."""
    user = _only_user(node)
    if user is not None:
        layer = traced.get_submodule(str(user.target)) if user.op == "call_module" else None
        module = type(layer) is nn.ReLU and not _has_hooks(layer)
        function = user.op == "call_function" and user.target in _RELUS
        method = user.op == "call_method" and user.target in ("relu", "relu_")
        if module or function or method:
            return user, True
    return node, False


def following_sum(node: fx.Node) -> fx.Node | None:
    """The sum of a node with another of the same shape, if nothing else reads the node.

    The other must be computed already, so that the fused call can stand where the sum stood.
    """
    user = _only_user(node)
    if user is None or user.op != "call_function" or user.target not in _SUMS or user.kwargs:
        return None
    others = [arg for arg in user.args if arg is not node]
    if len(others) != 1 or not isinstance(others[0], fx.Node):
        return None
    if user.target is operator.iadd and user.args[0] is not node:
        return None  # the other tensor is changed in place, and an alias of it may be read later
    return user if _shape(others[0]) == _shape(node) else None


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _is_plain(layer: nn.Module) -> bool:
    if not isinstance(layer, nn.Conv2d):
        return True
    return layer.padding_mode == "zeros" and not isinstance(layer.padding, str)


def _has_hooks(layer: nn.Module) -> bool:
    return bool(layer._forward_hooks or layer._forward_pre_hooks)


def _attribute(relu: bool) -> str:
    return "relu" if relu else "none"


def _shape(node: Any) -> tuple[int, ...]:
    shape: tuple[int, ...] = node.meta["shape"]
    return shape


def _packed_convolution(layer: nn.Conv2d, source: tuple[int, ...]) -> torch.Tensor:
    reorder: Callable[..., torch.Tensor] = torch._C._nn.mkldnn_reorder_conv2d_weight
    return reorder(
        layer.weight.detach().to_mkldnn(), list(layer.padding), list(layer.stride),
        list(layer.dilation), layer.groups, list(source),
    )  # fmt: skip


def _packed_linear(layer: nn.Linear, rows: int) -> torch.Tensor:
    packed: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), rows)
    return packed
