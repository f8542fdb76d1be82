"""Device code: noisy copies of images, Gaussian or integer, channels-last."""

import triton
import triton.language as tl

from dualsmooth.kernels.triton.philox import key_words, normals, philox_words, row_counter


@triton.jit
def lanes(w0, w1, w2, w3, BLOCK: tl.constexpr):
    """Four lane vectors [BLOCK] as one tensor [BLOCK, 4], lane last."""
    return tl.reshape(tl.join(tl.join(w0, w2), tl.join(w1, w3)), [BLOCK, 4])


@triton.jit
def noise_kernel(
    images,  # fp32 [slots, values]
    out,  # [rows, blocks * OUT_STEP] (tail of the last block left out)
    key,
    slot,
    sigma,
    stream,
    image,
    sample,  # rows, see rows.Rows
    values,
    out_values,
    STEP: tl.constexpr,  # image values per Philox block: the channels if 3 or 4, else 4
    OUT_STEP: tl.constexpr,  # values written per block: STEP, or 4 to pad RGB to four channels
    BLOCK: tl.constexpr,
):
    """out[row] = images[slot[row]] + sigma[row] * normal(row); padding channels are 0."""
    row = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)  # [BLOCK]
    lane = tl.arange(0, 4)[None, :]
    k0, k1 = key_words(key)
    c1, c2, c3 = row_counter(stream, image, sample, row)
    z0, z1, z2, z3 = normals(block.to(tl.uint32), c1, c2, c3, k0, k1)
    z = lanes(z0, z1, z2, z3, BLOCK)
    at = block[:, None] * STEP + lane
    inside = (lane < STEP) & (at < values)
    x = tl.load(images + tl.load(slot + row).to(tl.int64) * values + at, mask=inside, other=0.0)
    y = tl.where(inside, x + tl.load(sigma + row) * z, 0.0)
    at = block[:, None] * OUT_STEP + lane
    keep = (lane < OUT_STEP) & (at < out_values)
    tl.store(out + row * out_values + at, y.to(out.dtype.element_ty), mask=keep)


@triton.jit
def integer_lanes(
    block, c1, c2, c3, k0, k1, thresholds, count, STEPS: tl.constexpr, BLOCK: tl.constexpr
):
    """Number of thresholds <= U of 64-bit words U, int32 [BLOCK, 4].

    The low words come from counters of their own: bit 15 of c3, which the version byte leaves free.
    """
    h0, h1, h2, h3 = philox_words(block, c1, c2, c3, k0, k1)
    l0, l1, l2, l3 = philox_words(block, c1, c2, c3 | 0x8000, k0, k1)
    high = lanes(h0, h1, h2, h3, BLOCK).to(tl.uint64)
    word = (high << 32) | lanes(l0, l1, l2, l3, BLOCK).to(tl.uint64)
    below = tl.zeros([BLOCK, 4], tl.int32)
    for step in tl.static_range(STEPS):
        half = 1 << (STEPS - 1 - step)
        probe = below + (half - 1)
        inside = probe < count
        limit = tl.load(thresholds + probe, mask=inside, other=-1).to(tl.uint64, bitcast=True)
        below = tl.where(inside & (limit <= word), below + half, below)
    return below


@triton.jit
def integer_noise_kernel(
    images,  # uint8 [slots, values]
    out,
    key,
    slot,
    level,  # int32 [rows]: row of the threshold table
    stream,
    image,
    sample,
    thresholds,  # int64 bits of uint64 [levels, table]
    count,  # int32 [levels]: thresholds in use
    lowest,  # int32 [levels]: noise value of a word below every threshold
    table_size,
    values,
    out_values,
    STEP: tl.constexpr,
    OUT_STEP: tl.constexpr,
    STEPS: tl.constexpr,  # 2^STEPS > table_size
    BLOCK: tl.constexpr,
):
    """out[row] = float32(images[slot[row]] + E(row)) * float32(1 / 255), E exact integer noise."""
    row = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    lane = tl.arange(0, 4)[None, :]
    k0, k1 = key_words(key)
    c1, c2, c3 = row_counter(stream, image, sample, row)
    which = tl.load(level + row).to(tl.int64)
    limits = thresholds + which * table_size
    below = integer_lanes(
        block.to(tl.uint32), c1, c2, c3, k0, k1, limits, tl.load(count + which), STEPS, BLOCK
    )
    at = block[:, None] * STEP + lane
    inside = (lane < STEP) & (at < values)
    x = tl.load(images + tl.load(slot + row).to(tl.int64) * values + at, mask=inside, other=0)
    y = (x.to(tl.int32) + below + tl.load(lowest + which)).to(tl.float32) * 0.00392156885936856
    y = tl.where(inside, y, 0.0)
    at = block[:, None] * OUT_STEP + lane
    keep = (lane < OUT_STEP) & (at < out_values)
    tl.store(out + row * out_values + at, y.to(out.dtype.element_ty), mask=keep)
