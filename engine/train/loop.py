"""The training loop all networks share: AdamW, warm-up and cosine decay, M noise draws."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import cos, pi

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from dualsmooth.engine.train.augment import Affine, random_affine


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast to train."""

    epochs: int
    affine: Affine | None
    batch: int = 128
    draws: int = 2
    peak_rate: float = 3e-3
    weight_decay: float = 1e-2


def train_on_noise(
    module: nn.Module,
    images: Tensor,
    sigma: float,
    loss: Callable[[Tensor, Tensor], Tensor],
    schedule: Schedule,
    generator: Generator,
) -> nn.Module:
    """Minimize a loss of the outputs under Gaussian noise; returns the module in eval mode.

    Parameters
    ----------
    module : torch.nn.Module
    images : Tensor, shape (n, channels, height, width)
        Clean images in [0, 1].
    sigma : float
        Noise level in pixel units.
    loss : callable
        Takes log softmax outputs [M, B, K] and the indices [B] of their images.
    schedule : Schedule
    generator : torch.Generator
        Source of the order, the augmentation and the noise.
    """
    module.train()
    for parameter in module.parameters():
        if parameter.dim() == 4:  # channels-last convolutions are the fast ones on a CPU
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    steps = max(1, len(images) // schedule.batch)
    optimizer = torch.optim.AdamW(
        module.parameters(), schedule.peak_rate, weight_decay=schedule.weight_decay
    )
    total = schedule.epochs * steps
    warm_up = max(1, total // 10)
    cycle = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(1.0, (step + 1) / warm_up) * (1 + cos(pi * step / total)) / 2,
    )
    for _ in range(schedule.epochs):
        order = torch.randperm(len(images), generator=generator)
        for chosen in torch.split(order[: steps * schedule.batch], schedule.batch):
            clean = images[chosen]
            if schedule.affine is not None:
                clean = random_affine(clean, schedule.affine, generator)
            copies = clean.repeat(schedule.draws, 1, 1, 1)
            noise = torch.randn(copies.shape, generator=generator)
            outputs = module(copies + sigma * noise)
            value = loss(
                functional.log_softmax(outputs, 1).view(schedule.draws, len(chosen), -1), chosen
            )
            optimizer.zero_grad()
            value.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            cycle.step()
    return module.eval()


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread: the same sums in the same order on every machine like this."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
