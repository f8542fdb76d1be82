"""Radii of training images, estimated by networks that did not see them."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor, nn

_ROWS = 1024


def true_class_radii(
    module: nn.Module,
    images: Tensor,
    labels: Tensor,
    sigma: float,
    votes: int,
    generator: Generator,
) -> Tensor:
    """sigma * z(share of votes for the true class), [n]; negative where it has no majority.

    A training target, not a certificate: the share is an estimate, shrunk so that it is never
    0 or 1.
    """
    per_pass = max(1, _ROWS // votes)
    shares = []
    with torch.inference_mode():
        for part, truth in zip(
            torch.split(images, per_pass), torch.split(labels, per_pass), strict=True
        ):
            hits = torch.zeros(len(part))
            for count in _split(votes):
                noise = torch.randn((len(part), count, *part.shape[1:]), generator=generator)
                copies = (part[:, None] + sigma * noise).flatten(0, 1)
                winners = module(copies).argmax(1).view(len(part), count)
                hits += (winners == truth[:, None]).sum(1)
            shares.append((hits + 0.5) / (votes + 1))
    radii: Tensor = sigma * torch.special.ndtri(torch.cat(shares))
    return radii


def _split(votes: int) -> list[int]:
    whole, rest = divmod(votes, _ROWS)
    return [_ROWS] * whole + [rest] * (rest > 0)


def cross_fitted_radii(
    train: Callable[[Tensor, Tensor], nn.Module],
    images: Tensor,
    labels: Tensor,
    *,
    sigma: float,
    folds: int,
    votes: int,
    generator: Generator,
) -> Tensor:
    """Radius of every training image by a network trained on the other folds, [n].

    A network certifies its own training images with radii that no new image reaches, and a
    selector taught with those would choose too much noise.

    Parameters
    ----------
    train : callable
        Trains a network on images and labels.
    """
    fold = torch.randperm(len(images), generator=generator) % folds
    radii = torch.empty(len(images))
    for number in range(folds):
        held = fold == number
        module = train(images[~held], labels[~held])
        radii[held] = true_class_radii(module, images[held], labels[held], sigma, votes, generator)
    return radii
