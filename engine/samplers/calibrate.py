"""Which backend runs a network: checked first, then timed."""

from collections.abc import Callable, Mapping
from statistics import median

import torch

from dualsmooth.engine.errors import SamplerError

AGREEMENT_LOST = 0.01
"""Share of votes a backend may move beyond what the precision itself moves."""

ROUNDS = 7


def is_position_free(forward: torch.Tensor, backward: torch.Tensor) -> bool:
    """Whether a batch and the same batch in reverse order gave every row the same bits.

    A library may sum a row's terms in an order that depends on where the row stands. Then votes
    would depend on batch mates, and a run could not be repeated with another packing.
    """
    return torch.equal(forward, backward.flip(0))


def check_rows(
    model: str, scores: torch.Tensor, beside: torch.Tensor, backward: torch.Tensor
) -> None:
    """Raise `SamplerError` if a bit of a row's logits depends on the other rows or on its place.

    Parameters
    ----------
    model : str
        Network, for the message.
    scores : tensor [rows, classes]
        Logits of a batch.
    beside : tensor [rows, classes]
        Logits of the batch with every second row, from the row after the first, replaced.
    backward : tensor [rows, classes]
        Logits of the batch in reverse order.
    """
    if not torch.equal(scores[::2], beside[::2]):
        raise SamplerError(
            f"{model}: a row's logits must not depend on the other rows of its batch; received "
            "other ones beside other samples (take batch statistics out of the network)"
        )
    if not is_position_free(scores, backward):
        raise SamplerError(
            f"{model}: a row's logits must not depend on its place in the batch; received "
            "other ones in reverse order (try another --backend or --batch-size)"
        )


def agrees(scores: torch.Tensor, eager: torch.Tensor, truth: torch.Tensor) -> bool:
    """Whether a backend's votes are as close to the float32 network's as eager's are.

    Parameters
    ----------
    scores, eager : tensor [rows, classes]
        Logits of the backend, and of eager PyTorch, in the precision of the run.
    truth : tensor [rows, classes]
        Logits of eager PyTorch in float32.
    """
    best = truth.argmax(1)
    ours, theirs = (float((x.argmax(1) == best).float().mean()) for x in (scores, eager))
    return ours >= theirs - AGREEMENT_LOST


def fastest(
    passes: Mapping[str, Callable[[], None]],
    seconds: Callable[[Callable[[], None]], float],
    rounds: int = ROUNDS,
) -> str:
    """Name of the pass with the lowest median time.

    Parameters
    ----------
    passes : mapping of str to callable
        At least one.
    seconds : callable
        Runs a pass and returns how long it took.
    rounds : int
        Timed rounds, after one that is not. All passes run in each, so that a change of clock meets
        them all.
    """
    times: dict[str, list[float]] = {name: [] for name in passes}
    for round_ in range(rounds + 1):
        for name, run in passes.items():
            taken = seconds(run)
            if round_:
                times[name].append(taken)
    return min(times, key=lambda name: median(times[name]))
