"""What a radius is worth: the user's choice, from which labels and weights follow.

Which radii matter decides which noise level is the better one for an image. As text:

* ``acr``: U(R) = R, so that the mean is the average certified radius.
* ``R + 4 min(R, 0.5)``: the same, and small radii count 5 times.
* ``0:1, 0.25:1, 1:0.5``: weights of radii; U(R) is the sum of those below R.
* ``relative``: certified accuracy at every radius 0, 0.25, .. over that of the best fixed level.
* ``published``: the soft labels exp(R) of Sun, Mao and Vechev; a selector without thresholds.
"""

import re
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dualsmooth.engine.errors import ArgumentError

PUBLISHED = "published"
Utility = Callable[[Tensor], Tensor]

_STEP = 0.25
_LEAST = 0.01
_NEAR = re.compile(r"R\+([0-9.]+)min\(R,([0-9.]+)\)")


def check_utility(text: str, sigmas: Sequence[float]) -> None:
    """Raise `ArgumentError` if a text names no utility, or there is nothing to choose from."""
    if len(sigmas) < 2:
        raise ArgumentError("sigmas", "must be two or more levels", sigmas)
    if text != PUBLISHED:
        utility_of(text, torch.ones(1, 1))


def utility_of(text: str, radii: Tensor) -> Utility:
    """The utility a text names, of radii of any shape; <= 0 where the class loses.

    `radii` [n, K] of the true class at each level are those that `relative` is relative to.
    """
    compact = text.replace(" ", "")
    if compact == "acr":
        return lambda r: r.clamp(min=0)
    if compact == "relative":
        grid = torch.arange(0, max(float(radii.max()), _STEP), _STEP, device=radii.device)
        best = (radii[..., None] > grid).float().mean(0).max(0).values.clamp(min=_LEAST)
        return lambda r: ((r[..., None] > grid) / best).sum(-1)
    try:
        if near := _NEAR.fullmatch(compact):
            weight, edge = map(float, near.groups())
            return lambda r: r.clamp(min=0) + weight * r.clamp(min=0, max=edge)
        pairs = [pair.split(":") for pair in compact.split(",")]
        known = torch.tensor([[float(radius), float(weight)] for radius, weight in pairs])
        if not (known.isfinite().all() and (known >= 0).all() and known[:, 1].any()):
            raise ValueError("radii and weights must be finite and >= 0")
    except ValueError as error:
        rule = "must be acr, relative, published, R + C min(R, R0) or RADIUS:WEIGHT, .."
        raise ArgumentError("utility", rule, text, "see dualsmooth.engine.train.utility") from error
    grid, weights = known.to(radii.device).unbind(1)
    return lambda r: ((r[..., None] > grid) * weights).sum(-1)
