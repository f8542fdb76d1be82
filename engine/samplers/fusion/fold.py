"""Batch norm folded into the convolution before it: the same function with fewer passes."""

from collections import Counter
from collections.abc import Callable

import torch
from torch import fx, nn

from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.models.capture import capture, has_hooks
from dualsmooth.engine.models.copies import OfThreads, again
from dualsmooth.engine.models.ensemble import by_stages
from dualsmooth.engine.models.network import in_training

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class Made:
    """What was made of one network for batches of so many rows, by name.

    ``reasons`` say why it could not be captured.
    """

    def __init__(self, rows: int) -> None:
        self.rows, self.reasons, self._parts = rows, list[str](), dict[str, nn.Module]()

    def once(self, name: str, make: Callable[[], nn.Module]) -> nn.Module:
        """What is there under a name, or is made now."""
        if name not in self._parts:
            self._parts[name] = make()
        return self._parts[name]

    def keep(self, name: str) -> None:
        """Drop what has another name, or does not begin with this one."""
        self._parts = {n: part for n, part in self._parts.items() if n.startswith(name)}


def fold_batch_norm(module: nn.Module, example: torch.Tensor | None = None) -> nn.Module:
    """A copy of a network in eval mode with each conv -> batch norm pair made one convolution.

    For y = gamma (conv(x) - mean) / sqrt(var + eps) + beta the new weight is w gamma / sqrt(var +
    eps) and the new bias (b - mean) gamma / sqrt(var + eps) + beta, computed in float64. A pair is
    left alone if its parts are used elsewhere or carry hooks. The result agrees with the network up
    to rounding, but its votes are those of another network: it needs a digest of its own. The
    network itself is returned if it cannot be captured or no pair was found.
    """
    for name, part in module.named_modules():
        if part.training:
            received, hint = name or type(module).__name__, "call module.eval() first"
            raise ArgumentError("module", "must be in eval mode", received, hint)
    traced = capture(module, example)
    return module if traced is None or not _pairs(traced) else _folded(traced)


def _folded(traced: fx.GraphModule) -> fx.GraphModule:
    for conv, norm in _pairs(traced):
        _fold(traced, conv, norm)
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced.eval()


def folded_network(
    network: torch.nn.Module,
    dtype: torch.dtype,
    shape: tuple[int, int, int, int],
    tell: Callable[[str], object] | None = None,
) -> torch.nn.Module:
    """A copy with batch norm folded, in one dtype, with channels-last convolutions.

    ``shape`` is (rows, height, width, channels) of the batches it is for; ``tell`` gets the reason
    why something could not be captured, and stays as it is.
    """

    def fold(stage: torch.nn.Module, rows: int | None) -> torch.nn.Module:
        height, width, channels = shape[1:]
        captured = capture(stage, torch.zeros(rows or shape[0], channels, height, width), tell)
        return OfThreads(again(stage)) if captured is None else _folded(captured)

    still = again(network) if in_training(network) else network
    folded = by_stages(still, fold).to(dtype)
    for parameter in folded.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return folded


def _pairs(traced: fx.GraphModule) -> list[tuple[fx.Node, fx.Node]]:
    """Nodes (conv, norm) where the norm is the only reader of the only call of the conv."""
    nodes = list(traced.graph.nodes)
    calls = Counter(_module(traced, node) for node in nodes if node.op == "call_module")
    read = {str(n.target).rpartition(".")[0] for n in nodes if n.op == "get_attr"}
    pairs = []
    for norm in nodes:
        conv = norm.args[0] if norm.op == "call_module" and norm.args else None
        if not isinstance(conv, fx.Node) or conv.op != "call_module" or len(conv.users) != 1:
            continue
        first, second = _module(traced, conv), _module(traced, norm)
        if type(first) not in _CONVOLUTIONS or not is_fixed_norm(second) or calls[first] != 1:
            continue
        if not (has_hooks(first) or has_hooks(second) or conv.target in read):
            pairs.append((conv, norm))
    return pairs


def _module(traced: fx.GraphModule, node: fx.Node) -> nn.Module:
    return traced.get_submodule(str(node.target))


def is_fixed_norm(module: nn.Module) -> bool:
    """Whether a layer is batch norm with running statistics, so without a look at batch mates."""
    return type(module) in _NORMS and module.running_mean is not None


def scale_and_shift(
    norm: nn.Module, bias: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """What batch norm makes of x + bias, x * scale + shift: two float64 tensors (channels,)."""
    assert isinstance(norm, _NORMS)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    shift = -norm.running_mean.double()
    if bias is not None:
        shift = bias.double() + shift
    shift = shift * scale
    if norm.bias is not None:
        shift = shift + norm.bias.double()
    return scale.detach(), shift.detach()


def _fold(traced: fx.GraphModule, conv_node: fx.Node, norm_node: fx.Node) -> None:
    conv = _module(traced, conv_node)
    assert isinstance(conv, _CONVOLUTIONS)
    scale, bias = scale_and_shift(_module(traced, norm_node), conv.bias)
    weight = conv.weight.double() * scale.view(-1, *[1] * (conv.weight.dim() - 1))
    conv.weight, conv.bias = _parameter(weight, conv.weight), _parameter(bias, conv.weight)
    norm_node.replace_all_uses_with(conv_node)
    traced.graph.erase_node(norm_node)


def _parameter(values: torch.Tensor, like: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(values.detach().to(like.dtype), requires_grad=like.requires_grad)
