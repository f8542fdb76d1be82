"""How a run draws its votes: everything but the method and the images."""

from dataclasses import dataclass, field

from dualsmooth.engine.budget import Budget
from dualsmooth.engine.checks import open_unit, positive_integer
from dualsmooth.engine.errors import ArgumentError

DEVICES = ("auto", "cpu")
PRECISIONS = ("auto", "fp32", "bf16")
PIXELS_PER_BATCH = 1 << 16


@dataclass(frozen=True)
class Settings:
    """Settings of a run. Those marked * decide votes and are recorded in every certificate.

    Parameters
    ----------
    budget : Budget
        Votes per stage.
    alpha : float
        Failure probability per image, in (0, 1).
    seed, attempt : int
        * Noise stream. A rerun that may replace an earlier result must use a new attempt.
    device : str
        * ``auto`` or ``cpu``.
    precision : str
        * ``fp32``, ``bf16``, or ``auto``: bf16 where the processor multiplies it natively. The
        certificate is about the network in this precision.
    batch_size : int or None
        * Padded batch shape; None picks the largest power of two, 8 to 1024, with at most 65,536
        pixels in a batch.
    threads : int or None
        Batches in work at once; None means one per core. Never changes a vote.
    slots : int
        Images in flight. Never changes a vote.

    Raises
    ------
    ArgumentError
        If a value is outside its range.
    """

    budget: Budget = field(default_factory=Budget.fixed)
    alpha: float = 1e-3
    seed: int = 0
    attempt: int = 0
    device: str = "auto"
    precision: str = "auto"
    batch_size: int | None = None
    threads: int | None = None
    slots: int = 16

    def __post_init__(self) -> None:
        open_unit("alpha", self.alpha)
        for name, stop in (("seed", 1 << 64), ("attempt", 1 << 16)):
            value = getattr(self, name)
            if type(value) is not int or not 0 <= value < stop:
                raise ArgumentError(name, f"must be an integer in [0, {stop})", value)
        for name in ("batch_size", "threads", "slots"):
            if getattr(self, name) is not None or name == "slots":
                positive_integer(name, getattr(self, name))
        for name, known in (("device", DEVICES), ("precision", PRECISIONS)):
            if getattr(self, name) not in known:
                raise ArgumentError(name, f"must be one of {', '.join(known)}", getattr(self, name))

    def padded_batch(self, shape: tuple[int, int, int]) -> int:
        """Batch shape used for images of shape (height, width, channels)."""
        if self.batch_size is not None:
            return self.batch_size
        rows = max(1, PIXELS_PER_BATCH // (shape[0] * shape[1]))
        return max(8, min(1024, 1 << rows.bit_length() - 1))

    @property
    def arithmetic(self) -> str:
        """``fp32`` or ``bf16``: what ``auto`` stands for on this machine."""
        from dualsmooth.engine.runtime.native import multiplies_bf16  # imports torch

        if self.precision != "auto":
            return self.precision
        return "bf16" if multiplies_bf16() else "fp32"
