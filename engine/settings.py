"""How a run draws its votes: everything but the method and the images."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from dualsmooth.engine.backends import Tried, check_backend
from dualsmooth.engine.budget import Budget
from dualsmooth.engine.checks import below, error_level, keep_plain, one_of, positive_integer
from dualsmooth.engine.errors import ArgumentError

NOISES = ("gaussian", "integer")
"""What is added to images: sigma z, or the exact noise of `dualsmooth.engine.noise.integer`."""

DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("auto", "fp32", "bf16")
PIXELS_PER_BATCH = {"cpu": 1 << 18, "cuda": 1 << 25}
ROWS_PER_BATCH = {"cpu": 1024, "cuda": 4096}
SLOTS = {"fixed": 16, "precise": 16, "decide": 128}


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
        * ``cpu``, ``cuda``, or ``auto``: cuda where PyTorch finds a device.
    precision : str
        * ``fp32``, ``bf16``, or ``auto``: bf16 on CUDA devices; on processors fp32, or bf16 where
        the processor multiplies it and the network is measured to be much faster in it. The
        certificate is about the network in this precision.
    batch_size : int or None
        * Padded batch shape; None picks the largest power of two, 8 to 1024, with at most 65,536
        pixels in a batch; on CUDA devices, 8 to 4096 with at most 2^25 pixels.
    threads : int or None
        Batches in work at once; None means one per core. Never changes a vote.
    slots : int or None
        Images in flight; None means 16, or 128 with a ``decide`` budget, which asks for few votes
        at a time; one if each answer depends on those before it. Never changes a vote.
    backend : str
        * What runs the networks: ``auto``, which measures, or one that the device has (see
        `dualsmooth.engine.samplers.cuda` and `dualsmooth.engine.samplers.processors`).
    noise : str
        * ``gaussian``: certificates assume ideal Gaussian noise; or ``integer``: images on the
        1/255 grid only, noise exact if Philox words are uniform (see
        `dualsmooth.engine.noise.integer`).
    tried : mapping
        Noted by the engine: what ``auto`` tried on a processor to find these settings.
    """

    budget: Budget = field(default_factory=Budget.fixed)
    alpha: float = 1e-3
    seed: int = 0
    attempt: int = 0
    device: str = "auto"
    precision: str = "auto"
    batch_size: int | None = None
    threads: int | None = None
    slots: int | None = None
    backend: str = "auto"
    noise: str = "gaussian"
    tried: Mapping[str, Tried] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        keep_plain(self, "alpha", "seed", "attempt", "batch_size", "threads", "slots")
        if not isinstance(self.budget, Budget):
            raise ArgumentError("budget", "must be a Budget", repr(self.budget), "Budget.fixed()")
        error_level("alpha", self.alpha)
        for name, stop in (("seed", 1 << 64), ("attempt", 1 << 16)):
            below(name, getattr(self, name), stop)
        for name in ("batch_size", "threads", "slots"):
            if getattr(self, name) is not None:
                positive_integer(name, getattr(self, name), most=1 << 20)
        for name, known in (("device", DEVICES), ("precision", PRECISIONS), ("noise", NOISES)):
            one_of(name, getattr(self, name), known)
        check_backend(self.backend, self.device)

    def padded_batch(self, shape: tuple[int, int, int]) -> int:
        """Batch shape on the device, which is known, for images (height, width, channels)."""
        if self.batch_size is not None:
            return self.batch_size
        rows = max(1, PIXELS_PER_BATCH[self.device] // (shape[0] * shape[1]))
        return max(8, min(ROWS_PER_BATCH[self.device], 1 << rows.bit_length() - 1))

    def in_flight(self, serial: bool) -> int:
        """Images in flight, for a method that answers one image after another or not."""
        return self.slots or (1 if serial else SLOTS[self.budget.kind])
