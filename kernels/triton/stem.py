"""Device code: noise generation fused with the first convolution.

Two ways to the same numbers. `stem_tile_kernel` makes the noisy strip of full-width rows that a
tile needs, halo included, once, and gathers the taps from it on chip. `stem_stored_kernel` reads
noisy images that `noise_kernel` wrote, and has any kernel, stride and padding, patches among them.
Means and deviations are folded into the weights and a table of border biases
(`folding.fold_stem`), so the taps outside the image are plain zeros.
"""

import triton
import triton.language as tl

from dualsmooth.kernels.triton.noise import lanes
from dualsmooth.kernels.triton.philox import key_words, normals, row_counter


@triton.jit
def finish(
    acc,
    table,
    out,
    row,
    pixel,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    OUT_HEIGHT: tl.constexpr,
    OUT_WIDTH: tl.constexpr,
    KERNEL: tl.constexpr,
    STRIDE: tl.constexpr,
    PAD: tl.constexpr,
    COUT: tl.constexpr,
    RELU: tl.constexpr,
    live,
    cout,
    OUTPUTS: tl.constexpr,  # of them
):
    """Add the bias of each pixel's border class, apply the ReLU, store the outputs ``cout``."""
    SIDE: tl.constexpr = (PAD + 1) * (PAD + 1)
    top = pixel // OUT_WIDTH * STRIDE - PAD
    left = pixel % OUT_WIDTH * STRIDE - PAD
    vertical = tl.maximum(-top, 0) * (PAD + 1) + tl.maximum(top + KERNEL - HEIGHT, 0)
    horizontal = tl.maximum(-left, 0) * (PAD + 1) + tl.maximum(left + KERNEL - WIDTH, 0)
    entry = (vertical * SIDE + horizontal)[:, None] * COUT + cout[None, :]
    keep = live[:, None]
    if COUT % OUTPUTS != 0:
        keep = keep & (cout < COUT)[None, :]
    acc += tl.load(table + entry, mask=keep, other=0.0)
    if RELU:
        acc = tl.maximum(acc, 0.0, propagate_nan=tl.PropagateNan.ALL)
    at = (row * (OUT_HEIGHT * OUT_WIDTH) + pixel)[:, None] * COUT + cout[None, :]
    tl.store(out + at, acc.to(out.dtype.element_ty), mask=keep)


