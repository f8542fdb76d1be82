"""Device code: noise generation fused with the first convolution.

Three ways to the same numbers. `stem_tile_kernel` makes the noisy strip of full-width rows that a
tile needs, halo included, once, and gathers the taps from it on chip. `stem_tap_kernel` makes the
noise of a pixel again for each tap that reads it. `stem_stored_kernel` reads noisy images that
`noise_kernel` wrote. Means and deviations are folded into the weights and a table of border biases
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
    COUT: tl.constexpr,
    RELU: tl.constexpr,
    live,
):
    """Add the bias of each pixel's border class, apply the ReLU, store."""
    PAD: tl.constexpr = KERNEL // 2
    SIDE: tl.constexpr = (PAD + 1) * (PAD + 1)
    cout = tl.arange(0, COUT)
    top = pixel // OUT_WIDTH * STRIDE - PAD
    left = pixel % OUT_WIDTH * STRIDE - PAD
    vertical = tl.maximum(-top, 0) * (PAD + 1) + tl.maximum(top + KERNEL - HEIGHT, 0)
    horizontal = tl.maximum(-left, 0) * (PAD + 1) + tl.maximum(left + KERNEL - WIDTH, 0)
    entry = (vertical * SIDE + horizontal)[:, None] * COUT + cout[None, :]
    acc += tl.load(table + entry, mask=live[:, None], other=0.0)
    if RELU:
        acc = tl.maximum(acc, 0.0, propagate_nan=tl.PropagateNan.ALL)
    at = (row * (OUT_HEIGHT * OUT_WIDTH) + pixel)[:, None] * COUT + cout[None, :]
    tl.store(out + at, acc.to(out.dtype.element_ty), mask=live[:, None])


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
    CHANNELS: tl.constexpr,
    LANES: tl.constexpr,
):
    """Where entry k = (ky, kx, lane) of each output pixel reads: flat place, inside; [PIXELS, K].

    A pixel takes LANES places. The place is only meaningful where inside holds.
    """
    PAD: tl.constexpr = KERNEL // 2
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
    RELU: tl.constexpr,
    TILE_ROWS: tl.constexpr,  # output rows per program
    BLOCKS: tl.constexpr,  # power of two >= Philox blocks of the strip
    PIXELS: tl.constexpr,  # power of two >= TILE_ROWS * OUT_WIDTH
    CHUNK: tl.constexpr,  # reduction entries per gather and dot
):
    """Noisy strip once per tile, taps gathered from it on chip."""
    PAD: tl.constexpr = KERNEL // 2
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
            pixel, k, live, HEIGHT, WIDTH, OUT_WIDTH, KERNEL, STRIDE, CHANNELS, LANES
        )
        place = tl.where(reads, place - first_block * 4, 0)
        a = tl.reshape(tl.gather(strip, tl.reshape(place, [PIXELS * CHUNK]), 0), [PIXELS, CHUNK])
        a = tl.where(reads, a, 0.0).to(strip.dtype)
        w = tl.load(weight + k[:, None] * COUT + cout[None, :])
        acc = tl.dot(a, w, acc, input_precision="ieee")
    finish(
        acc, table, out, row, pixel, HEIGHT, WIDTH, OUT_HEIGHT, OUT_WIDTH, KERNEL, STRIDE, COUT,
        RELU, live,
    )  # fmt: skip


