"""Device code: sum, scale and shift per channel, and ReLU, in one pass over memory."""

import triton
import triton.language as tl


@triton.jit
def affine_kernel(
    x,  # [values]
    other,  # [values] if SUM
    bias,  # fp32 [CHANNELS] if BIAS
    scale,  # fp32 [CHANNELS] if NORM
    shift,  # fp32 [CHANNELS] if NORM
    total,  # [values] if KEEP
    out,  # [values]
    values,  # pixels * CHANNELS
    CHANNELS: tl.constexpr,
    SUM: tl.constexpr,
    BIAS: tl.constexpr,
    NORM: tl.constexpr,
    KEEP: tl.constexpr,
    RELU: tl.constexpr,
    WIDTH: tl.constexpr,  # values of a strip
    ROWS: tl.constexpr,  # strips of a program
    PERIOD: tl.constexpr,  # strips until one begins at the same channel again
):
    """total = x + bias + other, out = relu(total * scale + shift): each is rounded once.

    Strips of a program are PERIOD apart, so that they share their channels, which are read once.
    """
    program = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, WIDTH)
    channel = (program % PERIOD * WIDTH % CHANNELS).to(tl.int32) + lane
    channel = channel % CHANNELS
    strip = (program // PERIOD * ROWS + tl.arange(0, ROWS)) * PERIOD + program % PERIOD
    at = strip[:, None] * WIDTH + lane[None, :]
    live = at < values
    y = tl.load(x + at, mask=live, other=0.0).to(tl.float32)
    if BIAS:
        y += tl.load(bias + channel)[None, :]
    if SUM:
        y += tl.load(other + at, mask=live, other=0.0).to(tl.float32)
    if KEEP:
        tl.store(total + at, y.to(total.dtype.element_ty), mask=live)
    if NORM:
        if SUM or BIAS:
            y = y.to(out.dtype.element_ty).to(tl.float32)
        y = y * tl.load(scale + channel)[None, :] + tl.load(shift + channel)[None, :]
    if RELU:
        y = tl.maximum(y, 0.0, propagate_nan=tl.PropagateNan.ALL)
    tl.store(out + at, y.to(out.dtype.element_ty), mask=live)
