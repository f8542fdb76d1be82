"""Which backend runs a network: checked first, then timed."""

from collections.abc import Callable, Mapping
from statistics import median

import torch

AGREEMENT_LOST = 0.01
"""Share of votes a backend may move beyond what the precision itself moves."""

ROUNDS = 7


def agrees(scores: torch.Tensor, eager: torch.Tensor, truth: torch.Tensor) -> bool:
    """Whether a backend's votes are as close to the float32 network's as eager's are.

    All are logits [rows, classes]: the backend's and eager PyTorch's in the precision of the run,
    and eager PyTorch's in float32.
    """
    best = truth.argmax(1)
    ours, theirs = (float((x.argmax(1) == best).float().mean()) for x in (scores, eager))
    return ours >= theirs - AGREEMENT_LOST


def fastest(
    passes: Mapping[str, Callable[[], None]],
    seconds: Callable[[Callable[[], None]], float],
    rounds: int = ROUNDS,
) -> str:
    """Name of the pass with the lowest median time; ``seconds`` runs a pass and times it.

    All passes run in each round, so that a change of clock meets them all; one more round before
    them is not timed.
    """
    times: dict[str, list[float]] = {name: [] for name in passes}
    for round_ in range(rounds + 1):
        for name, run in passes.items():
            taken = seconds(run)
            if round_:
                times[name].append(taken)
    return min(times, key=lambda name: median(times[name]))