@triton.jit
def stem_tap_kernel(
    images,
    weight,
    table,
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
    LANES: tl.constexpr,
    COUT: tl.constexpr,
    KERNEL: tl.constexpr,
    STRIDE: tl.constexpr,
    RELU: tl.constexpr,
    PIXELS: tl.constexpr,
):
    """Noise made again for each tap, sums by fused multiply-add in float32; 1, 3 or 4 channels.

    The sums are transposed, so that neighbouring threads own neighbouring pixels. With a pixel's
    outputs spread over a warp, every thread would make the noise of many pixels (Triton 3.6 then
    spills) or exchange it.
    """
    PAD: tl.constexpr = KERNEL // 2
    OUT_HEIGHT: tl.constexpr = (HEIGHT + 2 * PAD - KERNEL) // STRIDE + 1
    OUT_WIDTH: tl.constexpr = (WIDTH + 2 * PAD - KERNEL) // STRIDE + 1
    row = tl.program_id(0).to(tl.int64)
    pixel = tl.program_id(1) * PIXELS + tl.arange(0, PIXELS)
    live = pixel < OUT_HEIGHT * OUT_WIDTH
    cout = tl.arange(0, COUT)
    k0, k1 = key_words(key)
    c1, c2, c3 = row_counter(stream, image, sample, row)
    source = images + tl.load(slot + row).to(tl.int64) * (HEIGHT * WIDTH * CHANNELS)
    scale = tl.load(sigma + row)
    acc = tl.zeros([COUT, PIXELS], tl.float32)
    for ky in range(KERNEL):
        for kx in range(KERNEL):
            iy = pixel // OUT_WIDTH * STRIDE + (ky - PAD)
            ix = pixel % OUT_WIDTH * STRIDE + (kx - PAD)
            reads = live & (iy >= 0) & (iy < HEIGHT) & (ix >= 0) & (ix < WIDTH)
            place = iy * WIDTH + ix
            block = place if LANES == 4 else place >> 2
            z0, z1, z2, z3 = normals(block.to(tl.uint32), c1, c2, c3, k0, k1)
            if LANES == 1:
                low = tl.where((place & 1) == 0, z0, z1)
                high = tl.where((place & 1) == 0, z2, z3)
                z0 = tl.where((place & 2) == 0, low, high)
            for channel in tl.static_range(CHANNELS):
                x = tl.load(source + place * CHANNELS + channel, mask=reads, other=0.0)
                z = (z0, z1, z2, z3)[channel]
                v = tl.where(reads, x + scale * z, 0.0)
                v = v.to(weight.dtype.element_ty).to(tl.float32)
                entry = ((ky * KERNEL + kx) * LANES + channel) * COUT + cout
                acc += v[None, :] * tl.load(weight + entry).to(tl.float32)[:, None]
    finish(
        tl.trans(acc), table, out, row, pixel, HEIGHT, WIDTH, OUT_HEIGHT, OUT_WIDTH, KERNEL, STRIDE,
        COUT, RELU, live,
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
    RELU: tl.constexpr,
    PIXELS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """First convolution of noisy images in memory."""
    PAD: tl.constexpr = KERNEL // 2
    OUT_HEIGHT: tl.constexpr = (HEIGHT + 2 * PAD - KERNEL) // STRIDE + 1
    OUT_WIDTH: tl.constexpr = (WIDTH + 2 * PAD - KERNEL) // STRIDE + 1
    row = tl.program_id(0).to(tl.int64)
    pixel = tl.program_id(1) * PIXELS + tl.arange(0, PIXELS)
    live = pixel < OUT_HEIGHT * OUT_WIDTH
    source = noisy + row * (HEIGHT * WIDTH * LANES)
    cout = tl.arange(0, COUT)
    acc = tl.zeros([PIXELS, COUT], tl.float32)
    for chunk in tl.static_range((KERNEL * KERNEL * LANES + CHUNK - 1) // CHUNK):
        k = chunk * CHUNK + tl.arange(0, CHUNK)
        place, reads = tap_places(
            pixel, k, live, HEIGHT, WIDTH, OUT_WIDTH, KERNEL, STRIDE, CHANNELS, LANES
        )
        a = tl.load(source + place, mask=reads, other=0.0)
        w = tl.load(weight + k[:, None] * COUT + cout[None, :])
        acc = tl.dot(a, w, acc, input_precision="ieee")
    finish(
        acc, table, out, row, pixel, HEIGHT, WIDTH, OUT_HEIGHT, OUT_WIDTH, KERNEL, STRIDE, COUT,
        RELU, live,
    )  # fmt: skip
