"""Wrappers of the noise kernels."""

import math

import torch

from dualsmooth.kernels import reference
from dualsmooth.kernels.checks import FLOATS, expect, expect_programs, runs_kernel
from dualsmooth.kernels.errors import KernelArgumentError
from dualsmooth.kernels.launch import NoiseLaunch
from dualsmooth.kernels.rows import Rows, expect_batch
from dualsmooth.kernels.thresholds import Thresholds


def noise(
    images: torch.Tensor,
    rows: Rows,
    key: torch.Tensor,
    *,
    dtype: torch.dtype = torch.float32,
    padded: bool = False,
    backend: str = "auto",
    launch: NoiseLaunch | None = None,
) -> torch.Tensor:
    """Noisy copies x + sigma z of a packed batch; noise stream version 1.

    Parameters
    ----------
    images : float32 tensor [slots, H, W, C]
        Images in [0, 1], channels-last.
    rows : Rows
        R rows: slot, sigma and counter words each.
    key : int32 tensor (2,)
        `seed_key(seed)`.
    dtype : torch.dtype
        float32, float16 or bfloat16; x + sigma z is computed in float32 and rounded once.
    padded : bool
        Write RGB with a fourth zero channel, so that a pixel is one aligned store.
    backend : str
        auto, triton or reference.
    launch : NoiseLaunch or None
        Launch choice; None takes `NoiseLaunch.choose`.

    Returns
    -------
    tensor of ``dtype`` [R, H, W, C] (or 4 channels when padded)
        z agrees with the float64 specification within 2e-6.

    Raises
    ------
    KernelArgumentError
        If a shape, dtype, device or range is wrong.
    """
    expect_batch(images, rows, key, torch.float32)
    channels = _output(images, dtype, padded)
    if not runs_kernel(backend, images):
        return reference.pad_channels(reference.noise(images, rows, key), channels).to(dtype)
    from dualsmooth.kernels.triton.noise import noise_kernel

    out = torch.empty((len(rows), *images.shape[1:3], channels), dtype=dtype, device=images.device)
    return _run(noise_kernel, images, out, rows, key, rows.sigma, launch)


def integer_noise(
    images: torch.Tensor,
    rows: Rows,
    key: torch.Tensor,
    level: torch.Tensor,
    tables: Thresholds,
    *,
    dtype: torch.dtype = torch.float32,
    padded: bool = False,
    backend: str = "auto",
    launch: NoiseLaunch | None = None,
) -> torch.Tensor:
    """Noisy copies on the 1/255 grid, exact: float32(x + E) * float32(1/255).

    Parameters
    ----------
    images : uint8 tensor [slots, H, W, C]
        Images in grid units, channels-last.
    rows : Rows
        R rows; ``sigma`` is not read, ``level`` names the table instead.
    key : int32 tensor (2,)
        `seed_key(seed)`.
    level : int32 tensor (R,)
        Row of ``tables`` per row.
    tables : Thresholds
        `Thresholds.pack`, on the images' device.
    dtype, padded, backend, launch
        As for `noise`; one rounding to ``dtype``.

    Returns
    -------
    tensor of ``dtype`` [R, H, W, C] (or 4 channels when padded)
        Not clipped. The grid index is bit-exact everywhere.

    Raises
    ------
    KernelArgumentError
        If a shape, dtype, device or range is wrong.
    """
    expect_batch(images, rows, key, torch.uint8)
    expect("level", level, (len(rows),), (torch.int32,), device=images.device)
    expect("tables.limits", tables.limits, (None, None), (torch.int64,), device=images.device)
    if (
        len(rows)
        and not level.is_cuda
        and not 0 <= int(level.min()) <= int(level.max()) < len(tables.limits)
    ):
        raise KernelArgumentError("level", f"must be in [0, {len(tables.limits)})", level.tolist())
    channels = _output(images, dtype, padded)
    if not runs_kernel(backend, images):
        exact = reference.integer_noise(images, rows, key, level, tables)
        return reference.pad_channels(exact, channels).to(dtype)
    from dualsmooth.kernels.triton.noise import integer_noise_kernel

    out = torch.empty((len(rows), *images.shape[1:3], channels), dtype=dtype, device=images.device)
    columns = tables.limits, tables.count, tables.lowest, tables.limits.shape[1]
    return _run(
        integer_noise_kernel, images, out, rows, key, level, launch, *columns, STEPS=tables.steps
    )


def _run(
    kernel,
    images: torch.Tensor,
    out: torch.Tensor,
    rows: Rows,
    key: torch.Tensor,
    scale: torch.Tensor,
    launch: NoiseLaunch | None,
    *tables,
    **constants,
) -> torch.Tensor:
    """Launch a noise kernel; ``scale`` holds the sigma or the level of each row."""
    step, channels = reference.block_step(images.shape[3]), out.shape[3]
    blocks = -(-images[0].numel() // step)
    choice = launch or NoiseLaunch.choose(blocks)
    kernel[(len(rows), expect_programs(images, -(-blocks // choice.blocks)))](
        *(images, out, key, rows.slot, scale, rows.stream, rows.image, rows.sample, *tables),
        images[0].numel(),
        math.prod(out.shape[1:]),
        STEP=step,
        OUT_STEP=channels if step == 3 else 4,
        BLOCK=choice.blocks,
        num_warps=choice.warps,
        enable_fp_fusion=True,
        **constants,
    )
    return out


def _output(images: torch.Tensor, dtype: torch.dtype, padded: bool) -> int:
    """Channels written, after checking what is asked for."""
    if dtype not in FLOATS:
        raise KernelArgumentError("dtype", "must be float32, float16 or bfloat16", dtype)
    if padded and images.shape[3] != 3:
        rule = "must be False unless images have 3 channels"
        raise KernelArgumentError("padded", rule, images.shape[3])
    return 4 if padded else images.shape[3]
