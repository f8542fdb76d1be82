"""Convolutions of a traced network that feed each other, put into chains.

A chain (`WinogradChain`) is computed for a few images at a time, so that what lies between its
convolutions stays in the cache and one call does for all of them.
"""

from typing import cast

from torch import fx

from dualsmooth.engine.samplers.fusion.patterns import replace_by_module
from dualsmooth.kernels.cpu.winograd_conv import WinogradChain, WinogradConv


def chain_convolutions(traced: fx.GraphModule) -> None:
    """Put every run of convolutions of which only the last is read elsewhere into one call."""
    run: list[fx.Node] = []
    runs = [run]
    for node in traced.graph.nodes:
        if node.op != "call_module" or type(_layer(traced, node)) is not WinogradConv:
            continue
        if run and node.args[0] is not run[-1]:
            run = []
            runs.append(run)
        run.append(node)
    for part in [part for run in runs for part in _closed(run)]:
        _chain(traced, part)
    traced.delete_all_unused_submodules()
    traced.recompile()


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
    layers = [cast(WinogradConv, _layer(traced, node)) for node in run]
    chain = WinogradChain(layers, wiring, inputs=len(inputs))
    replace_by_module(traced, run[0], run[-1], chain, tuple(inputs))
    for node in reversed(run[:-1]):
        traced.graph.erase_node(node)


def _layer(traced: fx.GraphModule, node: fx.Node) -> object:
    return traced.get_submodule(str(node.target))
