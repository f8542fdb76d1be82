"""Convolutions of a traced network that go to our direct loops, with what stands around them."""

from typing import Any

import torch
from torch import fx, nn

from dualsmooth.engine.models.capture import has_hooks
from dualsmooth.engine.models.normalize import Normalize
from dualsmooth.engine.samplers.fusion.patterns import (
    following_relu,
    following_sum,
    layer_of,
    only_user,
    pooling_of,
    replace_by_module,
    shape_of,
)
from dualsmooth.kernels.cpu import direct_conv

DIRECT_CHANNELS, NEXT_CHANNELS = 16, 32
"""Input channels from which on oneDNN's convolutions fill their vectors and are faster, and up to
which ours are as fast and may read the map of another of ours, which is still in the cache.
"""


def is_direct(traced: fx.GraphModule, node: fx.Node, layer: nn.Conv2d) -> bool:
    """Whether the loops take a convolution and are the faster ones."""
    plain = layer.groups == 1 and layer.dilation == (1, 1) and layer.stride[0] == layer.stride[1]
    plain = plain and layer.weight.dtype == torch.float32 and following_sum(node) is None
    few = layer.in_channels < DIRECT_CHANNELS
    if plain and not few and layer.in_channels <= NEXT_CHANNELS:
        few = direct_conv.fills_tiles(shape_of(node)[3]) and _reads_direct(traced, node)
    return plain and few and direct_conv.available()


def _reads_direct(traced: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a convolution alone reads what another makes that the loops take."""
    source, made = node.args[0], node.args[0]
    while isinstance(made, fx.Node) and made.args:
        layer = layer_of(traced, made)
        if type(layer) is nn.Conv2d:
            alone = isinstance(source, fx.Node) and only_user(source) is node
            return alone and _end(traced, made)[0] is source and is_direct(traced, made, layer)
        made = made.args[0]
    return False


def _end(traced: fx.GraphModule, node: fx.Node) -> tuple[fx.Node, bool, bool]:
    """The last node that one call of the loops replaces; whether with ReLU, and pooling."""
    last, relu = following_relu(traced, node)
    pooled = only_user(last)
    halves = pooling_of(traced, pooled) == [(2, 2), (2, 2), (0, 0), (1, 1)]
    if pooled is not None and halves and min(shape_of(node)[2:]) >= 2:
        return pooled, relu, True
    return last, relu, False


def fuse_direct(traced: fx.GraphModule, node: fx.Node, layer: nn.Conv2d) -> None:
    """Put the loops in place of a convolution and what one call of them does with it."""
    last, relu, pool = _end(traced, node)
    source, normalize = _before_normalization(traced, node)
    assert not isinstance(layer.padding, str)  # the layer is plain
    padding = (layer.padding[0], layer.padding[1])
    direct = direct_conv.DirectConv(
        layer.weight,
        layer.bias,
        stride=layer.stride[0],
        padding=padding,
        relu=relu,
        pool=pool,
        normalize=normalize,
    )
    replace_by_module(traced, node, last, direct, (source,))


def _before_normalization(
    traced: fx.GraphModule, node: fx.Node
) -> tuple[Any, tuple[torch.Tensor, torch.Tensor] | None]:
    """What a convolution reads, or what is normalized for it alone, and then mean and std."""
    source = node.args[0]
    if isinstance(source, fx.Node) and len(source.users) == 1:
        layer = layer_of(traced, source)
        if type(layer) is Normalize and not has_hooks(layer):
            return source.args[0], (layer.mean.flatten(), layer.std.flatten())
    return source, None
