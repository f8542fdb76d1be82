"""The law of every network: a row's logits are a function of that row, the same at every pass.

They do not depend on the other rows of the batch, on the row's place, on the number of rows or on
what was asked before. Logits are compared as votes see them: a row's largest logit is subtracted
first, so that a constant added to all of them hides nothing.
"""

from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar, copy_context
from itertools import chain
from typing import Any

import torch

Run = Callable[[torch.Tensor], torch.Tensor]
Agree = Callable[[torch.Tensor, torch.Tensor], bool]
Trial = tuple[str, torch.Tensor, torch.Tensor, torch.Tensor]
"""What is tried, a batch, and for some places in it the rows of another that stand there."""

LEVELS = (0.0, 0.12, 0.25, 0.5, 1.0)
"""Noise levels of the rows that networks are tried on."""

BOUNDS = {torch.float32: 2.0**-14, torch.bfloat16: 2.0**-4}
"""Largest difference by rounding, relative to how far logits move from row to row."""

MATES = (0.25, -1.0, 2.0, -4.0, 16.0, -255.0, 1e4, -1e4)
"""How much larger the rows are that take the places of others."""


ON_TRIAL = ContextVar("a network is tried", default=False)
"""Every member of an ensemble is asked about every row, as one that is seldom asked must be seen to
keep the law, too; and what the parts of a network give each other is checked."""


def on_trial(trials: Callable[[], Any]) -> Any:
    """Run trials in which a member of an ensemble that is seldom asked is seen, too."""
    context = copy_context()
    context.run(ON_TRIAL.set, True)
    return context.run(trials)


def noisy(rows: int, shape: tuple[int, int, int], seed: int = 0) -> torch.Tensor:
    """Rows in the range that noisy images have, (rows, channels, height, width), channels last."""
    draws = torch.Generator().manual_seed(seed)
    sigmas = torch.tensor([LEVELS[row % len(LEVELS)] for row in range(rows)]).view(-1, 1, 1, 1)
    pixels = torch.rand(rows, *shape, generator=draws)
    return (pixels + sigmas * torch.randn(pixels.shape, generator=draws)).permute(0, 3, 1, 2)


def extremes(rows: torch.Tensor) -> torch.Tensor:
    """As many rows of nearly one colour, far brighter or darker, in turn."""
    made = 0.05 * rows
    values = (0.0, 1.0, -8.0, 255.0, 0.5, -1e3)
    for row in range(len(rows)):
        made[row] += values[row % len(values)]
    return made


def same(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    """Whether logits have the same bits, but for the kind of NaN."""
    if found.shape != wanted.shape:
        return False
    return bool(((found == wanted) | (found.isnan() & wanted.isnan())).all())


def close(bound: float, reference: torch.Tensor) -> Agree:
    """Whether logits agree within a bound relative to how far they move in a reference batch.

    They must do so as they are and after the largest of each row was subtracted. Beyond that, a
    difference of four units in the last place of the largest logit is let pass.
    """
    kept = reference.float()[reference.isfinite().all(1)]
    last_places = 2.0**-21 * float(kept.abs().max()) if len(kept) else 0.0
    limits = [
        bound * float((logits.amax(0) - logits.amin(0)).max()) + last_places
        for logits in (kept, centred(kept))
        if len(kept)
    ]

    def agree(found: torch.Tensor, wanted: torch.Tensor) -> bool:
        finite = wanted.isfinite()
        if found.shape != wanted.shape or not torch.equal(found.isfinite(), finite):
            return False
        pair = [logits.float()[finite.all(1)] for logits in (found, wanted)]
        if not len(pair[0]):
            return True
        errors = (pair[0] - pair[1], centred(pair[0]) - centred(pair[1]))
        return all(bool(e.abs().max() <= limit) for e, limit in zip(errors, limits, strict=True))

    return agree


def fault(
    run: Run,
    batch: torch.Tensor,
    agree: Agree = same,
    mates: Sequence[float] = (),
    wanted: torch.Tensor | None = None,
    *,
    brief: bool = False,
) -> str:
    """How a network breaks the law, in words that end a sentence; empty if it was not seen to.

    The batch holds ordinary rows, whose logits may be known. Mates are how much larger the rows are
    that take the places of others, beside `extremes`; with them the number of rows changes, too.
    What was read to keep rows apart is tried in brief: all rows move, beside the last two mates.
    """
    wanted = run(batch).clone() if wanted is None else wanted
    found = ""
    tried = _moves(batch, mates[-2:]) if brief else _trials(batch, mates)
    for what, rows, places, origins in chain(tried, _numbers(batch) if mates else ()):
        if not agree(run(rows)[places], wanted[origins]):
            found = what
            break
    return found if same(run(batch), wanted) else "when the same batch is given again"


def _moves(batch: torch.Tensor, mates: Sequence[float]) -> Iterator[Trial]:
    places = torch.arange(len(batch))
    for first, scale in enumerate(mates):
        moved = batch.flip(0)
        moved[1 - first :: 2] *= scale
        yield (
            "at another place beside other rows",
            moved,
            places[first::2],
            places.flip(0)[first::2],
        )


def _numbers(batch: torch.Tensor) -> Iterator[Trial]:
    places = torch.arange(len(batch))
    for rows in {1, len(batch) // 2 + 1, 2 * len(batch)} - {len(batch)}:
        some = batch.repeat(2, 1, 1, 1)[:rows]
        yield f"in a batch of {rows}", some, places[:rows], places[:rows]


def _trials(batch: torch.Tensor, mates: Sequence[float]) -> Iterator[Trial]:
    places = torch.arange(len(batch))
    order = places.flip(0).roll(len(batch) // 3)
    yield "after the rows were exchanged", batch[order], places, order
    first = torch.zeros_like(places)
    yield "at another place among copies of itself", batch[first], places, first
    for other in (extremes(batch), *(scale * batch.roll(1, 0) for scale in mates)):
        beside = batch.clone(memory_format=torch.preserve_format)
        beside[1::2] = other[1::2]
        yield "beside other rows", beside, places[::2], places[::2]
    for scale in mates:
        outlier = batch.clone(memory_format=torch.preserve_format)
        outlier[0] = scale * batch[-1]
        yield "beside an outlier", outlier, places[1:], places[1:]


def centred(logits: torch.Tensor) -> torch.Tensor:
    """Logits less the largest of each row, in float32, as votes see them."""
    logits = logits.float()
    return logits - logits.amax(1, keepdim=True)
