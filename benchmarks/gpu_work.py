"""What a forward pass must at least compute and move, counted from a network's layers."""

from dataclasses import dataclass

import torch
from torch import nn

from dualsmooth.engine.models.resnet import BasicBlock

COPY_BYTES, MATRIX_FLOP = 4.3e12, 790e12
"""Per second, read plus written, and bf16; measured on an H200."""


@dataclass(frozen=True)
class Work:
    """Per draw: operations (two per multiply-add), and bytes of device memory.

    Bytes are those of a network whose normalization, sums and ReLUs are part of the convolutions,
    in bfloat16: every convolution reads its input once and writes its output once, and a sum reads
    its shortcut once. Weights stay in caches.
    """

    flop: float
    bytes: float

    def floor(self, draws: int, copy: float = COPY_BYTES, matrix: float = MATRIX_FLOP) -> float:
        """Seconds below which no layer-by-layer program gets."""
        return draws * max(self.flop / matrix, self.bytes / copy)


def work_of(network: nn.Module, shape: tuple[int, int, int]) -> Work:
    """Count one image of shape (height, width, channels)."""
    from dualsmooth.benchmarks.deep_networks import Bottleneck, WideBlock

    flop, values = 0.0, 0.0

    def layer(module: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        nonlocal flop, values
        if isinstance(module, nn.Conv2d):
            terms = module.in_channels // module.groups * module.kernel_size[0] ** 2
            flop += 2.0 * output.numel() * terms
            values += inputs[0].numel() + output.numel()
        elif isinstance(module, nn.Linear):
            flop += 2.0 * output.numel() * module.in_features
        elif isinstance(module, BasicBlock | Bottleneck | WideBlock):
            values += output.numel()

    hooks = [part.register_forward_hook(layer) for part in network.modules()]
    height, width, channels = shape
    with torch.no_grad():
        network.eval()(torch.zeros(1, channels, height, width))
    for hook in hooks:
        hook.remove()
    return Work(flop, 2 * values)
