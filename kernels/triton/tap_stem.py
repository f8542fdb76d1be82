"""Device code: a first convolution that makes noise again for each tap, a slow check of `stem`."""

import triton
import triton.language as tl

from dualsmooth.kernels.triton.philox import key_words, normals, row_counter
from dualsmooth.kernels.triton.stem import finish


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
    PAD: tl.constexpr,
    RELU: tl.constexpr,
    PIXELS: tl.constexpr,
):
    """Noise made again for each tap, sums by fused multiply-add in float32; 1, 3 or 4 channels.

    The sums are transposed, so that neighbouring threads own neighbouring pixels. With a pixel's
    outputs spread over a warp, every thread would make the noise of many pixels (Triton 3.6 then
    spills) or exchange it.
    """
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
        PAD, COUT, RELU, live, cout, COUT,
    )  # fmt: skip
