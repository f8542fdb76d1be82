"""The rows of a packed batch: which image, how much noise, which counters, whose vote."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch

from dualsmooth.kernels.checks import expect, expect_words
from dualsmooth.kernels.errors import KernelArgumentError

WORD = 1 << 32


@dataclass(frozen=True, slots=True)
class Rows:
    """One entry per row of a batch, structure of arrays, all on one device, all of shape (rows,).

    Words are int32 with the bits of a uint32.
    """

    slot: torch.Tensor  # int32, image slot the row reads
    sigma: torch.Tensor  # float32, noise standard deviation in input units, finite and >= 0
    stream: torch.Tensor  # word c3: stream byte | version << 8 | attempt << 16
    image: torch.Tensor  # word c2: image id
    sample: torch.Tensor  # word c1: sample index
    segment: torch.Tensor  # int32, histogram the row votes into; -1 for a row that does not vote

    def __post_init__(self) -> None:
        expect_words("rows.slot", len(self.slot), "entries")
        for field in fields(self):
            column = getattr(self, field.name)
            dtype = torch.float32 if field.name == "sigma" else torch.int32
            if column.dtype != dtype or column.shape != self.slot.shape or column.ndim != 1:
                rule = f"must be {dtype} of shape {tuple(self.slot.shape)}"
                received = f"{column.dtype} {tuple(column.shape)}"
                raise KernelArgumentError(f"rows.{field.name}", rule, received)
            if column.device != self.slot.device or not column.is_contiguous():
                rule = "must be contiguous on the rows' device"
                raise KernelArgumentError(f"rows.{field.name}", rule, column.device)

    def __len__(self) -> int:
        return len(self.slot)

    @classmethod
    def pack(
        cls,
        *,
        slot: Sequence[int],
        sigma: Sequence[float],
        stream: Sequence[int],
        image: Sequence[int],
        sample: Sequence[int],
        segment: Sequence[int],
        device: torch.device | str = "cpu",
    ) -> "Rows":
        """Build rows from Python numbers; counter words are taken as unsigned, in [0, 2^32)."""
        words = dict(stream=stream, image=image, sample=sample)
        for name, values in words.items():
            if len(values) and not (0 <= min(values) and max(values) < WORD):
                raise KernelArgumentError(name, "must be in [0, 2^32)", f"{min(values)} ..")
        for value in sigma:
            if not 0.0 <= value < float("inf"):
                raise KernelArgumentError("sigma", "must be finite and >= 0", value)
        bits = {name: word_bits(values, device) for name, values in words.items()}
        return cls(
            slot=torch.tensor(slot, dtype=torch.int32, device=device),
            sigma=torch.tensor(sigma, dtype=torch.float32, device=device),
            segment=torch.tensor(segment, dtype=torch.int32, device=device),
            **bits,
        )


def expect_batch(images: torch.Tensor, rows: Rows, key: torch.Tensor, dtype: torch.dtype) -> None:
    """Check the images [slots, H, W, C], the rows and the key of a noise kernel.

    Slot numbers are checked on the CPU only: on a GPU the check would wait for the device.
    """
    expect("images", images, (None, None, None, None), (dtype,))
    if images.numel() == 0:
        raise KernelArgumentError("images", "must not be empty", tuple(images.shape))
    expect_words("images", images[0].numel(), "values each")
    expect("key", key, (2,), (torch.int32,), device=images.device)
    expect("rows.slot", rows.slot, (None,), (torch.int32,), device=images.device)
    if len(rows) and not rows.slot.is_cuda:
        low, high = int(rows.slot.min()), int(rows.slot.max())
        if low < 0 or high >= len(images):
            rule = f"must be in [0, {len(images)})"
            raise KernelArgumentError("rows.slot", rule, f"{low} .. {high}")


def word_bits(values: Sequence[int], device: torch.device | str = "cpu") -> torch.Tensor:
    """Unsigned 32-bit numbers as an int32 tensor with the same bits."""
    return torch.tensor(values, dtype=torch.int64).to(torch.int32).to(device)


def seed_key(seed: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """Philox key of a run seed, 0 <= seed < 2^64: int32 tensor (2,), low word first."""
    if not 0 <= seed < 1 << 64:
        raise KernelArgumentError("seed", "must be in [0, 2^64)", seed)
    return word_bits([seed % WORD, seed >> 32], device)
