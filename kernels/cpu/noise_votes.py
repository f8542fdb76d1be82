"""Noisy rows and vote counts on a CPU, by the compiled loops of ``noise_votes.c``.

The library is built when the package is installed, if there is a C compiler. Without it
`available` is False and the engine uses PyTorch's operators, about ten times slower at noise.
"""

import ctypes
import math
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dualsmooth.kernels.cpu.compiled import compiled, required
from dualsmooth.kernels.errors import KernelArgumentError
from dualsmooth.kernels.thresholds import Thresholds

SEGMENT = np.dtype(
    [
        ("end", np.int64),
        ("image", np.int64),
        ("level", np.int64),
        ("first", np.uint32),
        ("image_id", np.uint32),
        ("word3", np.uint32),
        ("sigma", np.float32),
    ],
    align=True,
)
"""One segment: rows up to its end (cumulative), index of its image and of its table of thresholds
(integer noise only), counter words, sigma (normal noise only)."""

VERSIONS = ("plain", "avx2", "avx512")
"""Instruction sets the loops are compiled for; all give the same bits."""

DTYPES = (torch.float32, torch.bfloat16)


def available() -> bool:
    """Whether the compiled loops can be used."""
    return _library() is not None


def best_version() -> str:
    """The widest instruction set of this processor that the loops are compiled for."""
    return VERSIONS[_require().dualsmooth_best_version()]


class NoisyRows:
    """Noisy rows of packed segments, image + sigma * noise, which are checked once for all calls.

    Noise is stream version 1 (float64, rounded once to float32); product and sum are rounded to
    float32 each, then to the output's type. With tables, thresholds of the segments' levels, it is
    exact integer noise: a row is float32(image + noise) * float32(1 / 255), images in grid steps.

    ``images`` is float32 (images, height, width, channels); ``version`` is one of `VERSIONS` that
    the processor has, by default the best.
    """

    def __init__(
        self,
        segments: NDArray[Any],
        images: NDArray[np.float32],
        seed: int,
        *,
        version: str | None = None,
        tables: Thresholds | None = None,
    ) -> None:
        self._write = _require().dualsmooth_noisy_rows
        _check_segments(segments, 0, 0)
        _check_images(segments, images)
        if not 0 <= seed < 1 << 64:
            raise KernelArgumentError("seed", "must be in [0, 2^64)", seed)
        grid: tuple[int | None, int | None, int] = (None, None, 0)
        counts = None
        if tables is not None:
            counts = tables.count.long()
            _check_tables(segments, tables.limits)
            grid = tables.limits.data_ptr(), counts.data_ptr(), tables.limits.shape[1]
        self._kept = segments, images, tables, counts
        self._rows, self._shape = _total(segments), images.shape[1:]
        channels, values = self._shape[2], math.prod(self._shape)
        lanes, words = channels if channels in (3, 4) else 4, (seed & 0xFFFFFFFF, seed >> 32)
        data = values, lanes, images.ctypes.data, segments.ctypes.data
        self._before, self._grid = (_version(version), *words, *data), grid

    def write(self, first: int, out: torch.Tensor, rows: int | None = None) -> None:
        """Write neighbouring rows from row ``first`` of the segments on.

        ``out`` is float32 or bfloat16 (batch, height, width, channels), of which the first
        ``rows`` are written, by default all.
        """
        count = len(out) if rows is None else rows
        _check_rows(first, count, self._rows)
        if tuple(out.shape[1:]) != self._shape or out.dtype not in DTYPES:
            rule = f"must be float32 or bfloat16 rows of {self._shape}"
            raise KernelArgumentError("out", rule, f"{out.dtype} {tuple(out.shape)}")
        if not out.is_contiguous():
            raise KernelArgumentError("out", "must be contiguous", out.stride())
        if not 0 <= count <= len(out):
            raise KernelArgumentError("rows", f"must be in [0, {len(out)}]", count)
        half = int(out.dtype == torch.bfloat16)
        self._write(*self._before, first, count, half, out.data_ptr(), *self._grid)


