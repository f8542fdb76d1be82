"""Radii of training images, estimated by networks that did not see them."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from dualsmooth.engine.checks import open_unit, positive_integer
from dualsmooth.engine.models.front_door import admitted
from dualsmooth.engine.train.context import TrainingContext
from dualsmooth.engine.train.loop import Step, autocast

_ROWS = 1024


@dataclass(frozen=True, slots=True)
class Labelling:
    """Which images get radii, by `votes` per level of networks that did not see them.

    A network certifies its own training images with radii that no new image reaches, and a
    selector taught with those would choose too much noise. With 2 `folds` or more, cross fitting
    labels every image and trains every expert so many times more; with 1 the experts do not see the
    share `held_out`, and only that is labelled. `runner_up` radii are for models certified so.
    """

    votes: int
    folds: int = 1
    held_out: float = 1 / 3
    runner_up: bool = False

    def __post_init__(self) -> None:
        positive_integer("votes", self.votes)
        positive_integer("folds", self.folds)
        open_unit("held_out", self.held_out)

    def held(self, context: TrainingContext, level: int, generator: Generator) -> list[Tensor]:
        """Masks [n] of the images each labelling network must not see.

        Folds are drawn per level; held-out images are the same for all levels.
        """
        count = len(context.images)
        if self.folds == 1:
            generator = context.source(0, 2)
        order = torch.randperm(count, generator=generator, device=generator.device)
        if self.folds == 1:
            return [order < max(1, int(count * self.held_out))]
        fold = order % self.folds
        return [fold == number for number in range(self.folds)]


def true_class_radii(
    module: nn.Module,
    images: Tensor,
    labels: Tensor,
    sigma: float,
    votes: int,
    generator: Generator,
    runner_up: bool = False,
) -> Tensor:
    """Radius of the true class by its share of the votes, [n]; negative where it loses.

    sigma * z(share); with `runner_up` sigma/2 * (z(share) - z(largest share of a rival)). A
    training target, not a certificate: shares are estimates, shrunk so that none is 0 or 1.
    """
    per_pass = max(1, _ROWS // votes)
    radii = []
    with torch.inference_mode():
        for part, truth in zip(
            torch.split(images, per_pass), torch.split(labels, per_pass), strict=True
        ):
            counts: Tensor | int = 0
            for count in _split(votes):
                shape = (len(part), count, *part.shape[1:])
                noise = torch.randn(shape, generator=generator, device=part.device)
                with autocast(images):
                    logits = module((part[:, None] + sigma * noise).flatten(0, 1))
                winners = functional.one_hot(logits.argmax(1), logits.shape[1])
                counts = counts + winners.view(len(part), count, -1).sum(1)
            quantiles = torch.special.ndtri((counts + 0.5) / (votes + 1))
            true = quantiles.gather(1, truth[:, None])[:, 0]
            rival = quantiles.scatter(1, truth[:, None], -torch.inf).max(1).values
            radii.append(sigma / 2 * (true - rival) if runner_up else sigma * true)
    return torch.cat(radii)


def _split(votes: int) -> list[int]:
    whole, rest = divmod(votes, _ROWS)
    return [_ROWS] * whole + [rest] * (rest > 0)


def radii_of(
    module: nn.Module,
    images: Tensor,
    labels: Tensor,
    sigma: float,
    labelling: Labelling,
    generator: Generator,
    step: Step,
) -> Tensor:
    """`true_class_radii`, kept in the checkpoints so that a resumed run need not vote again.

    A network that a bundle would refuse labels nothing.
    """

    def use(state: dict[str, Any]) -> Tensor:
        generator.set_state(state["generator"])
        kept: Tensor = state["radii"].to(images.device)
        if kept.shape[-1:] != (len(images),):
            raise ValueError(f"radii of shape {tuple(kept.shape)}")
        return kept

    kept = step.checkpoints.restore(step.name, use)
    if kept is not None:
        return kept
    channels, height, width = images.shape[1:]
    trial = copy.deepcopy(module).cpu().float().eval()
    admitted(trial, (height, width, channels), None, "labelling network", step.name)
    radii = true_class_radii(
        module, images, labels, sigma, labelling.votes, generator, labelling.runner_up
    )
    step.checkpoints.save(step.name, {"radii": radii, "generator": generator.get_state()})
    return radii


def selected_shares(
    selector: nn.Module, images: Tensor, tau: float, votes: int, generator: Generator
) -> Tensor:
    """Share of a selector's votes for each level under noise tau, [n, K]."""
    with torch.inference_mode(), autocast(images):
        logits = noisy_logits(selector, images, tau, votes, generator)
    return functional.one_hot(logits.argmax(-1), logits.shape[-1]).float().mean(1)


def noisy_logits(
    module: nn.Module, images: Tensor, sigma: float, votes: int, generator: Generator
) -> Tensor:
    """Logits of every noisy copy of every image, [n, votes, K]."""
    parts = []
    for part in torch.split(images, max(1, _ROWS // votes)):
        copies = part.repeat_interleave(votes, 0)
        noise = torch.randn(copies.shape, generator=generator, device=copies.device)
        parts.append(module(copies + sigma * noise).view(len(part), votes, -1))
    return torch.cat(parts)
