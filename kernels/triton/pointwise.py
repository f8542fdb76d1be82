"""Device code: 1x1 convolution + bias (+ shortcut sum) + ReLU as a matrix product over pixels."""

import triton
import triton.language as tl


@triton.jit
def pointwise_kernel(
    x,  # [rows, OUT_HEIGHT * STRIDE or one less, OUT_WIDTH * STRIDE or one less, CIN]
    weight,  # [CIN, COUT]
    bias,  # fp32 [COUT]
    residual,  # [pixels, COUT] if RESIDUAL
    out,  # [pixels, COUT]
    pixels,  # rows * OUT_HEIGHT * OUT_WIDTH < 2^31
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    CIN: tl.constexpr,
    COUT: tl.constexpr,
    STRIDE: tl.constexpr,
    RESIDUAL: tl.constexpr,
    RELU: tl.constexpr,
    PIXELS: tl.constexpr,
    OUTPUTS: tl.constexpr,  # of a program; divides COUT
    CHUNK: tl.constexpr,  # input channels of a step; divides CIN
):
    """out = relu(x @ weight + bias + residual), float32 sums over the channels in order.

    Programs of the same pixels follow each other, so that those are read from L2 but once.
    """
    OUT_HEIGHT: tl.constexpr = (HEIGHT - 1) // STRIDE + 1
    OUT_WIDTH: tl.constexpr = (WIDTH - 1) // STRIDE + 1
    program = tl.program_id(0)
    pixel = program // (COUT // OUTPUTS) * PIXELS + tl.arange(0, PIXELS)
    cout = program % (COUT // OUTPUTS) * OUTPUTS + tl.arange(0, OUTPUTS)
    live = pixel < pixels
    place = pixel.to(tl.int64)
    if STRIDE > 1:
        row = place // (OUT_HEIGHT * OUT_WIDTH)
        y = pixel // OUT_WIDTH % OUT_HEIGHT * STRIDE
        place = (row * HEIGHT + y) * WIDTH + pixel % OUT_WIDTH * STRIDE
    acc = tl.zeros([PIXELS, OUTPUTS], tl.float32)
    for first in range(0, CIN, CHUNK):
        k = first + tl.arange(0, CHUNK)
        a = tl.load(x + place[:, None] * CIN + k[None, :], mask=live[:, None], other=0.0)
        w = tl.load(weight + k[:, None] * COUT + cout[None, :])
        acc = tl.dot(a, w, acc, input_precision="ieee")
    acc += tl.load(bias + cout)[None, :]
    at = pixel.to(tl.int64)[:, None] * COUT + cout[None, :]
    if RESIDUAL:
        acc += tl.load(residual + at, mask=live[:, None], other=0.0).to(tl.float32)
    if RELU:
        acc = tl.maximum(acc, 0.0, propagate_nan=tl.PropagateNan.ALL)
    tl.store(out + at, acc.to(out.dtype.element_ty), mask=live[:, None])
