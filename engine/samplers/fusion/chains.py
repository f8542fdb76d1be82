"""Convolutions of a traced network that feed each other, put into chains, and linear layers.

A chain (`WinogradChain`, `DirectChain`) is computed for a few images at a time, so that what lies
between its convolutions stays in the cache and one call does for all of them.
"""

from typing import cast

from torch import fx, nn

from dualsmooth.engine.samplers.fusion.patterns import layer_of, replace_by_module
from dualsmooth.kernels.cpu.direct_conv import DirectChain, DirectConv
from dualsmooth.kernels.cpu.linear import LinearChain
from dualsmooth.kernels.cpu.winograd_conv import WinogradChain, WinogradConv


def chain_layers(traced: fx.GraphModule) -> None:
    """Put every run of layers of a kind of which only the last is read elsewhere into one call."""
    for part in [part for run in _runs(traced, WinogradConv) for part in _closed(run)]:
        _chain(traced, part)
    for part in [part for run in _runs(traced, DirectConv) for part in _closed(run)]:
        layers = [cast(DirectConv, layer_of(traced, node)) for node in part]
        _replace(traced, part, DirectChain(layers), part[0].all_input_nodes)
    for part in [part for run in _runs(traced, LinearChain) for part in _closed(run)]:
        lines = [cast(LinearChain, layer_of(traced, node)).layers for node in part]
        linear = LinearChain([layer for layers in lines for layer in layers])
        _replace(traced, part, linear, part[0].all_input_nodes)
    traced.delete_all_unused_submodules()


def _runs(traced: fx.GraphModule, kind: type) -> list[list[fx.Node]]:
    """Layers of a kind that stand in a row, each reading the one before."""
    run: list[fx.Node] = []
    runs = [run]
    for node in traced.graph.nodes:
        if type(layer_of(traced, node)) is not kind:
            continue
        if run and node.args[0] is not run[-1]:
            run = []
            runs.append(run)
        run.append(node)
    return runs


def _closed(run: list[fx.Node]) -> list[list[fx.Node]]:
    """A run cut wherever a result is read outside of it; parts of one need no chain."""
    for cut, node in enumerate(run[:-1], start=1):
        if not set(node.users) <= set(run):
            return [*_closed(run[:cut]), *_closed(run[cut:])]
    return [run] if len(run) > 1 else []


def _chain(traced: fx.GraphModule, run: list[fx.Node]) -> None:
    read = [arg for node in run for arg in node.all_input_nodes if arg not in run]
    inputs = list(dict.fromkeys(read))
    numbers = {node: number for number, node in enumerate([*inputs, *run])}
    wiring = []
    for node in run:
        source, *shortcut = (numbers[cast(fx.Node, arg)] for arg in node.args)
        wiring.append((source, shortcut[0] if shortcut else None))
    layers = [cast(WinogradConv, layer_of(traced, node)) for node in run]
    _replace(traced, run, WinogradChain(layers, wiring, inputs=len(inputs)), inputs)


def _replace(
    traced: fx.GraphModule, run: list[fx.Node], chain: nn.Module, inputs: list[fx.Node]
) -> None:
    replace_by_module(traced, run[0], run[-1], chain, tuple(inputs))
    for node in reversed(run[:-1]):
        traced.graph.erase_node(node)
