"""Sampling loops to compare with, on one device; see `contest.py`."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from dualsmooth.benchmarks.gpu.votes import CLASSES, SIGMA, Subject
from dualsmooth.engine.samplers.fusion.fold import folded_network

Loop: TypeAlias = Callable[[int, int], NDArray[np.int64]]
"""(image number i of the pool, draws) -> votes, on the host."""

Step: TypeAlias = Callable[[torch.Tensor], torch.Tensor]
"""Image -> classes of a batch of noisy copies, both on the device."""


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
    network: torch.nn.Module, subject: Subject, device: torch.device, batch: int, *, fast: bool
) -> Loop:
    """The published loop in float32: repeat, add noise, argmax, count on the host."""
    base = copy.deepcopy(network).to(device)
    pool = torch.from_numpy(subject.images).permute(0, 3, 1, 2).contiguous().to(device)

    def run(number: int, draws: int) -> NDArray[np.int64]:
        x, counts = pool[number % len(pool)], np.zeros(CLASSES, np.int64)
        with torch.no_grad(), tf32(fast):
            for start in range(0, draws, batch):
                rows = x.repeat((min(batch, draws - start), 1, 1, 1))
                noise = torch.randn_like(rows) * SIGMA
                for vote in base(rows + noise).argmax(1).cpu().numpy():
                    counts[vote] += 1
        return counts

    return run


def careful(
    network: torch.nn.Module, subject: Subject, device: torch.device, *, mode: str = "none"
) -> Loop:
    """A careful loop in PyTorch: bf16, channels-last, batch norm folded, counted on the device.

    ``mode`` is none, compile, graph (compiled, then captured by hand), or autotune (the compiler
    measures, without its own graphs, and freezes the weights).
    """
    pool, batch = torch.from_numpy(subject.images).to(device), subject.batch
    height, width, channels = pool.shape[1:]
    shape = (batch, height, width, channels)
    folded = folded_network(network, torch.bfloat16, shape).to(device)

    def votes(x: torch.Tensor) -> torch.Tensor:
        noisy = x + SIGMA * torch.randn((batch, *x.shape), device=device)
        answers: torch.Tensor = folded(noisy.permute(0, 3, 1, 2).bfloat16()).argmax(1)
        return answers

    step = _step(votes, mode, pool[0])

    def run(number: int, draws: int) -> NDArray[np.int64]:
        x, counts = pool[number % len(pool)], torch.zeros(CLASSES, dtype=torch.int64, device=device)
        with torch.no_grad(), freezing(mode == "autotune"):
            for start in range(0, draws, batch):
                chosen = step(x)[: draws - start]
                counts += torch.bincount(chosen, minlength=CLASSES)
        return counts.cpu().numpy()

    return run


@contextmanager
def freezing(wanted: bool) -> Iterator[None]:
    """The compiler folds weights into its program, and takes the library's convolutions."""
    if not wanted:
        yield
        return
    from torch._inductor import config

    with config.patch(freezing=True, max_autotune_conv_backends="ATEN"):
        yield


def _step(votes: Step, mode: str, image: torch.Tensor) -> Step:
    if mode == "none":
        return votes
    if mode == "autotune":
        return torch.compile(votes, dynamic=False, mode="max-autotune-no-cudagraphs")
    compiled = torch.compile(votes, dynamic=False)
    return compiled if mode == "compile" else _captured(compiled, image)


def _captured(step: Step, image: torch.Tensor) -> Step:
    """The step as a replayed graph; noise is fresh on every replay."""
    static, out = image.clone(), dict[str, torch.Tensor]()

    def work() -> None:
        with torch.no_grad():
            out["votes"] = step(static)

    side, main = torch.cuda.Stream(), torch.cuda.current_stream()  # type: ignore[no-untyped-call]
    side.wait_stream(main)
    with torch.cuda.stream(side):
        for _ in range(3):
            work()
    main.wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()

    def run(x: torch.Tensor) -> torch.Tensor:
        static.copy_(x)
        graph.replay()
        return out["votes"]

    return run
