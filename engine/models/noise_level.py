"""A network that names a noise level, as a selector: it votes for the bin its output falls into."""

from collections.abc import Sequence
from itertools import pairwise
from math import log, sqrt
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from dualsmooth.engine.checks import positive
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.models.registry import register_architecture
from dualsmooth.engine.models.small import SmallConvNet, small_convnet

if TYPE_CHECKING:
    from torch import Tensor

ARCHITECTURE = "noise_level"


class NoiseLevel(nn.Module):
    """H_phi of Variational RS: a level between two limits, told a target, voted for by bins.

    The target is a constant plane beside the image. The level is clipped smoothly, by a sigmoid on
    the logarithmic scale between the outer edges.
    """

    inner: torch.Tensor

    def __init__(self, network: SmallConvNet, edges: Sequence[float], target_sigma: float) -> None:
        super().__init__()
        self.network = network
        self.low, self.high, self.target = log(edges[0]), log(edges[-1]), log(target_sigma)
        self.bins = len(edges) - 1
        inner = torch.tensor([log(edge) for edge in edges[1:-1]], dtype=torch.float32)
        self.register_buffer("inner", inner, persistent=False)

    def log_level(self, x: "Tensor", target: "Tensor | None" = None) -> "Tensor":
        """ln of the noise level, shape (n,), differentiable; ``target`` is ln of one per row."""
        plane = torch.full_like(x[:, :1], self.target)
        if target is not None:
            plane = torch.zeros_like(plane) + target.view(-1, 1, 1, 1)
        value = self.network(torch.cat([x, plane], 1))[:, 0]
        return self.low + (self.high - self.low) * torch.sigmoid(value)

    def forward(self, x: "Tensor") -> "Tensor":
        """One-hot scores of the bin; NaN, an invalid vote, where the level is not finite."""
        level = self.log_level(x)
        bins = torch.bucketize(level, self.inner.to(level.dtype))
        scores = functional.one_hot(bins, self.bins).to(x.dtype)
        return scores + (level - level).unsqueeze(1)


@register_architecture(ARCHITECTURE)
def noise_level(
    *,
    edges: Sequence[float],
    target_sigma: float,
    in_channels: int = 1,
    image_size: Sequence[int] = (8, 8),
    widths: Sequence[int] = (32, 64),
    hidden: int = 128,
) -> NoiseLevel:
    """A selector with a real-valued output.

    Parameters
    ----------
    edges : sequence of float
        Limits of the bins, > 0, ascending; the first and last are the clip limits.
    target_sigma : float
        Target noise it is told, fixed for a run (`dualsmooth.engine.models.target`).
    in_channels, image_size, widths, hidden
        As for `small_convnet`.

    Raises
    ------
    ArgumentError
        If a value is out of range.
    """
    if len(edges) < 2 or not edges[0] > 0 or any(not b > a for a, b in pairwise(edges)):
        raise ArgumentError("edges", "must be at least two ascending levels > 0", edges)
    network = small_convnet(
        in_channels=in_channels + 1, num_classes=1, image_size=image_size, widths=widths,
        hidden=hidden,
    )  # fmt: skip
    return NoiseLevel(network, edges, positive("target_sigma", target_sigma))


def centers(edges: Sequence[float]) -> tuple[float, ...]:
    """A level inside each bin: the geometric mean of its edges."""
    return tuple(sqrt(a * b) for a, b in pairwise(edges))
