"""Convolutions of a network given to kernels of our own, where a device runs those faster.

A letter says which kernel each kind of convolution gets, in the order in which the network meets
the kinds. Letters decide votes, so they are part of a backend's name: whoever names them gets
these kernels, and nothing is timed.
"""

import operator
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import fx, nn

from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.models.capture import has_hooks
from dualsmooth.engine.samplers.fusion.cudnn import ADD_RELU, RELU
from dualsmooth.engine.samplers.fusion.kernels import FREE, KERNELS, Convolution, Ours
from dualsmooth.engine.samplers.fusion.patterns import layer_of, replace_by_module, shape_of

CUDNN = "c"
MARGIN = 0.03
"""Share of cuDNN's time that a kernel of ours must save to be taken."""

MOST = 24
"""Kinds in a contest: those that move the most memory. A kernel is compiled for each."""

Race: TypeAlias = Callable[[Mapping[str, Callable[[], None]]], Mapping[str, float]]
"""Seconds of each of some calls, timed in turns."""


def picked(network: nn.Module, picks: str, race: Race, every: bool) -> tuple[nn.Module, str]:
    """A network with the kernels that letters name, and the letters; it is changed.

    Without letters a race chooses among the kernels that are free, or ``every`` one.
    """
    rule, name = "must not be picked for this network", type(network).__name__
    if not isinstance(network, fx.GraphModule):
        raise ArgumentError("backend", rule, name, "its graph cannot be captured: use cudnn")
    kinds: dict[Convolution, list[fx.Node]] = {}
    for node in network.graph.nodes:
        if (kind := _kind(network, node)) is not None:
            kinds.setdefault(kind, []).append(node)
    able = {kind: [k for k in KERNELS if KERNELS[k].fits(kind)] for kind in kinds}
    if not any(able.values()):
        raise ArgumentError("backend", rule, name, "no convolution fits our kernels: use cudnn")
    picks = picks or _chosen(network, kinds, able, race, every)
    fit = all(k in (CUDNN, *names) for k, names in zip(picks, able.values(), strict=False))
    if len(picks) != len(kinds) or not fit:
        wanted = " ".join("".join((CUDNN, *names)) for names in able.values())
        rule = f"must name {len(kinds)} kernels for this network, one of each of {wanted}"
        raise ArgumentError("backend", rule, picks, "use picked to have them chosen")
    for letter, (kind, nodes) in zip(picks, kinds.items(), strict=True):
        for node in nodes if letter != CUDNN else ():
            layer = _ours(network, node, kind, letter)
            replace_by_module(network, node, node, layer, _inputs(node))
    network.graph.eliminate_dead_code()
    network.delete_all_unused_submodules()
    network.recompile()
    return network, picks


def _chosen(
    network: fx.GraphModule,
    kinds: dict[Convolution, list[fx.Node]],
    able: dict[Convolution, list[str]],
    race: Race,
    every: bool,
) -> str:
    """Letters of the fastest kernels; cuDNN keeps what moves least, beyond MOST."""
    moved = {kind: kind.moved * len(nodes) for kind, nodes in kinds.items() if able[kind]}
    contested = sorted(moved, key=moved.__getitem__, reverse=True)[:MOST]
    found = ""
    for kind, nodes in kinds.items():
        letters = [k for k in able[kind] if kind in contested and (every or k in FREE)]
        found += _fastest(network, nodes[0], kind, letters, race) if letters else CUDNN
    return found


def _fastest(
    network: fx.GraphModule, node: fx.Node, kind: Convolution, names: list[str], race: Race
) -> str:
    """cuDNN's letter, or that of a kernel that is faster by MARGIN at a full batch."""
    weight, rows = _parameters(network, node)[0], shape_of(node)[0]
    shapes = (*kind.size, kind.inputs), (*kind.outsize, kind.outputs)
    draws = torch.Generator(weight.device).manual_seed(0)
    options: Any = dict(generator=draws, dtype=weight.dtype, device=weight.device)
    given = [
        torch.randn(rows, *shape, **options).permute(0, 3, 1, 2)
        for shape in shapes[: len(_inputs(node))]
    ]
    calls = {CUDNN: _call(partial(_as_it_is, network, node), given)}
    calls[CUDNN]()
    for name in names:
        try:
            calls[name] = _call(_ours(network, node, kind, name), given)
            calls[name]()
        except Exception:  # a kernel that a device has no room for takes no part
            calls.pop(name, None)
    times = race(calls) if len(calls) > 1 else {CUDNN: 0.0}
    best = min(times, key=times.__getitem__)
    return best if times[best] < (1 - MARGIN) * times[CUDNN] else CUDNN


def _call(run: Callable[..., torch.Tensor], given: list[torch.Tensor]) -> Callable[[], None]:
    def call() -> None:
        with torch.no_grad():
            run(*given)

    return call


def _as_it_is(network: fx.GraphModule, node: fx.Node, *given: torch.Tensor) -> torch.Tensor:
    """What a node computes of other inputs."""
    values = dict(zip(_inputs(node), given, strict=True))
    arguments = fx.node.map_arg(
        node.args, lambda n: values[n] if n in values else _value(network, n)
    )
    run = network.get_submodule(node.target) if isinstance(node.target, str) else node.target
    result: torch.Tensor = run(*arguments)
    return result


def _ours(network: fx.GraphModule, node: fx.Node, kind: Convolution, name: str) -> Ours:
    weight, bias = _parameters(network, node)
    taps = weight.detach().permute(2, 3, 1, 0).contiguous()
    none = torch.zeros(kind.outputs, device=weight.device)
    return Ours(KERNELS[name].make(kind, taps, none if bias is None else bias.detach().float()))


def _kind(network: fx.GraphModule, node: fx.Node) -> Convolution | None:
    """The kind of a node; None if it is no convolution, or one of another geometry."""
    layer = layer_of(network, node)
    if type(layer) is nn.Conv2d and not has_hooks(layer) and layer.padding_mode == "zeros":
        geometry: Any = layer.stride, layer.padding, layer.dilation, layer.groups
    elif node.target in (RELU, ADD_RELU):
        geometry = node.args[-4:]
    else:
        return None
    (outputs, inputs, size, wide), (stride, *_) = _parameters(network, node)[0].shape, geometry[0]
    wanted = (stride,) * 2, (size // 2,) * 2, (1, 1), 1
    found = tuple(n if isinstance(n, int) else tuple(n) for n in geometry)
    if size != wide or size % 2 == 0 or found != wanted:
        return None
    height, width = shape_of(node.args[0])[2:]
    adds, relu = node.target == ADD_RELU, node.op == "call_function"
    return Convolution(inputs, outputs, size, stride, (height, width), adds, relu)


def _inputs(node: fx.Node) -> tuple[fx.Node, ...]:
    """Nodes that give a convolution's activations, and what is added to its sums."""
    places = (0, 2) if node.target == ADD_RELU else (0,)
    return tuple(node.args[at] for at in places)  # type: ignore[misc]


def _parameters(network: fx.GraphModule, node: fx.Node) -> tuple[torch.Tensor, torch.Tensor | None]:
    if node.op == "call_module":
        layer: Any = network.get_submodule(str(node.target))
        return layer.weight, layer.bias
    bias: Any = node.args[4 if node.target == ADD_RELU else 2]
    return _value(network, node.args[1]), None if bias is None else _value(network, bias)


def _value(network: fx.GraphModule, node: Any) -> torch.Tensor:
    value: torch.Tensor = operator.attrgetter(str(node.target))(network)
    return value
