"""The training loop all networks share: AdamW, warm-up and cosine decay, a state per epoch."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import cos, isfinite, pi
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from dualsmooth.engine.checks import non_negative, positive, positive_integer
from dualsmooth.engine.train.checkpoints import Checkpoints, Metric


@dataclass(frozen=True, slots=True)
class Affine:
    """Largest change of each kind; shifts in half image widths, rotation in radians.

    With `flip`, half of the images are mirrored left to right.
    """

    shift: float
    rotation: float
    scale: float
    shear: float
    flip: bool = False


def random_affine(images: Tensor, limits: Affine, generator: Generator) -> Tensor:
    """Move, turn, scale and shear each image at random, with zeros outside: [n, C, H, W]."""

    def uniform(limit: float) -> Tensor:
        return (2 * torch.rand(len(images), generator=generator, device=images.device) - 1) * limit

    angle, scale, shear = uniform(limits.rotation), 1 + uniform(limits.scale), uniform(limits.shear)
    rows = [
        torch.stack([scale * angle.cos(), shear - scale * angle.sin(), uniform(limits.shift)], 1),
        torch.stack([scale * angle.sin(), scale * angle.cos(), uniform(limits.shift)], 1),
    ]
    matrix = torch.stack(rows, 1)
    if limits.flip:
        matrix[:, :, 0] *= torch.where(uniform(1.0) < 0, -1.0, 1.0)[:, None]
    grid = functional.affine_grid(matrix, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast to train: `draws` of noise per image, the largest learning rate."""

    epochs: int
    affine: Affine | None
    batch: int = 128
    draws: int = 2
    peak_rate: float = 3e-3
    weight_decay: float = 1e-2

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "draws"):
            positive_integer(name, getattr(self, name))
        positive("peak_rate", self.peak_rate)
        non_negative("weight_decay", self.weight_decay)


@dataclass(frozen=True, slots=True)
class Step:
    """One network of a training run: its name, and the checkpoints that keeps its state."""

    name: str
    checkpoints: Checkpoints


def fit(
    module: nn.Module,
    images: Tensor,
    objective: Callable[[Tensor, Tensor], Tensor],
    schedule: Schedule,
    generator: Generator,
    step: Step | None = None,
) -> nn.Module:
    """Minimize an objective of clean images [B, C, H, W] and their indices [B].

    Every parameter of the module is trained, on the images' device; the generator, there as well,
    is the source of the order, the augmentation and all noise. The step keeps the state of every
    epoch, and one found there is gone on with. Returns the module in eval mode.
    """
    for parameter in module.parameters():
        if parameter.dim() == 4:  # channels-last convolutions are the fast ones on a CPU
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    steps = max(1, len(images) // schedule.batch)
    optimizer, cycle = _optimizer(module, schedule, schedule.epochs * steps)
    parts: dict[str, object] = {"module": module, "optimizer": optimizer, "cycle": cycle}
    first = _restore(parts, generator, step)
    module.train()
    for epoch in range(first, schedule.epochs):
        order = torch.randperm(len(images), generator=generator, device=images.device)
        total = torch.zeros((), device=images.device)
        for chosen in torch.split(order[: steps * schedule.batch], schedule.batch):
            clean = images[chosen]
            if schedule.affine is not None:
                clean = random_affine(clean, schedule.affine, generator)
            with autocast(images):
                value = objective(clean, chosen)
            optimizer.zero_grad()
            value.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            cycle.step()
            total += value.detach()
        if epoch + 1 == schedule.epochs:
            del parts["optimizer"], parts["cycle"]
        _keep(parts, generator, step, epoch + 1, float(total) / steps)
    return module.eval()


def autocast(images: Tensor) -> torch.autocast:
    """bfloat16 on CUDA devices, as networks are deployed there; nothing elsewhere."""
    return torch.autocast(images.device.type, torch.bfloat16, enabled=images.is_cuda)


def train_on_noise(
    module: nn.Module,
    images: Tensor,
    sigma: float | Tensor,
    loss: Callable[[Tensor, Tensor], Tensor],
    schedule: Schedule,
    generator: Generator,
    step: Step | None = None,
) -> nn.Module:
    """`fit` a loss of the log softmax [M, B, K] under Gaussian noise and of the indices [B].

    sigma, in pixel units, is one number or that of each image, [n].
    """

    def objective(clean: Tensor, chosen: Tensor) -> Tensor:
        level = sigma[chosen].view(-1, 1, 1, 1) if isinstance(sigma, Tensor) else sigma
        return loss(noisy_log_softmax(module, clean, level, schedule.draws, generator), chosen)

    return fit(module, images, objective, schedule, generator, step)


def noisy_log_softmax(
    module: nn.Module, clean: Tensor, sigma: float | Tensor, draws: int, generator: Generator
) -> Tensor:
    """log softmax under noise draws, [M, B, K]; sigma is one number or [B, 1, 1, 1]."""
    copies = clean.repeat(draws, 1, 1, 1)
    noise = torch.randn(copies.shape, generator=generator, device=clean.device)
    level = sigma.repeat(draws, 1, 1, 1) if isinstance(sigma, Tensor) else sigma
    outputs = module(copies + level * noise)
    return functional.log_softmax(outputs.float(), 1).view(draws, len(clean), -1)


def _optimizer(
    module: nn.Module, schedule: Schedule, total: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
    optimizer = torch.optim.AdamW(
        module.parameters(), schedule.peak_rate, weight_decay=schedule.weight_decay
    )
    warm_up = max(1, total // 10)
    cycle = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / warm_up) * (1 + cos(pi * step / total)) / 2
    )
    return optimizer, cycle


def _restore(parts: dict[str, object], generator: Generator, step: Step | None) -> int:
    """Epochs done before."""

    def use(state: dict[str, Any]) -> int:
        for name in parts.keys() & state.keys():  # a finished network keeps its weights only
            parts[name].load_state_dict(state[name])  # type: ignore[attr-defined]
        generator.set_state(state["generator"])
        return int(state["epoch"])

    return (step.checkpoints.restore(step.name, use) if step else None) or 0


def _keep(
    parts: dict[str, object], generator: Generator, step: Step | None, epoch: int, loss: float
) -> None:
    if step is None:
        return
    step.checkpoints.metric(Metric(step.name, epoch, loss if isfinite(loss) else None))
    states = {name: part.state_dict() for name, part in parts.items()}  # type: ignore[attr-defined]
    step.checkpoints.save(step.name, {**states, "generator": generator.get_state(), "epoch": epoch})


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread: the same sums in the same order on every machine like this."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
