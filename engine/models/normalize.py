"""The first module of a network: pixels in [0, 1] to normalized inputs."""

from collections.abc import Sequence

import torch
from torch import nn

from dualsmooth.engine.errors import ArgumentError


class Normalize(nn.Module):
    """(x - mean) / std per channel, for x of shape (n, channels, height, width).

    The constants come from the constructor, so they are buffers outside ``state_dict``.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if not mean or len(mean) != len(std):
            raise ArgumentError("mean", f"must have as many channels as std ({len(std)})", mean)
        if not all(value > 0 for value in std):
            raise ArgumentError("std", "must be > 0 for every channel", std)
        for name, values in (("mean", mean), ("std", std)):
            constants = torch.tensor(tuple(values), dtype=torch.float32).view(1, -1, 1, 1)
            self.register_buffer(name, constants, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - self.mean) / self.std
