"""Device code: 3x3 and 1x1 convolution + bias (+ residual or 1x1 shortcut) + ReLU, channels-last.

An implicit GEMM with the taps unrolled, so that on Triton 3.6 too they are plain loads through L1.
At most 4 warps: the flattened form with 8 warps is miscompiled (triton-lang/triton#1254).
"""

import triton
import triton.language as tl


@triton.jit
def conv_kernel(
    x,  # [rows, HEIGHT, WIDTH, CIN]
    weight,  # [KERNEL, KERNEL, CIN, COUT]
    bias,  # fp32 [COUT]
    residual,  # [rows, OUT_HEIGHT, OUT_WIDTH, COUT] if RESIDUAL
    source,  # [rows, OUT_HEIGHT * SOURCE_STRIDE, OUT_WIDTH * SOURCE_STRIDE, SOURCE] if SOURCE
    projection,  # [SOURCE, COUT] if SOURCE
    out,  # [rows, OUT_HEIGHT, OUT_WIDTH, COUT]
    pixels,  # rows * OUT_HEIGHT * OUT_WIDTH < 2^31
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    CIN: tl.constexpr,
    COUT: tl.constexpr,
    KERNEL: tl.constexpr,
    STRIDE: tl.constexpr,
    RESIDUAL: tl.constexpr,
    SOURCE: tl.constexpr,  # channels of the shortcut input, 0 for none
    SOURCE_STRIDE: tl.constexpr,
    RELU: tl.constexpr,
    PIXELS: tl.constexpr,
):
    """out = relu(conv(x) + bias + residual), float32 sums in a fixed order."""
    PAD: tl.constexpr = KERNEL // 2
    OUT_HEIGHT: tl.constexpr = (HEIGHT + 2 * PAD - KERNEL) // STRIDE + 1
    OUT_WIDTH: tl.constexpr = (WIDTH + 2 * PAD - KERNEL) // STRIDE + 1
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    live = pixel < pixels
    row = (pixel // (OUT_HEIGHT * OUT_WIDTH)).to(tl.int64)
    oy = pixel // OUT_WIDTH % OUT_HEIGHT
    ox = pixel % OUT_WIDTH
    cin = tl.arange(0, CIN)
    cout = tl.arange(0, COUT)
    base = (row * HEIGHT + oy * STRIDE - PAD) * WIDTH + ox * STRIDE - PAD
    acc = tl.zeros([PIXELS, COUT], tl.float32)
    for ky in tl.static_range(KERNEL):
        for kx in tl.static_range(KERNEL):
            iy = oy * STRIDE + (ky - PAD)
            ix = ox * STRIDE + (kx - PAD)
            inside = live & (iy >= 0) & (iy < HEIGHT) & (ix >= 0) & (ix < WIDTH)
            at = (base + (ky * WIDTH + kx))[:, None] * CIN + cin[None, :]
            a = tl.load(x + at, mask=inside[:, None], other=0.0)
            tap = ((ky * KERNEL + kx) * CIN + cin)[:, None] * COUT + cout[None, :]
            acc = tl.dot(a, tl.load(weight + tap), acc, input_precision="ieee")
    if SOURCE > 0:
        channel = tl.arange(0, SOURCE)
        place = (row * (OUT_HEIGHT * SOURCE_STRIDE) + oy * SOURCE_STRIDE) * (
            OUT_WIDTH * SOURCE_STRIDE
        ) + ox * SOURCE_STRIDE
        at = place[:, None] * SOURCE + channel[None, :]
        a = tl.load(source + at, mask=live[:, None], other=0.0)
        w = tl.load(projection + channel[:, None] * COUT + cout[None, :])
        acc = tl.dot(a, w, acc, input_precision="ieee")
    acc += tl.load(bias + cout)[None, :]
    at = pixel.to(tl.int64)[:, None] * COUT + cout[None, :]
    if RESIDUAL:
        acc += tl.load(residual + at, mask=live[:, None], other=0.0).to(tl.float32)
    if RELU:
        # NaN must survive to the vote, where it counts as invalid
        acc = tl.maximum(acc, 0.0, propagate_nan=tl.PropagateNan.ALL)
    tl.store(out + at, acc.to(out.dtype.element_ty), mask=live[:, None])
