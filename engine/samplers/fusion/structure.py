"""A captured network read as convolutions and what follows them, which int8 networks consist of."""

from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import torch
from torch import fx, nn

from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.models.capture import has_hooks
from dualsmooth.engine.models.normalize import Normalize
from dualsmooth.engine.samplers.fusion.patterns import (
    flattens,
    following_relu,
    following_sum,
    pooling_of,
    shape_of,
)

_ATEN = torch.ops.aten
_MEANS = ("mean", _ATEN.mean.dim)

IMAGE = 0
"""Number of the map that the quantized image is."""


@dataclass(frozen=True, slots=True)
class Part:
    """A map and how it is made: by a convolution, or without a weight by a maximum of windows.

    ``last`` gives its values in the float32 network; a negative value is cut off where ``relu``.
    """

    last: fx.Node
    read: int
    added: int | None
    kernel: tuple[int, int]
    stride: int
    padding: tuple[int, int]
    relu: bool
    weight: torch.Tensor | None = None
    bias: torch.Tensor | None = None

    @property
    def text(self) -> str:
        """The step as `dualsmooth.engine.models.int8` reads it."""
        (height, width), (above, left) = self.kernel, self.padding
        kind = "max" if self.weight is None else len(self.weight)
        window = f"{kind} {height}x{width} stride {self.stride} pad {above}x{left} of {self.read}"
        return window if self.added is None else f"{window} plus {self.added}"


