"""Layers made again of operators, as the passes that fold and fuse a network know them."""

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx, nn

_ATEN = torch.ops.aten


class Layers:
    """Rewrites a graph of operators as one of layers, which hold the tensors they read."""

    def __init__(self, lifted: nn.Module, graph: fx.Graph) -> None:
        self._lifted, self._operators, self._graph = lifted, graph, fx.Graph()
        self._made: dict[fx.Node, Any] = {}

    def graph_module(self) -> fx.GraphModule:
        for node in self._operators.nodes:
            if node.op == "call_module":  # the guards of the export; what they ask is proved later
                continue
            if node.op == "output":
                self._graph.output(self._made[node.args[0][0]])
                continue
            made = self._layer(node) or self._call(node)
            if made is None:
                made = self._graph.node_copy(node, self._made.__getitem__)
            made.meta = {"shape": tuple(getattr(node.meta.get("val"), "shape", ()))}
            self._made[node] = made
        whole = fx.GraphModule(self._lifted, self._graph)
        if whole.graph.eliminate_dead_code():
            whole.recompile()
        return whole

    def _layer(self, node: fx.Node) -> fx.Node | None:
        """The layer that an operator with tensors of the network is, if it is one."""
        args = arguments_of(node.target, node.args, node.kwargs)
        if node.target is _ATEN.conv2d.default and all(map(self._is_constant, args[1:3])):
            weight, bias, geometry = self._tensor(args[1]), self._tensor(args[2]), args[3:]
            stride, padding, dilation = ((*sizes, *sizes)[:2] for sizes in geometry[:3])
            groups, (outputs, inputs, height, width) = geometry[3], weight.shape
            window = ((height, width), stride, padding, dilation, groups, bias is not None)
            layer: nn.Module = nn.Conv2d(inputs * groups, outputs, *window, device="meta")
            tensors = {"weight": weight, "bias": bias}
        elif node.target is _ATEN.linear.default and all(map(self._is_constant, args[1:3])):
            weight, bias = self._tensor(args[1]), self._tensor(args[2])
            layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
            tensors = {"weight": weight, "bias": bias}
        elif node.target is _ATEN.batch_norm.default and self._is_fixed_norm(args):
            names = ("weight", "bias", "running_mean", "running_var")
            tensors = {name: self._tensor(a) for name, a in zip(names, args[1:5], strict=True)}
            affine, count = tensors["weight"] is not None, len(tensors["running_mean"])
            layer = nn.BatchNorm2d(count, args[7], affine=affine, device="meta")
            layer.num_batches_tracked = torch.zeros((), dtype=torch.long)
        elif node.target is _ATEN.max_pool2d.default:
            kernel, stride, padding, dilation, ceil = args[1:]
            layer = nn.MaxPool2d(kernel, stride or kernel, padding, dilation, ceil_mode=ceil)
            tensors = {}
        else:
            return None
        for name, tensor in tensors.items():
            parameter = name in ("weight", "bias") and tensor is not None
            value = nn.Parameter(tensor.detach(), requires_grad=False) if parameter else tensor
            setattr(layer, name, value)
        self._lifted.add_module(f"layer_{node.name}", layer.eval())
        return self._graph.call_module(f"layer_{node.name}", (self._made[args[0]],))

    def _call(self, node: fx.Node) -> fx.Node | None:
        """The function that the fusing passes know an operator by, if they know it."""
        args, source = node.args, node.args[0] if node.args else None
        alone = isinstance(source, fx.Node) and len(source.users) == 1 and bool(node.users)
        shape = tuple(getattr(node.meta.get("val"), "shape", ()))
        calls: dict[Any, Any] = {_ATEN.relu.default: torch.relu, _ATEN.add.Tensor: torch.add}
        if alone:
            calls |= {_ATEN.relu_.default: torch.relu_, _ATEN.add_.Tensor: operator.iadd}
        call = calls.get(node.target)
        if node.target in (_ATEN.view.default, _ATEN.reshape.default, _ATEN.flatten.using_ints):
            assert isinstance(source, fx.Node)
            before = source.meta["val"].shape
            flat = len(before) == 4 and shape == (before[0], before[1:].numel())
            call, args = (torch.flatten, (source, 1)) if flat else (torch.reshape, (source, shape))
        if call is None or node.kwargs:
            return None
        return self._graph.call_function(call, fx.map_arg(args, self._made.__getitem__))

    def _is_fixed_norm(self, args: tuple[Any, ...]) -> bool:
        image = len(args[0].meta["val"].shape) == 4
        pairs = (args[1] is None) == (args[2] is None) and None not in args[3:5]
        return image and pairs and not args[5] and all(map(self._is_constant, args[1:5]))

    def _is_constant(self, argument: Any) -> bool:
        return argument is None or (isinstance(argument, fx.Node) and argument.op == "get_attr")

    def _tensor(self, argument: fx.Node | None) -> Any:
        return None if argument is None else operator.attrgetter(str(argument.target))(self._lifted)


def arguments_of(target: Any, args: tuple[Any, ...], options: Mapping[str, Any]) -> tuple[Any, ...]:
    """All arguments of an operator in the order of its schema."""
    if not isinstance(target, torch._ops.OpOverload):
        return args
    further = target._schema.arguments[len(args) :]
    return (*args, *(options.get(a.name, a.default_value) for a in further))
