"""A network that is a function read from a file, and known by the digest of that file."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


class Exported(nn.Module):
    """A network that is only a function, from float32 (rows, channels, height, width) to logits.

    It takes any number of rows, or only `rows`, and may be called from many threads. The digest is
    of the file that it was read from. ``row_wise`` says that its operators were read, and that each
    treats every row alone.
    """

    def __init__(
        self,
        run: Callable[[torch.Tensor], torch.Tensor],
        rows: int | None,
        sha256: str,
        row_wise: bool = False,
    ) -> None:
        super().__init__()
        self.sha256 = sha256
        self._run, self._rows = (run, row_wise), rows  # in a tuple, so that it is no submodule
        self.eval()

    def __deepcopy__(self, memo: dict[int, Any]) -> "Exported":
        return Exported(self._run[0], self._rows, self.sha256, self.row_wise)

    @property
    def row_wise(self) -> bool:
        """Whether no trial is needed to know that a row's logits are a function of that row."""
        return self._run[1]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.dtype != torch.float32:
            raise RuntimeError("an exported network runs in float32 only")
        run = self._run[0]
        if self._rows is None:
            return run(x.contiguous())
        padding = -len(x) % self._rows
        padded = torch.cat([x, x.new_zeros(padding, *x.shape[1:])])
        parts = [run(part.contiguous()) for part in torch.split(padded, self._rows)]
        return torch.cat(parts)[: len(x)]
