"""Convolutions with bias, shortcut sum and ReLU in one cuDNN call."""

import torch
from torch import fx, nn

from dualsmooth.engine.samplers.fusion.affine import fuse_biases, fuse_norm
from dualsmooth.engine.samplers.fusion.patterns import (
    replace,
    rewrite,
    tail_of,
    taken_bias,
)

RELU = torch.ops.aten.cudnn_convolution_relu.default
ADD_RELU = torch.ops.aten.cudnn_convolution_add_relu.default


def fuse_for_cudnn(module: nn.Module, example: torch.Tensor) -> nn.Module:
    """A network whose conv (+ sum) + ReLU patterns are single cuDNN calls.

    PyTorch runs a convolution's bias, the sum with a shortcut and the ReLU as passes over memory of
    their own; cuDNN does all three before it stores. A convolution without a ReLU after it is left
    as it is, because cuDNN's calls end with one; what adds its result to another adds its bias,
    too. Batch norm that is left is one pass with the sum before and the ReLU behind it (`Affine`).
    The network is in eval mode with batch norm folded, in float32 (cast it afterwards: the
    constants of an `Affine` stay as they are) and on its device. It is itself returned if it cannot
    be captured.
    """
    return rewrite(module, example, _fuse)


def _fuse(traced: fx.GraphModule, node: fx.Node, layer: nn.Module) -> None:
    if type(layer) is nn.BatchNorm2d:
        fuse_norm(traced, node, layer)
    elif type(layer) is nn.Conv2d:
        _fuse_convolution(traced, node, layer)


def _fuse_convolution(traced: fx.GraphModule, node: fx.Node, layer: nn.Conv2d) -> None:
    total, other, last, relu = tail_of(traced, node)
    if not relu:
        if other is not None:
            fuse_biases(traced, total)
        return
    sizes = [list(size) for size in (layer.stride, layer.padding, layer.dilation)]
    source, weight, options = (node.args[0],), layer.weight.detach(), (*sizes, layer.groups)
    if other is None:
        replace(traced, node, last, RELU, source, weight, layer.bias, options)
        return
    bias = taken_bias(traced, other, layer.bias)
    replace(traced, total, last, ADD_RELU, source, weight, bias, options, middle=(other, 1.0))
