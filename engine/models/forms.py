"""Forms of a network that run faster, each proved against the network itself before it votes."""

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import nn

from dualsmooth.engine.errors import SamplerError, reason_of
from dualsmooth.engine.models.copies import OfThreads, again
from dualsmooth.engine.models.logits import RowByRow
from dualsmooth.engine.models.rows import BOUNDS, close, extremes, noisy, same

PROVED_ROWS = 16
"""Rows, from all places of a batch, of which a form's logits are compared with the network's."""

SCALE_ROWS = 8
"""Rows that show how far logits move. Of fewer rows a form would have to be nearer."""

OTHERWISE = "other logits than the network gives"

Form = tuple[str, Callable[[], nn.Module]]
"""What a form is called, and what makes it."""


class AsItIs(nn.Module):
    """A copy of the network in one dtype, on rows laid out as PyTorch lays them out."""

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network = OfThreads(again(network)).to(dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network(x.clone(memory_format=torch.contiguous_format))
        return logits


def first_proved(
    model: str, network: nn.Module, batch: torch.Tensor, faster: Sequence[Form]
) -> nn.Module:
    """The first form that gives the admitted network's logits and whose rows are their own.

    Behind the faster forms stand the network as it is, and the network row by row; a warning says
    so when one of these is taken, and what was wrong with the others. The batch holds ordinary
    rows, as many, laid out and of the dtype that the form will get.
    """
    itself = AsItIs(network, batch.dtype)
    plain: list[Form] = [
        ("as it is", lambda: itself),
        ("row by row", lambda: RowByRow(itself)),
    ]
    refused: list[str] = []
    for name, make in (*faster, *plain):
        try:
            form = make()
            wrong = difference(form, itself, batch, BOUNDS[batch.dtype])
        except (MemoryError, SamplerError):
            raise
        except Exception as error:
            if name == plain[-1][0] or "memory" in str(error):
                raise
            form, wrong = itself, reason_of(error)
        if not wrong:
            if refused:
                warnings.warn(f"network {model} runs {name}: {'; '.join(refused)}", stacklevel=2)
            return form
        refused.append(f"{name}, {wrong}")
    raise SamplerError(
        f"{model}: a row's logits must not depend on the other rows of its batch or "
        f"on its place; received {'; '.join(refused)}"
    )


def difference(form: nn.Module, network: nn.Module, batch: torch.Tensor, bound: float) -> str:
    """What a form does otherwise than its network, in words that end a sentence; or nothing.

    Two passes over full batches, which deep networks take a second for: in the other one half of
    the rows have moved, and stand beside extreme ones.
    """

    def run(rows: torch.Tensor) -> torch.Tensor:
        flat = rows.permute(0, 2, 3, 1).clone(memory_format=torch.contiguous_format)
        logits: torch.Tensor = form(flat.permute(0, 3, 1, 2))
        return logits

    every, alone = torch.arange(len(batch)), len(batch) == 1
    moved, plain = every[int(alone) :: 2], every[int(not alone) :: 2]
    origins = every.flip(0).roll(len(every) // 3 // 2 * 2)[moved]  # of even places, odd ones
    with torch.inference_mode():
        mixed = batch.clone()
        mixed[moved], mixed[plain] = batch[origins], extremes(batch[plain])
        logits, beside = run(batch).clone(), run(mixed)
        if not same(beside[moved], logits[origins]):
            return "others at another place beside other rows, or at another pass"
        scale, fewer = list[torch.Tensor](), SCALE_ROWS - len(batch)
        if fewer > 0:  # one row alone does not show how far logits move
            channels, height, width = batch.shape[1:]
            scale = [network(noisy(fewer, (height, width, channels), seed=1).to(batch.dtype))]
        tried = (("noisy", batch, logits), ("plain", mixed[plain], beside[plain]))
        for kind, rows, found in tried:
            shown = torch.linspace(0, len(rows) - 1, min(PROVED_ROWS, len(rows))).long()
            wanted = network(rows[shown])
            if not close(bound, torch.cat([wanted, *scale]))(found[shown], wanted):
                return f"{OTHERWISE} {kind} rows"
            scale += [wanted] * (len(batch) < PROVED_ROWS)
    return ""
