"""Sums, batch norm that no convolution can take, and ReLU in one pass over memory.

Networks that normalize before they convolve (WRN, DenseNet, pre-activation ResNets) have batch norm
behind a sum or a concatenation. PyTorch runs sum, norm and ReLU one after the other.
"""

import operator
from typing import Any

import torch
from torch import fx, nn

from dualsmooth.engine.models.capture import has_hooks
from dualsmooth.engine.samplers.fusion.fold import is_fixed_norm, scale_and_shift
from dualsmooth.engine.samplers.fusion.patterns import (
    SUMS,
    channels_last,
    following_relu,
    layer_of,
    only_user,
    put_module,
    replace_by_module,
    shape_of,
    take_place,
    taken_bias,
)
from dualsmooth.kernels import ops

_READERS = (nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)
_CALLS = (operator.add, torch.add, torch.relu)


class Affine(nn.Module):
    """y = relu(s * scale + shift) of s = x (+ bias) (+ other); with ``keep``, (s, y).

    Maps are (rows, channels, height, width), channels last in memory. The constants are float32 and
    not of the network's state: they stay where and what they are when it is moved or cast.
    """

    def __init__(
        self,
        norm: tuple[torch.Tensor, torch.Tensor] | None = None,
        bias: torch.Tensor | None = None,
        relu: bool = False,
        keep: bool = False,
    ) -> None:
        super().__init__()
        self.norm, self.options = norm or (None, None), dict[str, Any](relu=relu, keep=keep)
        self.options["bias"] = None if bias is None else bias.detach().float()

    def forward(
        self, x: torch.Tensor, other: torch.Tensor | None = None
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        second = None if other is None else channels_last(other)
        total, y = ops.affine(channels_last(x), *self.norm, other=second, **self.options)
        y = y.permute(0, 3, 1, 2)
        return y if total is None else (total.permute(0, 3, 1, 2), y)


def fuse_norm(traced: fx.GraphModule, node: fx.Node, layer: nn.BatchNorm2d) -> None:
    """Put one pass in place of a batch norm, the sum that it reads, and the ReLU that reads it.

    It stands where the first of them stood, so that it reads what they read. A sum that others read
    is kept, and left alone where one of them may change it.
    """
    source = node.args[0]
    if not is_fixed_norm(layer) or not isinstance(source, fx.Node):
        return
    last, relu = following_relu(traced, node)
    scale, shift = (constant.float() for constant in scale_and_shift(layer))
    if not _is_sum(traced, source):
        fused = put_module(traced, node, node, Affine((scale, shift), relu=relu), (source,))
    else:
        keep, bias = only_user(source) is None, _biases(traced, source)
        made = Affine((scale, shift), bias, relu, keep)
        fused = put_module(traced, source, source, made, source.args)
        if keep:
            with traced.graph.inserting_after(fused):
                total = traced.graph.call_function(operator.getitem, (fused, 0))
            with traced.graph.inserting_after(total):
                fused = traced.graph.call_function(operator.getitem, (fused, 1))
            take_place(total, source)
    take_place(fused, last)
    for done in dict.fromkeys((last, node, source)):
        if not done.users:
            traced.graph.erase_node(done)


def fuse_biases(traced: fx.GraphModule, total: fx.Node) -> None:
    """Have the biases of convolutions added with their sum, which has no norm or ReLU behind it."""
    bias = _biases(traced, total)
    if bias is not None:
        replace_by_module(traced, total, total, Affine(bias=bias), total.args)


def _biases(traced: fx.GraphModule, total: fx.Node) -> torch.Tensor | None:
    bias = None
    for summand in total.all_input_nodes:
        bias = taken_bias(traced, summand, bias)
    return bias


def _is_sum(traced: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node is the sum of two maps of one shape, which nobody changes."""
    parts = node.all_input_nodes
    if node.op != "call_function" or node.target not in SUMS or node.kwargs:
        return False
    if len(node.args) != 2 or len(parts) != 2 or shape_of(parts[0]) != shape_of(parts[1]):
        return False
    if node.target is operator.iadd:  # an alias of what is changed may be read later
        first = layer_of(traced, parts[0])
        if parts[0] is not node.args[0] or type(first) is not nn.Conv2d or not only_user(parts[0]):
            return False
    return all(_reads(traced, user) for user in node.users)


def _reads(traced: fx.GraphModule, user: fx.Node) -> bool:
    """Whether a node gives a new tensor and changes none."""
    layer, call = layer_of(traced, user), user.target
    if layer is not None:
        return type(layer) in (*_READERS, Affine) and not has_hooks(layer)
    if isinstance(call, torch._ops.OpOverload):
        returned = (value.alias_info for value in call._schema.returns)
        return not call._schema.is_mutable and not any(returned)
    return user.op == "call_function" and call in _CALLS