@triton.jit
def tap_places(
    pixel,
    k,
    live,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    OUT_WIDTH: tl.constexpr,
    KERNEL: tl.constexpr,
    STRIDE: tl.constexpr,
    PAD: tl.constexpr,
    CHANNELS: tl.constexpr,
    LANES: tl.constexpr,
):
    """Where entry k = (ky, kx, lane) of each output pixel reads: flat place, inside; [PIXELS, K].

    A pixel takes LANES places. The place is only meaningful where inside holds.
    """
    tap = k // LANES
    lane = k % LANES
    iy = (pixel // OUT_WIDTH * STRIDE)[:, None] + (tap // KERNEL - PAD)[None, :]
    ix = (pixel % OUT_WIDTH * STRIDE)[:, None] + (tap % KERNEL - PAD)[None, :]
    real = (lane < CHANNELS) & (tap < KERNEL * KERNEL)
    inside = (iy >= 0) & (iy < HEIGHT) & (ix >= 0) & (ix < WIDTH)
    inside = inside & real[None, :] & live[:, None]
    return (iy * WIDTH + ix) * LANES + lane[None, :], inside


@triton.jit
def stem_tile_kernel(
    images,  # fp32 [slots, HEIGHT, WIDTH, CHANNELS]
    weight,  # [K_PAD, COUT], rows ordered (ky, kx, lane)
    table,  # fp32 border biases
    out,
    key,
    slot,
    sigma,
    stream,
    image,
    sample,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    CHANNELS: tl.constexpr,
    LANES: tl.constexpr,  # places per pixel in the strip: 4 for RGB(A), else the channels
    COUT: tl.constexpr,
    KERNEL: tl.constexpr,
    STRIDE: tl.constexpr,
    PAD: tl.constexpr,
    RELU: tl.constexpr,
    TILE_ROWS: tl.constexpr,  # output rows per program
    BLOCKS: tl.constexpr,  # power of two >= Philox blocks of the strip
    PIXELS: tl.constexpr,  # power of two >= TILE_ROWS * OUT_WIDTH
    CHUNK: tl.constexpr,  # reduction entries per gather and dot
):
    """Noisy strip once per tile, taps gathered from it on chip."""
    OUT_HEIGHT: tl.constexpr = (HEIGHT + 2 * PAD - KERNEL) // STRIDE + 1
    OUT_WIDTH: tl.constexpr = (WIDTH + 2 * PAD - KERNEL) // STRIDE + 1
    STEP: tl.constexpr = CHANNELS if LANES == 4 else 4
    VALUES: tl.constexpr = HEIGHT * WIDTH * CHANNELS
    row = tl.program_id(0).to(tl.int64)
    first_row = tl.maximum(tl.program_id(1) * TILE_ROWS * STRIDE - PAD, 0)
    first_block = first_row * (WIDTH * CHANNELS) // STEP
    block = first_block + tl.arange(0, BLOCKS)
    lane = tl.arange(0, 4)[None, :]
    k0, k1 = key_words(key)
    c1, c2, c3 = row_counter(stream, image, sample, row)
    z0, z1, z2, z3 = normals(block.to(tl.uint32), c1, c2, c3, k0, k1)
    at = block[:, None] * STEP + lane
    inside = (lane < STEP) & (at < VALUES)
    x = tl.load(images + tl.load(slot + row).to(tl.int64) * VALUES + at, mask=inside, other=0.0)
    noisy = x + tl.load(sigma + row) * lanes(z0, z1, z2, z3, BLOCKS)
    strip = tl.reshape(noisy.to(weight.dtype.element_ty), [BLOCKS * 4])

    local = tl.arange(0, PIXELS)
    pixel = tl.program_id(1) * (TILE_ROWS * OUT_WIDTH) + local
    live = (local < TILE_ROWS * OUT_WIDTH) & (pixel < OUT_HEIGHT * OUT_WIDTH)
    cout = tl.arange(0, COUT)
    acc = tl.zeros([PIXELS, COUT], tl.float32)
    for chunk in tl.static_range((KERNEL * KERNEL * LANES + CHUNK - 1) // CHUNK):
        k = chunk * CHUNK + tl.arange(0, CHUNK)
        place, reads = tap_places(
            pixel, k, live, HEIGHT, WIDTH, OUT_WIDTH, KERNEL, STRIDE, PAD, CHANNELS, LANES
        )
        place = tl.where(reads, place - first_block * 4, 0)
        a = tl.reshape(tl.gather(strip, tl.reshape(place, [PIXELS * CHUNK]), 0), [PIXELS, CHUNK])
        a = tl.where(reads, a, 0.0).to(strip.dtype)
        w = tl.load(weight + k[:, None] * COUT + cout[None, :])
        acc = tl.dot(a, w, acc, input_precision="ieee")
    finish(
        acc, table, out, row, pixel, HEIGHT, WIDTH, OUT_HEIGHT, OUT_WIDTH, KERNEL, STRIDE, PAD,
        COUT, RELU, live, cout, COUT,
    )  # fmt: skip


@triton.jit
def stem_stored_kernel(
    noisy,  # [rows, HEIGHT, WIDTH, LANES]
    weight,
    table,
    out,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    CHANNELS: tl.constexpr,
    LANES: tl.constexpr,
    COUT: tl.constexpr,
    KERNEL: tl.constexpr,
    STRIDE: tl.constexpr,
    PAD: tl.constexpr,
    RELU: tl.constexpr,
    PIXELS: tl.constexpr,
    OUTPUTS: tl.constexpr,  # of a program, a power of two
    CHUNK: tl.constexpr,
):
    """First convolution of noisy images in memory, with any padding, stride and outputs."""
    OUT_HEIGHT: tl.constexpr = (HEIGHT + 2 * PAD - KERNEL) // STRIDE + 1
    OUT_WIDTH: tl.constexpr = (WIDTH + 2 * PAD - KERNEL) // STRIDE + 1
    CHUNKS: tl.constexpr = (KERNEL * KERNEL * LANES + CHUNK - 1) // CHUNK
    STEPS: tl.constexpr = CHUNKS if CHUNKS <= 13 else 1  # without a loop
    row = tl.program_id(0).to(tl.int64)
    pixel = tl.program_id(1) * PIXELS + tl.arange(0, PIXELS)
    live = pixel < OUT_HEIGHT * OUT_WIDTH
    source = noisy + row * (HEIGHT * WIDTH * LANES)
    cout = tl.program_id(2) * OUTPUTS + tl.arange(0, OUTPUTS)
    acc = tl.zeros([PIXELS, OUTPUTS], tl.float32)
    for first in range(0, CHUNKS, STEPS):
        for step in tl.static_range(STEPS):
            k = (first + step) * CHUNK + tl.arange(0, CHUNK)
            # all lanes of a pixel are read, so that they can be one load: the last of RGB is zero
            place, reads = tap_places(
                pixel, k, live, HEIGHT, WIDTH, OUT_WIDTH, KERNEL, STRIDE, PAD, LANES, LANES
            )
            a = tl.load(source + place, mask=reads, other=0.0)
            at = k[:, None] * COUT + cout[None, :]
            if COUT % OUTPUTS == 0:
                w = tl.load(weight + at)
            else:
                w = tl.load(weight + at, mask=(cout < COUT)[None, :], other=0.0)
            acc = tl.dot(a, w, acc, input_precision="ieee")
    finish(
        acc, table, out, row, pixel, HEIGHT, WIDTH, OUT_HEIGHT, OUT_WIDTH, KERNEL, STRIDE, PAD,
        COUT, RELU, live, cout, OUTPUTS,
    )  # fmt: skip
