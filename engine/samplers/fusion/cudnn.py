"""Convolutions with bias, shortcut sum and ReLU in one cuDNN call."""

import copy

import torch
from torch import fx, nn

from dualsmooth.engine.models.capture import has_hooks
from dualsmooth.engine.samplers.fusion.patterns import (
    following_relu,
    following_sum,
    replace,
    rewrite,
)


def fuse_for_cudnn(module: nn.Module, example: torch.Tensor) -> nn.Module:
    """A network whose conv (+ sum) + ReLU patterns are single cuDNN calls.

    PyTorch runs a convolution's bias, the sum with a shortcut and the ReLU as passes over memory of
    their own; cuDNN does all three before it stores. A convolution without a ReLU after it is left
    as it is, because cuDNN's calls end with one; if its sum with another ends in a call, that call
    adds its bias, too. The network is in eval mode with batch norm
    folded, and is itself returned if it cannot be captured.
    """
    return rewrite(module, example, _fuse_convolution)


def _fuse_convolution(traced: fx.GraphModule, node: fx.Node, layer: nn.Module) -> None:
    if type(layer) is not nn.Conv2d:
        return
    total = following_sum(node)
    last, relu = following_relu(traced, node if total is None else total)
    if not relu:
        return
    sizes = [list(size) for size in (layer.stride, layer.padding, layer.dilation)]
    source, weight, options = (node.args[0],), layer.weight.detach(), (*sizes, layer.groups)
    calls = torch.ops.aten
    if total is None:
        call = calls.cudnn_convolution_relu.default
        replace(traced, node, last, call, source, weight, layer.bias, options)
        return
    other = next(arg for arg in total.all_input_nodes if arg is not node)
    bias = _taken(traced, other, layer.bias)
    call = calls.cudnn_convolution_add_relu.default
    replace(traced, total, last, call, source, weight, bias, options, middle=(other, 1.0))


def _taken(
    traced: fx.GraphModule, other: fx.Node, bias: torch.Tensor | None
) -> torch.Tensor | None:
    """A bias with that of the other convolution of a sum, which loses its own.

    PyTorch adds the bias of a convolution in a pass over memory of its own.
    """
    layer = traced.get_submodule(str(other.target)) if other.op == "call_module" else None
    calls = [node.target for node in traced.graph.nodes if node.op == "call_module"]
    alone = len(other.users) == 1 and calls.count(other.target) == 1
    if type(layer) is not nn.Conv2d or layer.bias is None or has_hooks(layer) or not alone:
        return bias
    bare, own = copy.deepcopy(layer), layer.bias.detach()
    bare.register_parameter("bias", None)
    traced.set_submodule(str(other.target), bare)
    return own if bias is None else (own.float() + bias.detach().float()).to(own.dtype)
