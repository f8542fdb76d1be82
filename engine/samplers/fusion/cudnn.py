"""Convolutions with bias, shortcut sum and ReLU in one cuDNN call."""

import torch
from torch import fx, nn

from dualsmooth.engine.samplers.fusion.patterns import (
    following_relu,
    following_sum,
    replace,
    rewrite,
)


def fuse_for_cudnn(module: nn.Module, example: torch.Tensor) -> nn.Module:
    """A copy of a network whose conv (+ sum) + ReLU patterns are single cuDNN calls.

    PyTorch runs a convolution's bias, the sum with a shortcut and the ReLU as passes over memory of
    their own; cuDNN does all three before it stores. A convolution without a ReLU after it is left
    as it is, because cuDNN's calls end with one. The network is in eval mode with batch norm
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
    operands = ((node.args[0],), layer.weight.detach(), layer.bias, (*sizes, layer.groups))
    calls = torch.ops.aten
    if total is None:
        replace(traced, node, last, calls.cudnn_convolution_relu.default, *operands)
        return
    other = next(arg for arg in total.all_input_nodes if arg is not node)
    call = calls.cudnn_convolution_add_relu.default
    replace(traced, total, last, call, *operands, middle=(other, 1.0))
