"""Networks as torch.fx graphs of layers, captured as they run.

A network of somebody else's is run, hooks and all, on a batch without values, and its operators are
noted: by a watch of our own, or, where that does not know one, by `torch.export`, which takes
seconds more. They become layers again, as the passes that fold and fuse know them. Of networks made
of nothing but the engine's classes and plain layers of PyTorch the code is known, and torch.fx
reads it. What cannot be captured is run as it is.
"""

import copy
import gc
import logging
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stderr
from functools import cache
from io import StringIO
from threading import RLock, get_ident
from typing import Any, TypeGuard

import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from dualsmooth.engine.errors import reason_of
from dualsmooth.engine.models.digest.exported import Exported
from dualsmooth.engine.models.digest.module_state import runs_besides
from dualsmooth.engine.models.digest.python_names import is_unpatched
from dualsmooth.engine.models.graph.layers import Layers
from dualsmooth.engine.models.graph.recorded import recorded
from dualsmooth.engine.models.int8 import Int8Layers
from dualsmooth.engine.models.normalize import Normalize

_BUILT = [f"architectures.{name}" for name in ("ordered", "resnet", "small")]
_OWN = [
    f"dualsmooth.engine.models.{name}"
    for name in ("denoised", "ensemble", "int8", "normalize", *_BUILT)
]
_NOTED = f"{_OWN[0].rpartition('.')[0]}.architectures.deep_resnet"
"""Known as well; traced, its normalization would be fused, and votes at near ties be others."""
_PLAIN = (
    *(nn.Sequential, nn.ModuleList, nn.Identity, nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.Linear),
    *(nn.Flatten, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d),
)
_CAPTURED = "captured"
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


def capture(
    module: nn.Module,
    example: torch.Tensor | None = None,
    tell: Callable[[str], object] | None = None,
) -> fx.GraphModule | None:
    """A copy of a network in eval mode as a graph, or None where it cannot be had.

    The example is a batch of the only shape that a foreign network's graph has to be right for.
    ``tell`` gets the reason of a None.
    """
    if is_captured(module):
        return copy.deepcopy(module)
    try:
        with _ALONE:
            known = is_known(module)
            made = _traced(copy.deepcopy(module)) if known else _noted(module, example)
    except Exception as error:  # the network runs on symbols, so it can fail in any way
        if tell is not None:
            tell(reason_of(error))
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


def is_known(module: nn.Module, *, read: bool = False) -> bool:
    """Whether nothing but known code decides what a network in eval mode computes.

    With ``read`` also where torch.fx does not trace it: deep ResNets, and programs of which every
    operator was read and treats each row alone.
    """
    parts = list(_parts(module))
    kinds = {id(type(part)): type(part) for part in parts}
    known = all(_is_known_part(part, read) for part in parts)
    return known and all(map(is_unpatched, kinds.values()))


def _parts(module: nn.Module) -> Iterator[nn.Module]:
    """As `modules()`, which a class may override."""
    yield module
    for part in module._modules.values():
        yield from () if part is None else _parts(part)


def _is_known_part(part: nn.Module, read: bool) -> bool:
    kind = type(part)
    noted = kind.__module__ == _NOTED or (type(part) is Exported and part.row_wise)
    tensors = [*part._parameters.values(), *part._buffers.values()]
    return (
        (kind.__module__ in _OWN or kind in _PLAIN or (read and noted))
        and not (part.training or runs_besides(part) or part._compiled_call_impl)
        and not (type(part) is nn.BatchNorm2d and part.running_mean is None)
        and not (type(part) is nn.Flatten and part.start_dim < 1)
        and all(t is None or type(t) in (nn.Parameter, torch.Tensor) for t in tensors)
    )


def has_hooks(layer: nn.Module) -> bool:
    """Whether calling the layer runs more than its forward pass."""
    return bool(layer._forward_hooks or layer._forward_pre_hooks)


@contextmanager
def quiet() -> Iterator[None]:
    """Without remarks of libraries, and without collections, which take a fifth of their time."""
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


def _noted(module: nn.Module, example: torch.Tensor | None) -> fx.GraphModule:
    if example is None:
        raise ValueError("it needs an example")
    try:
        return Layers(*recorded(copy.deepcopy(module), example, MOST_OPERATORS)).graph_module()
    except Exception:  # it may ask for anything on the way
        exported = _exported(copy.deepcopy(module), example)
        return Layers(exported, exported.graph).graph_module()


@cache
def _stand_in() -> ThreadPoolExecutor:
    """Have PyTorch make what stands in for a missing CUDA device, in a thread that stays.

    Up to 2.13 it belongs to the first thread that has tensors without values, and is read when that
    has ended, too: PyTorch's default build for Linux, on a machine without a GPU, then crashes.
    """

    def made() -> None:
        with FakeTensorMode():
            pass

    keeper = ThreadPoolExecutor(1)
    keeper.submit(made).result()
    return keeper


def _exported(module: nn.Module, example: torch.Tensor) -> fx.GraphModule:
    _stand_in()
    with quiet(), torch.no_grad():
        copied, sizes = copy.deepcopy(module), FakeTensorMode(allow_non_fake_inputs=True)
        with sizes, _Count():  # type: ignore[no-untyped-call]
            copied(sizes.from_tensor(example))
        program = torch.export.export(module, (example,), strict=False)
        signature = program.graph_signature
        if signature.buffers_to_mutate or signature.user_inputs_to_mutate:
            raise ValueError("it changes its buffers or its input")
        return program.module(check_guards=False)
