"""Programs whose every operator treats each row alone: of these nothing has to be tried.

An operator or an argument of which that is not plain leaves a program to the trials of the front
door.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from dualsmooth.engine.models.graph.layers import arguments_of
from dualsmooth.engine.models.graph.row_rules import RowRules
from dualsmooth.engine.models.sources.pt2_program import Pt2Program, Result, Step


def is_row_wise(program: Pt2Program) -> bool:
    """Whether logits are seen to be a function of the one row that they stand in."""
    found = _Rows(program.constants, {program.pixels: 4})
    return all(map(found.add, program.steps)) and found.axes.get(program.logits) == 2


@dataclass
class _Rows(RowRules):
    """How many axes the values have that consist of rows, by name."""

    values: ClassVar[type] = Result
    constants: Mapping[str, torch.Tensor]
    axes: dict[str, int] = field(default_factory=dict)

    def add(self, step: Step) -> bool:
        """Take in an operator; False if its result may not consist of rows."""
        target, given, names, _ = step
        if not isinstance(target, torch._ops.OpOverload) or len(names) != 1:
            return False
        axes = self.result(target, *arguments_of(target, (), given))
        self.axes[names[0]] = axes
        return axes > 1

    def axes_of(self, value: object) -> int:
        return self.axes.get(value.name, 0) if isinstance(value, Result) else 0

    def constant(self, value: object) -> torch.Tensor | None:
        """The program's own tensor that a value is, whose name no result has taken."""
        named = isinstance(value, Result) and value.name not in self.axes
        return self.constants.get(value.name) if named else None  # type: ignore[attr-defined]