def count_votes(
    logits: torch.Tensor, segments: NDArray[Any], first: int, counts: NDArray[np.int64]
) -> None:
    """Add one vote per row to the histogram of its segment, in ``counts`` (segments, classes + 1).

    A row of ``logits``, float32 (rows, classes), the first being row ``first``, votes for its
    largest logit, the lowest class on ties, or into the last bin if any is NaN or infinite.
    """
    library = _require()
    if logits.ndim != 2 or logits.dtype != torch.float32 or not logits.is_contiguous():
        rule = "must be contiguous float32 (rows, classes)"
        raise KernelArgumentError("logits", rule, f"{logits.dtype} {tuple(logits.shape)}")
    rows, classes = logits.shape
    _check_segments(segments, first, rows)
    if counts.shape != (len(segments), classes + 1) or not _is(counts, np.int64):
        rule = f"must be int64 ({len(segments)}, {classes + 1})"
        raise KernelArgumentError("counts", rule, counts.shape)
    library.dualsmooth_count_votes(
        logits.data_ptr(), classes, segments.ctypes.data, first, rows, counts.ctypes.data
    )


def _check_segments(segments: NDArray[Any], first: int, rows: int) -> None:
    if segments.ndim != 1 or not _is(segments, SEGMENT):
        raise KernelArgumentError("segments", "must be one row of SEGMENT", segments.dtype)
    _check_rows(first, rows, _total(segments))


def _total(segments: NDArray[Any]) -> int:
    return int(segments["end"][-1]) if len(segments) else 0


def _check_rows(first: int, rows: int, total: int) -> None:
    if first < 0 or rows < 0 or (rows and first + rows > total):
        raise KernelArgumentError("rows", "must lie in the segments", f"{first} + {rows}")


def _check_images(segments: NDArray[Any], images: NDArray[np.float32]) -> None:
    if images.ndim != 4 or not _is(images, np.float32):
        rule = "must be contiguous float32 (images, height, width, channels)"
        raise KernelArgumentError("images", rule, images.shape)
    used = segments["image"]
    if len(used) and not 0 <= used.min() <= used.max() < len(images):
        raise KernelArgumentError("segments", f"must name images below {len(images)}", used.max())


def _check_tables(segments: NDArray[Any], limits: torch.Tensor) -> None:
    levels, width = limits.shape
    if limits.device.type != "cpu" or width & (width + 1):
        raise KernelArgumentError("tables", "must be packed for the CPU", (limits.device, width))
    used = segments["level"]
    if len(used) and not 0 <= used.min() <= used.max() < levels:
        raise KernelArgumentError("segments", f"must name levels below {levels}", used.tolist())


def _is(array: NDArray[Any], dtype: Any) -> bool:
    return array.dtype == dtype and array.flags.c_contiguous


def _version(name: str | None) -> int:
    best = int(_require().dualsmooth_best_version())
    if name is None:
        return best
    if name not in VERSIONS[: best + 1]:
        raise KernelArgumentError("version", f"must be one of {VERSIONS[: best + 1]}", name)
    return VERSIONS.index(name)


def _require() -> ctypes.CDLL:
    return required("noise_votes", _library())


@cache
def _library() -> ctypes.CDLL | None:
    library = compiled("noise_votes")
    if library is None:
        return None
    integer, pointer, word = ctypes.c_int64, ctypes.c_void_p, ctypes.c_uint32
    types: list[Any] = [ctypes.c_int, word, word, integer, integer, pointer, pointer, integer]
    types += [integer, ctypes.c_int, pointer, pointer, pointer, integer]
    library.dualsmooth_noisy_rows.argtypes = types
    library.dualsmooth_count_votes.argtypes = [pointer, integer, pointer, integer, integer, pointer]
    library.dualsmooth_noisy_rows.restype = library.dualsmooth_count_votes.restype = None
    return library
