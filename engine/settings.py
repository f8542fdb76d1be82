"""How a run draws its votes: everything but the method and the images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dualsmooth.engine.budget import Budget
from dualsmooth.engine.checks import error_level, one_of, positive_integer
from dualsmooth.engine.errors import ArgumentError

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
        * ``fp32``, ``bf16``, or ``auto``: bf16 on CUDA devices, and where the processor multiplies
        it natively. The certificate is about the network in this precision.
    batch_size : int or None
        * Padded batch shape; None picks the largest power of two, 8 to 1024, with at most 65,536
        pixels in a batch; on CUDA devices, 8 to 4096 with at most 2^25 pixels.
    threads : int or None
        Batches in work at once; None means one per core. Never changes a vote.
    slots : int or None
        Images in flight; None means 16, or 128 with a ``decide`` budget, which asks for few votes
        at a time; one if each answer depends on those before it. Never changes a vote.
    backend : str
        * What runs the networks. On CUDA devices: cudnn, triton, compile, eager, or ``auto``, which
        measures (`dualsmooth.engine.samplers.cuda` has the details). On processors:
        openvino (extra ``cpu``), or ``auto``, the engine's own path.
    noise : str
        * ``gaussian``: certificates assume ideal Gaussian noise; or ``integer``: images on the
        1/255 grid only, noise exact if Philox words are uniform (see
        `dualsmooth.engine.noise.integer`).

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
    slots: int | None = None
    backend: str = "auto"
    noise: str = "gaussian"

    def __post_init__(self) -> None:
        error_level("alpha", self.alpha)
        for name, stop in (("seed", 1 << 64), ("attempt", 1 << 16)):
            value = getattr(self, name)
            if type(value) is not int or not 0 <= value < stop:
                raise ArgumentError(name, f"must be an integer in [0, {stop})", value)
        for name in ("batch_size", "threads", "slots"):
            if getattr(self, name) is not None:
                positive_integer(name, getattr(self, name))
        names = (("device", DEVICES), ("precision", PRECISIONS), ("noise", NOISES))
        for name, known in names:
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
        if self.slots is not None:
            return self.slots
        return 1 if serial else SLOTS[self.budget.kind]


NOISES = ("gaussian", "integer")
"""What is added to images: sigma z, or the exact noise of `dualsmooth.engine.noise.integer`."""

AUTO = "auto"
OPENVINO = "openvino"

BACKENDS = {"cuda": ("cudnn", "triton", "compile", "eager"), "cpu": (OPENVINO,)}
"""Backends that each kind of device has beside ``auto``."""

AUTOMATIC = ("cudnn", "triton", "eager")
"""What ``auto`` chooses from on CUDA devices. Not compile: it takes minutes for a deep network, and
PyTorch's compiler may choose by timing, so another process could cast other votes. On processors
``auto`` is the engine's own path, which needs no other package."""


def check_backend(text: str, device: str = AUTO) -> str:
    """The text, if it is ``auto`` or a backend of the device; ``auto`` lets the backends of all
    pass.

    On CUDA devices also ``network=backend`` pairs with commas between.
    """
    kinds = tuple(BACKENDS) if device == AUTO else (device,)
    if (
        text == AUTO
        or any(text in BACKENDS[kind] for kind in kinds)
        or ("cuda" in kinds and all(_is_pair(part) for part in text.split(",")))
    ):
        return text
    known = [f"{', '.join(BACKENDS[kind])} on {kind}" for kind in kinds]
    others = [kind for kind in BACKENDS if kind not in kinds and text in BACKENDS[kind]]
    hint = f"use --device {others[0]}" if others else ""
    raise ArgumentError("backend", f"must be one of {AUTO}, {'; '.join(known)}", text, hint)


def _is_pair(part: str) -> bool:
    _, separator, backend = part.rpartition("=")
    return bool(separator) and backend in BACKENDS["cuda"]


def backend_of_each(text: str, models: Sequence[str]) -> dict[str, str]:
    """Backend of a CUDA device, or ``auto``, of every network; none may be left out."""
    check_backend(text, "cuda")
    if "=" not in text:
        return dict.fromkeys(models, text)
    named = dict(part.split("=", 1) for part in text.split(","))
    if set(named) != set(models):
        raise ArgumentError("backend", f"must name {', '.join(models)}", text)
    return named


def sampler_name(chosen: Mapping[str, str]) -> str:
    """``cuda:BACKEND``, with the backend of each network where they differ."""
    if len(set(chosen.values())) == 1:
        return f"cuda:{next(iter(chosen.values()))}"
    return "cuda:" + ",".join(f"{model}={chosen[model]}" for model in sorted(chosen))


def recorded_backend(name: object) -> str:
    """The backend in a sampler's name; ``auto`` if it names none."""
    device, _, backend = str(name).partition(":")
    return check_backend(backend, device) if backend and device in BACKENDS else AUTO


def libraries_of(name: object) -> tuple[str, ...]:
    """Packages whose versions decide the votes of a sampler of this name."""
    return ("torch", OPENVINO) if recorded_backend(name) == OPENVINO else ("torch",)
