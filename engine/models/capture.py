"""Networks as torch.fx graphs of layers, captured as they run.

A network of somebody else's is captured by `torch.export`, which runs it, hooks and all; operators
become layers again, as the passes that fold and fuse know them. Of networks made of nothing but the
engine's classes and plain layers of PyTorch the code is known, and torch.fx reads it in a fraction
of the time. What cannot be captured is run as it is.
"""

import copy
import gc
import logging
import operator
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from threading import RLock, get_ident
from typing import Any, TypeGuard

import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.modules import module as hooks_of_all
from torch.utils._python_dispatch import TorchDispatchMode

from dualsmooth.engine.models.int8 import Int8Layers
from dualsmooth.engine.models.normalize import Normalize

_BUILT = [f"architectures.{name}" for name in ("ordered", "resnet", "small")]
_OWN = [
    f"dualsmooth.engine.models.{name}"
    for name in ("denoised", "ensemble", "int8", "normalize", *_BUILT)
]
_PLAIN = (
    *(nn.Sequential, nn.ModuleList, nn.Identity, nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.Linear),
    *(nn.Flatten, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d),
)
_CAPTURED = "captured"
_ATEN = torch.ops.aten
MOST_OPERATORS = 2500
"""Operators of a pass that is captured; a loop over the rows of a batch has more."""

_ALONE = RLock()
"""Held by a capture, which sets what all threads share, as torch.fx does `Module.__call__`."""


class _Tracer(fx.Tracer):
    """Keeps normalization and layers of integers whole, and other threads' networks as they are."""

    def __init__(self) -> None:
        super().__init__()
        self._thread = get_ident()

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        ours = get_ident() == self._thread
        return super().call_module(m, forward, args, kwargs) if ours else forward(*args, **kwargs)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        whole = type(m) in (Normalize, Int8Layers)
        return whole or super().is_leaf_module(m, module_qualified_name)


def capture(module: nn.Module, example: torch.Tensor | None = None) -> fx.GraphModule | None:
    """A copy of a network in eval mode as a graph, or None where it cannot be had.

    The example is a batch of the only shape that a foreign network's graph has to be right for.
    """
    if is_captured(module):
        return copy.deepcopy(module)
    try:
        with _ALONE:
            copied = copy.deepcopy(module)
            made = _traced(copied) if is_known(module) else _exported(copied, example)
    except Exception:  # the network runs on symbols, so it can fail in any way
        return None
    made.meta[_CAPTURED] = True
    return made.eval()


def _traced(module: nn.Module) -> fx.GraphModule:
    graph = _Tracer().trace(module)
    for node in graph.find_nodes(op="call_method", target="clone"):
        node.replace_all_uses_with(node.args[0])  # no known network changes its input
        graph.erase_node(node)
    return fx.GraphModule(module, graph)


def is_captured(module: nn.Module) -> TypeGuard[fx.GraphModule]:
    """Whether a module is what `capture` gave, or was made of it."""
    return isinstance(module, fx.GraphModule) and _CAPTURED in module.meta


def is_known(module: nn.Module) -> bool:
    """Whether nothing but known code decides what a network in eval mode computes."""
    everywhere = (hooks_of_all._global_forward_hooks, hooks_of_all._global_forward_pre_hooks)
    return not any(everywhere) and all(map(_is_known_part, module.modules()))


def _is_known_part(part: nn.Module) -> bool:
    own = type(part).__module__ in _OWN
    tensors = [*part._parameters.values(), *part._buffers.values()]
    return (
        (own or type(part) in _PLAIN)
        and not (part.training or has_hooks(part) or {"forward", "__call__"} & vars(part).keys())
        and not (type(part) is nn.BatchNorm2d and part.running_mean is None)
        and not (type(part) is nn.Flatten and part.start_dim < 1)
        and all(t is None or type(t) in (nn.Parameter, torch.Tensor) for t in tensors)
    )


def has_hooks(layer: nn.Module) -> bool:
    """Whether calling the layer runs more than its forward pass."""
    return bool(layer._forward_hooks or layer._forward_pre_hooks)


@contextmanager
def quiet() -> Iterator[None]:
    """Without remarks of exporters, and without collections, which take a fifth of their time."""
    before, collects = logging.root.manager.disable, gc.isenabled()
    logging.disable(logging.WARNING)
    gc.disable()
    try:
        with warnings.catch_warnings(), redirect_stderr(StringIO()):  # graphs that it gives up
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
        (gc.enable if collects else gc.disable)()


class _Count(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Stops a network of more operators than can be captured in reasonable time."""

    _seen = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._seen += 1
        if self._seen > MOST_OPERATORS:
            raise ValueError("it has too many operators")
        return func(*args, **(kwargs or {}))


def _exported(module: nn.Module, example: torch.Tensor | None) -> fx.GraphModule:
    if example is None:
        raise ValueError("it needs an example")
    with quiet(), torch.no_grad():
        copied, sizes = copy.deepcopy(module), FakeTensorMode(allow_non_fake_inputs=True)
        with sizes, _Count():  # type: ignore[no-untyped-call]
            copied(sizes.from_tensor(example))
        program = torch.export.export(module, (example,), strict=False)
        signature = program.graph_signature
        if signature.buffers_to_mutate or signature.user_inputs_to_mutate:
            raise ValueError("it changes its buffers or its input")
        lifted = program.module(check_guards=False)
    return _Layers(lifted).graph_module()


class _Layers:
    """Rewrites a graph of operators as one of layers, which hold the tensors they read."""

    def __init__(self, lifted: fx.GraphModule) -> None:
        self._lifted, self._graph = lifted, fx.Graph()
        self._made: dict[fx.Node, Any] = {}

    def graph_module(self) -> fx.GraphModule:
        for node in self._lifted.graph.nodes:
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
        whole.graph.eliminate_dead_code()
        whole.recompile()
        return whole

    def _layer(self, node: fx.Node) -> fx.Node | None:
        """The layer that an operator with tensors of the network is, if it is one."""
        args = _arguments(node)
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
        self._lifted.add_submodule(f"layer_{node.name}", layer.eval())
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


def _arguments(node: fx.Node) -> tuple[Any, ...]:
    """All arguments of an operator in the order of its schema."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return node.args
    schema = node.target._schema.arguments[len(node.args) :]
    return (*node.args, *(node.kwargs.get(a.name, a.default_value) for a in schema))
