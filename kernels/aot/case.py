"""What the ahead-of-time checks know of a kernel.

Work is counted per draw (one row of a batch): device-memory bytes if every input is read and every
output written once, and multiply-adds counted as two operations.
"""

from dataclasses import dataclass, field
from typing import Any

POINTERS = (
    dict.fromkeys(("key", "slot", "stream", "image", "sample", "segment", "level"), "*i32")
    | dict.fromkeys(("count", "lowest"), "*i32")
    | dict.fromkeys(("images", "sigma", "table", "bias"), "*fp32")
    | dict.fromkeys(("weight", "x", "residual", "source", "projection", "noisy"), "*bf16")
    | dict.fromkeys(("out", "features", "other", "total"), "*bf16")
    | dict.fromkeys(("scale", "shift"), "*fp32")
    | {"counts": "*i64", "thresholds": "*i64", "logits": "*fp32"}
)


@dataclass(frozen=True)
class Case:
    """One compiled form of one kernel."""

    name: str
    kernel: Any
    constants: dict[str, Any]
    warps: int  # per program
    programs: float  # per draw
    bytes: int  # of device memory per draw
    flop: int = 0  # per draw
    mma: bool = False  # tensor-core instructions must be there
    straight: bool = True  # the static instruction count is the executed one (no loop)
    types: dict[str, str] = field(default_factory=dict)  # of arguments, where unusual
    stages: int = 1  # of loads under way at once; from 2 on they are asynchronous copies
    even: tuple[str, ...] = ()  # numbers that are multiples of 16, beside all pointers
    fusion: bool = True  # of products and sums

    @property
    def signature(self) -> dict[str, str]:
        """Type of every argument in order, by name."""
        known = POINTERS | self.types
        names = self.kernel.arg_names
        return {n: "constexpr" if n in self.constants else known.get(n, "i32") for n in names}

    @property
    def aligned(self) -> dict[tuple[int], list[list[object]]]:
        """What Triton is told of arguments that are multiples of 16, by place."""
        types = enumerate(self.signature.items())
        even = [i for i, (name, kind) in types if kind.startswith("*") or name in self.even]
        return {(i,): [["tt.divisibility", 16]] for i in even}
