"""Wrapper of the fused noise + first convolution."""

import torch

from dualsmooth.kernels import reference
from dualsmooth.kernels.checks import expect, expect_programs, runs_kernel
from dualsmooth.kernels.errors import KernelArgumentError
from dualsmooth.kernels.folding import FoldedStem
from dualsmooth.kernels.launch import StemLaunch, StemShape
from dualsmooth.kernels.noise import noise
from dualsmooth.kernels.rows import Rows, expect_batch


def stem(
    images: torch.Tensor,
    rows: Rows,
    key: torch.Tensor,
    folded: FoldedStem,
    *,
    stride: int = 1,
    relu: bool = True,
    backend: str = "auto",
    launch: StemLaunch | None = None,
) -> torch.Tensor:
    """relu(conv((x + sigma z - mean) / std) + bias), zero padding after the normalisation.

    Parameters
    ----------
    images : float32 tensor [slots, H, W, C]
        Images in [0, 1], channels-last, C in {1, 3, 4}.
    rows : Rows
        R rows: slot, sigma and counter words each.
    key : int32 tensor (2,)
        `seed_key(seed)`.
    folded : FoldedStem
        Weights, padding and preprocessing. Its dtype is the dtype of noisy values, product
        operands and result; sums are float32.
    stride : int
        Positive. Beyond 1 and 2, or with even kernels, other padding than "same", or outputs that
        are no power of two up to 64, there is one design, ``stored``.
    relu : bool
        Apply the ReLU.
    backend : str
        auto, triton or reference.
    launch : StemLaunch or None
        Design and tile; None takes `StemLaunch.choose`. Designs agree up to float32 summation
        order, so a certified run keeps one.

    Returns
    -------
    tensor [R, OH, OW, Cout] of the folded dtype

    Raises
    ------
    KernelArgumentError
        If a shape, dtype, device or range is wrong.
    """
    expect_batch(images, rows, key, torch.float32)
    size, channels, outputs = folded.weight.shape[0], *folded.weight.shape[2:]
    expect("images", images, (None, None, None, channels), (torch.float32,))
    expect("folded.packed", folded.packed, (None, outputs), device=images.device)
    height, width = images.shape[1:3]
    if stride < 1:
        raise KernelArgumentError("stride", "must be positive", stride)
    if size > min(height, width) + 2 * folded.pad:
        rule = f"must not be smaller than a kernel of {size}x{size} with its padding"
        raise KernelArgumentError("images", rule, tuple(images.shape))
    dtype = folded.packed.dtype
    if not runs_kernel(backend, images):
        noisy = reference.noise(images, rows, key)
        parts = (folded.weight, folded.bias, folded.mean, folded.std)
        y = reference.stem(noisy, *parts, stride=stride, relu=relu, padding=folded.pad)
        return y.to(dtype)
    shape = StemShape(height, width, channels, outputs, size, stride, folded.pad)
    choice = launch or StemLaunch.choose(shape)
    out = torch.empty(
        (len(rows), shape.out_height, shape.out_width, outputs), dtype=dtype, device=images.device
    )
    _launch(images, rows, key, folded, out, relu, shape, choice, backend)
    return out


def _launch(
    images: torch.Tensor,
    rows: Rows,
    key: torch.Tensor,
    folded: FoldedStem,
    out: torch.Tensor,
    relu: bool,
    shape: StemShape,
    choice: StemLaunch,
    backend: str,
) -> None:
    from dualsmooth.kernels.triton import stem as device

    if choice.design not in ("tile", "stored"):
        raise KernelArgumentError("launch.design", "must be tile or stored", choice.design)
    if choice.design != "stored" and not shape.plain:
        raise KernelArgumentError("launch.design", f"must be stored for {shape}", choice.design)
    layer = shape.constants | dict(
        RELU=relu, PIXELS=choice.pixels, num_warps=choice.warps, num_stages=1, enable_fp_fusion=True
    )
    parameters = folded.packed, folded.table, out
    counters = rows.slot, rows.sigma, rows.stream, rows.image, rows.sample
    tiles = -(-shape.out_height * shape.out_width // choice.pixels)
    if choice.design == "tile":
        if choice.pixels < choice.tile_rows * shape.out_width or choice.tile_rows < 1:
            raise KernelArgumentError("launch.pixels", "must hold tile_rows rows", choice)
        tiles = -(-shape.out_height // choice.tile_rows)
    expect_programs(images, tiles)
    if choice.design == "stored":
        padded = shape.channels == 3
        noisy = noise(images, rows, key, dtype=folded.packed.dtype, padded=padded, backend=backend)
        wide = min(choice.outputs, 1 << (shape.outputs - 1).bit_length())
        parts = expect_programs(images, -(-shape.outputs // wide))
        device.stem_stored_kernel[(len(rows), tiles, parts)](
            noisy, *parameters, CHUNK=choice.chunk, OUTPUTS=wide, **layer
        )
    else:
        device.stem_tile_kernel[(len(rows), tiles)](
            images,
            *parameters,
            key,
            *counters,
            TILE_ROWS=choice.tile_rows,
            BLOCKS=choice.strip_blocks(shape),
            CHUNK=choice.chunk,
            **layer,
        )
