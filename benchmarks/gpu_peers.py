"""Sampling loops to compare with, on one device; see `gpu.py`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from dualsmooth.benchmarks.gpu_votes import CLASSES, IMAGES, SIGMA
from dualsmooth.engine.runtime.torch_sampler import folded_network

Loop: TypeAlias = Callable[[int], NDArray[np.int64]]
"""Votes for image number i of the pool, on the host."""


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """TF32 in convolutions, PyTorch's default, and in matrix products."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32
    cudnn.allow_tf32 = matmul.allow_tf32 = allowed
    try:
        yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32 = before


def cohen(
    network: torch.nn.Module, device: torch.device, draws: int, batch: int, *, fast: bool
) -> Loop:
    """The published loop in float32: repeat, add noise, argmax, count on the host."""
    base = network.to(device)
    pool = torch.from_numpy(IMAGES).permute(0, 3, 1, 2).contiguous().to(device)

    def run(number: int) -> NDArray[np.int64]:
        x, counts = pool[number % len(pool)], np.zeros(CLASSES, np.int64)
        with torch.no_grad(), tf32(fast):
            for start in range(0, draws, batch):
                rows = x.repeat((min(batch, draws - start), 1, 1, 1))
                noise = torch.randn_like(rows) * SIGMA
                for vote in base(rows + noise).argmax(1).cpu().numpy():
                    counts[vote] += 1
        return counts

    return run


def compiled(
    network: torch.nn.Module, device: torch.device, draws: int, batch: int, *, compile: bool = True
) -> Loop:
    """A careful loop in PyTorch: bf16, channels-last, batch norm folded, counted on the device."""
    folded = folded_network(network, torch.bfloat16).to(device)
    pool = torch.from_numpy(IMAGES).to(device)

    def votes(x: torch.Tensor) -> torch.Tensor:
        noisy = x + SIGMA * torch.randn((batch, *x.shape), device=device)
        answers: torch.Tensor = folded(noisy.permute(0, 3, 1, 2).bfloat16()).argmax(1)
        return answers

    step = torch.compile(votes, dynamic=False) if compile else votes

    def run(number: int) -> NDArray[np.int64]:
        x, counts = pool[number % len(pool)], torch.zeros(CLASSES, dtype=torch.int64, device=device)
        with torch.no_grad():
            for start in range(0, draws, batch):
                chosen = step(x)[: draws - start]
                counts += torch.bincount(chosen, minlength=CLASSES)
        return counts.cpu().numpy()

    return run
