"""Selectors with a real output, read as votes for ordered noise levels."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import inf, log

import torch
from torch import nn

from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.models.operating_point import thresholds_at
from dualsmooth.engine.models.registry import create, register_architecture


class OrderedLevels(nn.Module):
    """A noise level H(x, t) in [s_1, s_K], and votes for the nearest s_k on a log scale.

    H = s_1 (s_K / s_1)^sigmoid(u), u the output of a network that sees the image and a constant
    plane with log t. The logits are -(log H - log s_k)^2, so their argmax is a monotone step
    function of H and a median of votes is the step of the median of H.
    """

    def __init__(self, network: nn.Module, levels: Sequence[float], target: float) -> None:
        super().__init__()
        self.network, self.target = network, target
        self.low, self.range = log(levels[0]), log(levels[-1] / levels[0])
        self.register_buffer("logs", torch.tensor([log(s) for s in levels]), persistent=False)

    def log_level(self, x: torch.Tensor, target: float) -> torch.Tensor:
        """log H(x, target), [n, 1]."""
        plane = torch.full_like(x[:, :1], log(target))
        output: torch.Tensor = self.network(torch.cat([x, plane], 1))
        return self.low + self.range * output.sigmoid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logs: torch.Tensor = self.get_buffer("logs")
        return -((self.log_level(x, self.target) - logs) ** 2)


class OrderedScore(nn.Module):
    """Votes for ordered levels by one score u(x): for level #{k : u(x) > t_k}.

    The logit of level k is k u - t_1 - .. - t_k. It is concave in k, so its argmax counts the
    thresholds below u, and neighbouring logits differ by u - t_k.

    With ``joint`` the score is the last output of the network and the others are the logits a of
    classes: class c at level k has k u - t_1 - .. - t_k + a_c, level by level, so that the argmax
    is the pair of both. It is summed in float32: beside a large level's logit the bits that tell
    classes apart would be lost in bfloat16.
    """

    def __init__(
        self, network: nn.Module, thresholds: Sequence[float], *, joint: bool = False
    ) -> None:
        super().__init__()
        self.network, self.joint = network, joint
        sums = torch.tensor([0.0, *thresholds], dtype=torch.float64).cumsum(0).float()
        self.register_buffer("slopes", torch.arange(len(sums)).float(), persistent=False)
        self.register_buffer("offsets", sums, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.network(x)
        if not self.joint:
            return outputs * self.get_buffer("slopes") - self.get_buffer("offsets")
        return self.pairs(outputs.float(), self.get_buffer("offsets"))

    def pairs(self, outputs: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        """Logits of pairs from those of classes and the score, [n, C + 1] -> [n, K C].

        A linear function of both, so that it may also be applied to the weights of a last layer.
        """
        levels = outputs[:, -1:] * self.get_buffer("slopes") - offsets
        return (levels[:, :, None] + outputs[:, None, :-1]).flatten(1)


@register_architecture("ordered_score")
def ordered_score(
    *,
    architecture: str,
    kwargs: Mapping[str, object],
    points: Mapping[str, Sequence[float]],
    prefer: str | float,
    joint: bool = False,
) -> OrderedScore:
    """A network of one output as a selector of ordered levels, at one of its operating points.

    Points are the K - 1 ascending thresholds of K levels by name; one is preferred, by its name or
    by a number (`thresholds_at`). With ``joint`` the network has an output for each class before
    the score, and votes for pairs of a level and a class.
    """
    network, thresholds = create(architecture, kwargs), thresholds_at(points, prefer)
    return OrderedScore(network, thresholds, joint=bool(joint))


@register_architecture("ordered_levels")
def ordered_levels(
    *, architecture: str, kwargs: Mapping[str, object], levels: Sequence[float], target: float
) -> OrderedLevels:
    """A network of one output as a selector of ordered levels.

    The network takes one channel more than the images have: the target, the noise level it is asked
    to stay near, fixed for all images, or nothing is certified. Levels ascend, at least two.
    """
    if len(levels) < 2 or not all(a < b for a, b in pairwise((0.0, *levels, inf))):
        raise ArgumentError("levels", "must be two or more, > 0 and ascending", tuple(levels))
    if not 0.0 < target < inf:
        raise ArgumentError("target", "must be finite and > 0", target)
    return OrderedLevels(create(architecture, kwargs), levels, target)
