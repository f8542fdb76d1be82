"""Convolutions with bias, shortcut sum and ReLU in one cuDNN call."""

from typing import Any

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
    as it is, because cuDNN's calls end with one.

    Parameters
    ----------
    module : torch.nn.Module
        A network in eval mode with batch norm folded (`fold_batch_norm`).
    example : torch.Tensor, shape (rows, channels, height, width)
        A batch like those the network will get; any device, cuDNN is not called.

    Returns
    -------
    torch.nn.Module
        ``module`` itself if it cannot be captured.
    """
    return rewrite(module, example, _fuse_convolution)


def _fuse_convolution(traced: fx.GraphModule, node: fx.Node, layer: nn.Module) -> None:
    if type(layer) is not nn.Conv2d:
        return
    total = following_sum(node)
    last, relu = following_relu(traced, node if total is None else total)
    if not relu:
        return
    weight = layer.weight.detach()
    geometry: tuple[Any, ...] = (
        list(layer.stride), list(layer.padding), list(layer.dilation), layer.groups,
    )  # fmt: skip
    if total is None:
        replace(traced, node, last, torch.ops.aten.cudnn_convolution_relu.default,
                (node.args[0],), weight, layer.bias, geometry)  # fmt: skip
        return
    other = next(arg for arg in total.all_input_nodes if arg is not node)
    replace(traced, total, last, torch.ops.aten.cudnn_convolution_add_relu.default,
            (node.args[0],), weight, layer.bias, geometry, middle=(other, 1.0))  # fmt: skip
