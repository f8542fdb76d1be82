"""Convolutions and linear layers fused with what follows them, through oneDNN's own operators.

oneDNN applies bias, the sum with a shortcut and the ReLU while a tile of the output is still in
registers, and keeps weights in the layout its kernels read. PyTorch's compiler emits these
operators; here they are put in by hand, so no C++ compiler is needed and nothing is compiled while
a run waits. Convolutions of few channels, and 3x3 ones of many, go to loops of our own.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from dualsmooth.engine.models.capture import is_captured
from dualsmooth.engine.models.int8 import Int8Layers
from dualsmooth.engine.models.normalize import Normalize
from dualsmooth.engine.samplers.fusion.chains import chain_layers
from dualsmooth.engine.samplers.fusion.direct import fuse_direct, is_direct
from dualsmooth.engine.samplers.fusion.patterns import (
    flattens,
    following_relu,
    layer_of,
    replace,
    replace_by_module,
    rewrite,
    shape_of,
    tail_of,
)
from dualsmooth.kernels.cpu import direct_conv, int8_conv, linear, winograd_conv

_POINTWISE = torch.ops.mkldnn._convolution_pointwise
_IN_PLACE = torch.ops.mkldnn._convolution_pointwise_.binary

_LOOPS = (
    direct_conv.DirectConv,
    direct_conv.DirectChain,
    winograd_conv.WinogradConv,
    winograd_conv.WinogradChain,
)
_ATEN = torch.ops.aten
_BESIDE = {
    *(nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Flatten, nn.Identity, Normalize),
    *(_ATEN.mean.dim, _ATEN._adaptive_avg_pool2d.default, _ATEN.sub.Tensor, _ATEN.div.Tensor),
    *(torch.ops.mkldnn._linear_pointwise.default, linear.LinearChain),
    *(torch.flatten, "flatten", "permute", "mean"),
}
"""Normalization, poolings and last layers."""


def fuse_for_cpu(module: nn.Module, example: torch.Tensor) -> nn.Module:
    """A network for one batch shape and dtype, with fewer passes over memory.

    The result agrees with the network up to rounding, and row by row does not depend on the other
    rows. The network is in eval mode with batch norm folded; the example is a batch like those it
    will get: shape, dtype, memory layout and values. The network itself is returned if it cannot be
    captured, or oneDNN is missing or has no bfloat16 on this processor.
    """
    narrow = example.dtype == torch.bfloat16
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return module
    if narrow and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return module
    fused = rewrite(module, example, _fuse_layer)
    if isinstance(fused, fx.GraphModule):
        chain_layers(fused)
        _add_in_place(fused)
        fused.recompile()
    return fused


def is_whole(fused: nn.Module) -> bool:
    """Whether nothing but fused convolutions and poolings touches maps, as in VGG and ResNets.

    OpenVINO calls the same convolutions, so it finds nothing there to be faster by.
    """
    return is_captured(fused) and all(_is_whole(fused, node) for node in fused.graph.nodes)


def _is_whole(traced: fx.GraphModule, node: fx.Node) -> bool:
    if node.target in (_POINTWISE.default, _POINTWISE.binary, _IN_PLACE):
        return next(arg for arg in node.args if type(arg) is int) == 1  # groups
    kind = type(layer_of(traced, node)) if node.op == "call_module" else node.target
    return node.op in ("placeholder", "get_attr", "output") or kind in (*_LOOPS, *_BESIDE)


def _add_in_place(traced: fx.GraphModule) -> None:
    """Let convolutions write sums over what they add where nothing reads that again.

    Only results of convolutions are written over, and only where nothing may be a view of them.
    """
    order = {node: number for number, node in enumerate(traced.graph.nodes)}
    for node in traced.graph.nodes:
        if node.target is not _POINTWISE.binary:
            continue
        source, other, *rest = node.args
        last = max(other.users, key=order.__getitem__) is node and source is not other
        if last and all(_is_convolution(traced, made) for made in (other, *other.users)):
            node.target, node.args = _IN_PLACE, (other, source, *rest)


def _is_convolution(traced: fx.GraphModule, node: fx.Node) -> bool:
    layer = layer_of(traced, node)
    return (
        node.target in (_POINTWISE.default, _POINTWISE.binary, _IN_PLACE) or type(layer) in _LOOPS
    )


def _fuse_layer(traced: fx.GraphModule, node: fx.Node, layer: nn.Module) -> None:
    if isinstance(layer, Int8Layers):
        _fuse_integers(traced, node, layer)
    elif type(layer) is nn.Linear and len(shape_of(node.args[0])) == 2:
        _fuse_linear(traced, node, layer)
    elif type(layer) is nn.Conv2d and _is_winograd(node, layer):
        _fuse_winograd(traced, node, layer)
    elif type(layer) is nn.Conv2d and is_direct(traced, node, layer):
        fuse_direct(traced, node, layer)
    elif type(layer) is nn.Conv2d:
        _fuse_convolution(traced, node, layer)


def _fuse_integers(traced: fx.GraphModule, node: fx.Node, layer: Int8Layers) -> None:
    shape = shape_of(node.args[0])
    if int8_conv.available() and len(shape) == 4:
        steps = [part.as_step() for part in layer.parts()]
        chain = int8_conv.Int8Chain(steps, layer.ends(), (*shape[2:], shape[1]))
        replace_by_module(traced, node, node, chain, (node.args[0],))


def _fuse_linear(traced: fx.GraphModule, node: fx.Node, layer: nn.Linear) -> None:
    last, relu = following_relu(traced, node)
    source, weight = node.args[0], layer.weight.detach()
    maps = _flattened(traced, source)
    if maps is not None:
        _, channels, height, width = shape_of(maps)
        weight = weight.view(-1, channels, height, width).permute(0, 2, 3, 1).flatten(1)
        with traced.graph.inserting_before(node):
            pixels = traced.graph.call_method("permute", (maps, 0, 2, 3, 1))
            source = traced.graph.call_method("flatten", (pixels, 1))
    few = weight.shape[1] <= linear.MOST_INPUTS and weight.dtype == torch.float32
    if few and linear.available():
        own = linear.LinearChain([linear.Linear(weight, layer.bias, relu)])
        replace_by_module(traced, node, last, own, (source,))
        return
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, shape_of(node.args[0])[0])
    call = torch.ops.mkldnn._linear_pointwise.default
    options: tuple[Any, ...] = (_attribute(relu), [], "")
    replace(traced, node, last, call, (source,), packed, layer.bias, options)


def _flattened(traced: fx.GraphModule, node: Any) -> fx.Node | None:
    """The maps that a node flattens; convolutions leave them channels-last, so that would copy."""
    source = node.args[0] if flattens(traced, node) else None
    return source if isinstance(source, fx.Node) and len(shape_of(source)) == 4 else None


def _is_winograd(node: fx.Node, layer: nn.Conv2d) -> bool:
    """Whether our loops for many channels take a convolution, and save products."""
    plain = layer.groups == 1 and layer.dilation == (1, 1) and layer.stride == (1, 1)
    step = winograd_conv.CHANNELS
    full = layer.in_channels % step == 0 and layer.out_channels % step == 0
    single = layer.kernel_size == (3, 3) and layer.weight.dtype == torch.float32
    saves = winograd_conv.saves_products(*shape_of(node)[2:])
    return plain and full and single and saves and winograd_conv.available()


def _fuse_winograd(traced: fx.GraphModule, node: fx.Node, layer: nn.Conv2d) -> None:
    assert not isinstance(layer.padding, str)  # the layer is plain
    _, other, last, relu = tail_of(traced, node)
    fused = winograd_conv.WinogradConv(
        layer.weight, layer.bias, padding=(layer.padding[0], layer.padding[1]), relu=relu
    )
    others = () if other is None else (other,)
    replace_by_module(traced, node, last, fused, (node.args[0], *others))


def _fuse_convolution(traced: fx.GraphModule, node: fx.Node, layer: nn.Conv2d) -> None:
    weight = _packed_convolution(layer, shape_of(node.args[0]))
    total, other, last, relu = tail_of(traced, node)
    call, inputs = _POINTWISE.default, node.args[:1]
    unary: tuple[Any, ...] = (_attribute(relu), [], "")
    if other is not None:
        call, inputs = _POINTWISE.binary, (node.args[0], other)
        unary = ("add", 1, *(("relu", [], "") if relu else (None, [], None)))
    options = (*_geometry(layer), *unary)
    replace(traced, total, last, call, inputs, weight, layer.bias, options)


def _attribute(relu: bool) -> str:
    return "relu" if relu else "none"


def _packed_convolution(layer: nn.Conv2d, source: tuple[int, ...]) -> torch.Tensor:
    reorder: Callable[..., torch.Tensor] = torch._C._nn.mkldnn_reorder_conv2d_weight
    return reorder(layer.weight.detach().to_mkldnn(), *_geometry(layer), list(source))


def _geometry(layer: nn.Conv2d) -> tuple[Any, ...]:
    return list(layer.padding), list(layer.stride), list(layer.dilation), layer.groups
