"""The first convolution of a network, with the preprocessing before it, taken out of its graph.

Noise, preprocessing and that convolution then are our own kernels (`dualsmooth.kernels.stem`); a
library runs the rest.
"""

import math
import operator
from dataclasses import dataclass

import torch
from torch import fx, nn

from dualsmooth.engine.models.capture import has_hooks, is_captured
from dualsmooth.engine.models.normalize import Normalize
from dualsmooth.engine.samplers.fusion.patterns import (
    following_relu,
    layer_of,
    only_user,
    pooling_of,
)
from dualsmooth.kernels.folding import FoldedStem, fold_stem

_ATEN = torch.ops.aten
_CALLS = {
    **dict.fromkeys((operator.sub, torch.sub, _ATEN.sub.Tensor), "-"),
    **dict.fromkeys((operator.truediv, torch.div, _ATEN.div.Tensor), "/"),
    **dict.fromkeys((operator.add, torch.add, _ATEN.add.Tensor), "+"),
    **dict.fromkeys((operator.mul, torch.mul, _ATEN.mul.Tensor), "*"),
}


@dataclass(frozen=True, slots=True)
class Stemmed:
    """A network as its stem and what takes the stem's activations.

    ``pool`` is the size of a max pooling of stride 2 behind the stem, or 0: what a kernel has.
    """

    stem: FoldedStem
    stride: int
    relu: bool
    pool: int
    rest: fx.GraphModule


KERNELS = (
    "networks that begin with sums and products with constants, and a square convolution of 1, 3 or"
    " 4 channels, of one stride, with zeros of at most half its size around"
)
"""What our kernels have."""


def take_stem(network: nn.Module, dtype: torch.dtype, pools: bool = False) -> Stemmed | str:
    """The parts of a captured network in float32, the stem's weights rounded to ``dtype``.

    A word on how it begins instead, unless that is `KERNELS`. With ``pools`` the stem takes a max
    pooling behind it. The network is changed.
    """
    if not is_captured(network):
        return "its graph cannot be captured"
    source, *others = network.graph.find_nodes(op="placeholder")
    mean, std = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    node = only_user(source)
    while node is not None and (found := _preprocessing(network, node)) is not None:
        mean, std = mean + std * found[0], std * found[1]
        node = only_user(node)
    layer = layer_of(network, node)
    if others or node is None:
        return "it reads its images more than once"
    if not isinstance(layer, nn.Conv2d) or not _fits(layer):
        return f"it begins with {layer or node.target}"
    channels, device = layer.in_channels, layer.weight.device
    mean, std = (v.float().expand(channels).contiguous().to(device) for v in (mean, std))
    if not bool(((std > 0) & (std + mean.abs() < math.inf)).all()):
        return f"it divides its images by {std.tolist()}"
    bias = torch.zeros(layer.out_channels, device=device)
    if layer.bias is not None:
        bias = layer.bias.detach().clone()
    weight = layer.weight.detach().permute(2, 3, 1, 0).contiguous()
    stem = fold_stem(weight, bias, mean, std, dtype=dtype, padding=int(layer.padding[0]))
    last, relu = following_relu(network, node)
    pool = _pooling(network, only_user(last)) if pools else 0
    last = next(iter(last.users)) if pool else last
    _begin_behind(network, source, last)
    return Stemmed(stem, layer.stride[0], relu, pool, network)


def _pooling(network: fx.GraphModule, node: fx.Node | None) -> int:
    """Size of a max pooling that the kernels have: 2, or 3 with padding 1; 0 for anything else."""
    found = pooling_of(network, node)
    return next((k for k in (2, 3) if found == [(k,) * 2, (2, 2), (k // 3,) * 2, (1, 1)]), 0)


def _preprocessing(network: fx.GraphModule, node: fx.Node) -> tuple[torch.Tensor, ...] | None:
    """What a node subtracts and then divides by, float64, one value or one per channel."""
    layer, none = layer_of(network, node), torch.zeros(1, dtype=torch.float64)
    if type(layer) is Normalize and not has_hooks(layer):
        return layer.mean.double().cpu().flatten(), layer.std.double().cpu().flatten()
    if type(layer) is nn.Identity and not has_hooks(layer):
        return none, none + 1
    call = _CALLS.get(node.target) if node.op == "call_function" and not node.kwargs else None
    if call is None or len(node.args) != 2:
        return None
    value = _constant(network, node.args[1])
    if value is None and call in "+*":
        value = _constant(network, node.args[0])
    if value is None:
        return None
    if call in "+-":
        return (value if call == "-" else -value), none + 1
    return none, (value if call == "/" else 1 / value)


def _constant(network: fx.GraphModule, argument: object) -> torch.Tensor | None:
    """A number, or a tensor of the network with one value or one per channel: float64, flat."""
    if isinstance(argument, int | float):
        return torch.tensor([float(argument)], dtype=torch.float64)
    if not isinstance(argument, fx.Node) or argument.op != "get_attr":
        return None
    value: torch.Tensor = operator.attrgetter(str(argument.target))(network)
    per_channel = value.ndim == 4 and value.numel() == value.shape[1]
    return value.detach().double().cpu().flatten() if per_channel or value.ndim == 0 else None


def _fits(layer: nn.Conv2d) -> bool:
    kernel, stride, padding = layer.kernel_size, layer.stride, layer.padding
    return (
        type(layer) is nn.Conv2d
        and not has_hooks(layer)
        and (layer.in_channels, layer.groups) in ((1, 1), (3, 1), (4, 1))
        and kernel[0] == kernel[1]
        and stride[0] == stride[1]
        and not isinstance(padding, str)
        and padding[0] == padding[1] <= kernel[0] // 2
        and layer.padding_mode == "zeros"
        and layer.dilation == (1, 1)
    )


def _begin_behind(network: fx.GraphModule, source: fx.Node, last: fx.Node) -> None:
    """Make a graph take what a node gave, and drop what led to it."""
    with network.graph.inserting_before(source):
        begin = network.graph.placeholder("activations")
    begin.meta = dict(last.meta)
    last.replace_all_uses_with(begin)
    node = last
    while node is not source:
        before = node.all_input_nodes
        network.graph.erase_node(node)
        node = next(n for n in before if n is source or n.op != "get_attr")
    network.graph.erase_node(source)
    network.graph.eliminate_dead_code()
    network.delete_all_unused_submodules()
    network.recompile()
