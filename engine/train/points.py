"""Operating points of a selector, found on images that neither it nor the classifiers saw."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Generator, Tensor, nn

from dualsmooth.engine.checks import closed_unit, non_negative, open_unit, positive_integer
from dualsmooth.engine.models.operating_point import BALANCED
from dualsmooth.engine.train.losses import interval_radii
from dualsmooth.engine.train.radii import noisy_logits

SMALL, LARGE = "small", "large"

_PLACES, _SWEEPS = 41, 2


@dataclass(frozen=True, slots=True)
class Points:
    """How `operating_points` are found: on a `share` of the labelled images, with so many votes.

    A share is certified accuracy over that of the best fixed level at the same radius.
    ``balanced`` has the largest smallest share. ``small`` stays at most `slack` of the images below
    the best fixed level at every radius up to `edge`, and has the largest smallest share beyond;
    ``large`` stays as close to the largest level at every radius, and certifies as many as it can
    at radii up to the edge.
    """

    share: float = 0.2
    votes: int = 200
    slack: float = 0.007
    edge: float = 0.5
    radii: tuple[float, ...] = tuple(r / 4 for r in range(13))

    def __post_init__(self) -> None:
        open_unit("share", self.share)
        positive_integer("votes", self.votes)
        closed_unit("slack", self.slack)
        non_negative("edge", self.edge)


def operating_points(
    network: nn.Module,
    images: Tensor,
    radii: Tensor,
    tau: float,
    options: Points,
    generator: Generator,
) -> dict[str, list[float]]:
    """Thresholds of a network's score, its last output, by name of the point.

    The radii [n, K] of the true class at each level are <= 0 where it loses.
    """
    with torch.no_grad():
        scores = noisy_logits(network, images, tau, options.votes, generator)[..., -1]
    medians = scores.median(1).values
    places = medians.quantile(torch.linspace(0, 1, _PLACES, device=medians.device))
    places = torch.cat([places[:1] - 1, places, places[-1:] + 1])
    grid = torch.tensor(options.radii, device=radii.device)
    fixed = _certified(radii, grid)  # [K, radii]
    best, largest = fixed.max(0).values, fixed[-1]
    near, reached = grid <= options.edge, best > 0
    beyond = reached & ~near

    def rank(name: str, thresholds: Tensor) -> tuple[float, float]:
        routed = routed_radius(votes_between(scores, thresholds), radii, tau)
        found = _certified(routed[:, None], grid)[0]
        if name == BALANCED:
            return 0.0, _smallest(found / best, reached)
        if name == SMALL:
            short = float((best - found)[near].max())
            return -max(short, options.slack), _smallest(found / best, beyond)
        short = float((largest - found).max())
        return -max(short, options.slack), float(found[near].sum())

    cuts = radii.shape[1] - 1
    return {
        name: _climb(partial(rank, name), places, cuts).tolist()
        for name in (SMALL, BALANCED, LARGE)
    }


def routed_radius(shares: Tensor, radii: Tensor, tau: float) -> Tensor:
    """Radius of interval routing (theorem C) from vote shares [n, K] and radii [n, K]: [n]."""
    best: Tensor = interval_radii(shares, radii, tau, 1e-3).max(0).values
    return best


def votes_between(scores: Tensor, thresholds: Tensor) -> Tensor:
    """Share of an image's scores [n, votes] between ascending thresholds [K - 1]: [n, K]."""
    above = [(scores > threshold).float().mean(1) for threshold in thresholds]
    ends = torch.stack([torch.ones_like(above[0]), *above, torch.zeros_like(above[0])], 1)
    shares: Tensor = -ends.diff(dim=1)
    return shares


def _smallest(shares: Tensor, where: Tensor) -> float:
    return float(shares[where].min()) if where.any() else 0.0


def _certified(radii: Tensor, grid: Tensor) -> Tensor:
    """Share of images beyond each radius of a grid, [n, K] -> [K, radii]."""
    return (radii[..., None] > grid).float().mean(0)


def _climb(rank: Callable[[Tensor], tuple[float, float]], places: Tensor, cuts: int) -> Tensor:
    """Ascending thresholds of the largest rank: one place for all, then moved one by one."""
    best: Tensor = max((place.expand(cuts) for place in places), key=rank)
    for cut in list(range(cuts)) * _SWEEPS if cuts > 1 else ():
        moved = best.repeat(len(places), 1)
        moved[:, cut] = places
        best = max((t for t in moved if (t.diff() >= 0).all()), key=rank)
    return best