@dataclass(slots=True)
class Structure:
    """The parts of a network whose batch norm is folded, in order, and its last layer.

    `ArgumentError` names the first layer that has no place in it.
    """

    traced: fx.GraphModule
    role: str
    parts: list[Part] = field(default_factory=list)
    normalize: tuple[torch.Tensor, torch.Tensor] | None = None
    pooled: bool = False
    _maps: dict[fx.Node, int] = field(default_factory=dict)
    _flat: dict[fx.Node, int] = field(default_factory=dict)
    _taken: set[fx.Node] = field(default_factory=set)
    _head: fx.Node | None = None

    def read(self) -> "Structure":
        """Read the graph, whose nodes have shapes."""
        for node in self.traced.graph.nodes:
            if node not in self._taken and node.op not in ("output", "get_attr"):
                self._read(node)
        (answer,) = self.traced.graph.find_nodes(op="output")
        if self._head is None or answer.args[0] is not self._head:
            raise self._refused(answer.args[0], "a linear layer must give the logits")
        return self

    @property
    def head(self) -> nn.Linear:
        """The layer that gives the logits."""
        assert self._head is not None
        layer = self._layer(self._head)
        assert isinstance(layer, nn.Linear)
        return layer

    def _read(self, node: fx.Node) -> None:
        layer, source = self._layer(node), _source(node)
        if node.op == "placeholder":
            self._maps[node] = IMAGE
        elif layer is not None and has_hooks(layer):
            raise self._refused(node, "a hook")
        elif type(layer) is nn.Identity:
            self._same(node, source)
        elif self._maps.get(source) == IMAGE and self._normalizes(node, layer):
            if len(source.users) > 1:
                raise self._refused(node, "beside a reader of the image as it is")
            self._maps[node] = IMAGE
        elif type(layer) is nn.Conv2d and source in self._maps:
            self._convolution(node, layer)
        elif type(layer) is nn.MaxPool2d and source in self._maps:
            self._maximum(node)
        elif flattens(self.traced, node) and source in self._maps:
            self._flat[node] = self._maps[source]
        elif node.target in _MEANS and source in self._maps and _pixels(node.args[1:]):
            self.pooled, self._flat[node] = True, self._maps[source]
        elif type(layer) is nn.Linear and source in self._flat:
            self._linear(node, layer)
        else:
            raise self._refused(node, "")

    def _normalizes(self, node: fx.Node, layer: nn.Module | None) -> bool:
        """Whether a node is a part of normalization; mean and std are then known up to it."""
        zero, one = torch.zeros(1), torch.ones(1)
        mean, std = (zero, one) if self.normalize is None else self.normalize
        if type(layer) is Normalize and self.normalize is None:
            self.normalize = layer.mean.flatten(), layer.std.flatten()
            return True
        constant = node.args[1] if len(node.args) == 2 and not node.kwargs else None
        if not isinstance(constant, fx.Node) or constant.op != "get_attr":
            return False
        value: torch.Tensor = attrgetter(str(constant.target))(self.traced)
        if value.numel() != value.shape[-3 if value.ndim > 2 else 0] or self.parts:
            return False
        if node.target is _ATEN.sub.Tensor and self.normalize is None:
            self.normalize = value.flatten(), std
        elif node.target is _ATEN.div.Tensor and torch.equal(std, one):
            self.normalize = mean, value.flatten()
        else:
            return False
        return True

    def _same(self, node: fx.Node, source: fx.Node) -> None:
        for known in (self._maps, self._flat):
            if source in known:
                known[node] = known[source]

    def _convolution(self, node: fx.Node, layer: nn.Conv2d) -> None:
        plain = layer.groups == 1 and layer.dilation == (1, 1) and layer.padding_mode == "zeros"
        if not plain or isinstance(layer.padding, str) or len(set(layer.stride)) != 1:
            raise self._refused(node, "groups, dilation, unequal strides or special padding")
        kernel, padding = (*layer.kernel_size,), (*layer.padding,)
        window = ((kernel[0], kernel[1]), layer.stride[0], (padding[0], padding[1]))
        bias = None if layer.bias is None else layer.bias.detach()
        self._product(node, self._maps[_source(node)], window, layer.weight.detach(), bias)

    def _linear(self, node: fx.Node, layer: nn.Linear) -> None:
        """The last layer, or a convolution whose kernel is a whole map."""
        if any(user.op == "output" for user in node.users):
            self._head = node
            return
        if self.pooled:
            raise self._refused(node, "a hidden layer behind a mean")
        number = self._flat[_source(node)]
        last = self.parts[number - 1].last if number else None
        height, width = shape_of(last)[2:] if last and len(shape_of(last)) == 4 else (1, 1)
        weight = layer.weight.detach().view(layer.out_features, -1, height, width)
        bias = None if layer.bias is None else layer.bias.detach()
        self._product(node, number, ((height, width), 1, (0, 0)), weight, bias)
        self._flat[self.parts[-1].last] = self._maps.pop(self.parts[-1].last)

    def _product(
        self,
        node: fx.Node,
        read: int,
        window: tuple[tuple[int, int], int, tuple[int, int]],
        weight: torch.Tensor,
        bias: torch.Tensor | None,
    ) -> None:
        total, other = following_sum(node) or (node, None)
        added = self._maps.get(other) if other else None
        if added is None:
            total = node  # the other summand is made later, and takes this one up
        last, relu = following_relu(self.traced, total)
        self._taken |= {total, last}
        self._add(Part(last, read, added, *window, relu, weight, bias))

    def _maximum(self, node: fx.Node) -> None:
        sizes, number = pooling_of(self.traced, node), self._maps[_source(node)]
        below = number != IMAGE and not self.parts[number - 1].relu
        if not sizes or sizes[3] != (1, 1) or (max(sizes[2]) and (below or number == IMAGE)):
            raise self._refused(node, "padding of maps with negative values, or ceil mode")
        if sizes[1][0] != sizes[1][1]:
            raise self._refused(node, "unequal strides")
        self._add(Part(node, number, None, sizes[0], sizes[1][0], sizes[2], not below))

    def _add(self, part: Part) -> None:
        self.parts.append(part)
        self._maps[part.last] = len(self.parts)

    def _layer(self, node: fx.Node) -> nn.Module | None:
        return self.traced.get_submodule(str(node.target)) if node.op == "call_module" else None

    def _refused(self, node: object, why: str) -> ArgumentError:
        name = getattr(node, "target", node)
        layer = self._layer(node) if isinstance(node, fx.Node) else None
        kind = type(layer).__name__ if layer is not None else getattr(name, "__name__", "")
        said = " ".join(filter(None, [f"layer {name}", f"({kind})" if kind else "", why]))
        rule = "must consist of convolutions, sums with them, ReLU, maxima and linear layers"
        return ArgumentError(f"network {self.role}", rule, said, "certify it in float32")


def _source(node: fx.Node) -> fx.Node:
    """What a node reads first; itself if it reads nothing."""
    first = node.args[0] if node.args else node
    return first if isinstance(first, fx.Node) else node


def _pixels(arguments: Any) -> bool:
    """Whether a mean is over height and width, and nothing is kept of them."""
    return len(arguments) == 1 and list(arguments[0]) == [2, 3]
