"""Losses for networks that will be smoothed. All of them stay in the log domain."""

from math import log

import torch
from torch import Tensor

_TAIL = 1e-4
_FAR = 10.0

SHARPNESS = 20.0
"""Of the smooth maximum over intervals, per pixel unit of radius."""


def mean_log_probabilities(log_probabilities: Tensor) -> Tensor:
    """Log of the mean over noise draws of softmax outputs, [M, B, K] -> [B, K].

    The mean of probabilities would underflow to 0, and the gradient of its log to NaN.
    """
    return torch.logsumexp(log_probabilities, 0) - log(len(log_probabilities))


def consistency_loss(
    log_probabilities: Tensor, pull: float, entropy: float, weights: Tensor | None = None
) -> Tensor:
    """Jeong and Shin's regularizer: pull * mean_m KL(mean || f_m) + entropy * H(mean).

    Parameters
    ----------
    log_probabilities : Tensor, shape (M, B, K)
        log softmax under M noise draws of the same B images.
    weights : Tensor, shape (B,), optional
        Of the images.
    """
    center = mean_log_probabilities(log_probabilities)
    shares = center.exp()
    divergence = _mean((shares * (center - log_probabilities)).sum(-1), weights)
    return pull * divergence - entropy * _mean((shares * center).sum(-1), weights)


def soft_cross_entropy(
    log_probabilities: Tensor, targets: Tensor, weights: Tensor | None = None
) -> Tensor:
    """Mean cross entropy with target probabilities [B, K], over noise draws [M, B, K].

    Images may have weights [B].
    """
    return -_mean((targets * log_probabilities).sum(-1), weights)


def _mean(values: Tensor, weights: Tensor | None) -> Tensor:
    """Mean over draws and images, [M, B] or [B]; images with weight 0 do not count."""
    if weights is None:
        return values.mean()
    return (weights * values).mean() / weights.mean().clamp(min=1e-6)


def dual_radius(log_probabilities: Tensor, radii: Tensor, tau: float) -> Tensor:
    """Radius of interval routing with a median selector, differentiable in the selector.

    T = max over i <= j of min(u_i, v_j, min radii_i..j) with u_i = tau z(P(h >= i)),
    v_j = tau z(P(h <= j)), u_1 = v_K = infinity (theorem C, with softmax means as P). The maximum
    is a smooth one, at most ln(K (K + 1) / 2) / SHARPNESS too large: under the true maximum an
    interval that is not the best yet gets no gradient, and the selector never leaves its start.

    Parameters
    ----------
    log_probabilities : Tensor, shape (M, B, K)
        log softmax of the selector under M noise draws of scale tau.
    radii : Tensor, shape (B, K)
        Radius of the true class at each level, pixel units; negative where it loses.
    tau : float
        Noise level of the selector.

    Returns
    -------
    Tensor, shape (B,)
    """
    batch, levels = radii.shape
    below = mean_log_probabilities(log_probabilities).exp().cumsum(1)[:, :-1]  # P(h <= j), j < K
    margin = tau * torch.special.ndtri(below.clamp(_TAIL, 1 - _TAIL))
    far = radii.new_full((batch, 1), _FAR)
    lower = torch.cat([far, -margin], 1)  # u_1 .. u_K
    upper = torch.cat([margin, far], 1)  # v_1 .. v_K
    routed = []
    for first in range(levels):
        weakest = far[:, 0]
        for last in range(first, levels):
            weakest = torch.minimum(weakest, radii[:, last])
            inside = torch.minimum(lower[:, first], upper[:, last])
            routed.append(torch.minimum(inside, weakest))
    return torch.logsumexp(SHARPNESS * torch.stack(routed), 0) / SHARPNESS
