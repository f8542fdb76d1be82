"""Philox4x32-10 words and Box-Muller normals on the device (noise stream, version 1).

The same portable arithmetic runs on the GPU and in the interpreter. Fast intrinsics are left out
on purpose: `lg2.approx` loses the radius near u = 1 and `sin.approx` is off by 2^-21.4 per unit
of radius, and both exceed the 2e-6 the stream promises. Nothing here branches or calls a library,
so there is no slow path and no local memory.
"""

import triton
import triton.language as tl


@triton.jit
def philox_words(c0, c1, c2, c3, k0, k1):
    """Ten rounds on uint32 counters; key words are uint32. 64-bit words would be another cipher."""
    tl.static_assert(c0.dtype == tl.uint32, "counter words must be uint32")
    tl.static_assert(k0.dtype == tl.uint32, "key words must be uint32")
    for _ in tl.static_range(10):
        high0 = tl.umulhi(c0, 0xD2511F53)
        high1 = tl.umulhi(c2, 0xCD9E8D57)
        low0 = tl.mul(c0, 0xD2511F53, sanitize_overflow=False)
        low1 = tl.mul(c2, 0xCD9E8D57, sanitize_overflow=False)
        c0 = high1 ^ c1 ^ k0
        c1 = low1
        c2 = high0 ^ c3 ^ k1
        c3 = low0
        k0 = tl.add(k0, 0x9E3779B9, sanitize_overflow=False)
        k1 = tl.add(k1, 0xBB67AE85, sanitize_overflow=False)
    return c0, c1, c2, c3


@triton.jit
def uniform(word):
    """u = float32(w) * 2^-32 + 2^-33, every step rounded to float32; 2^-33 <= u <= 1."""
    return word.to(tl.float32) * 2.3283064365386963e-10 + 1.1641532182693481e-10


@triton.jit
def minus_two_log(u):
    """-2 ln u for 2^-33 <= u <= 1, relative error below 2e-7, exactly 0 at u = 1.

    u = 2^e m with m in [sqrt(1/2), sqrt(2)); the exponent becomes a float by the 1.5 * 2^23
    trick, which spares a conversion instruction.
    """
    bits = u.to(tl.int32, bitcast=True)
    exponent = (bits - 0x3F3504F3) >> 23
    m = (bits - (exponent << 23)).to(tl.float32, bitcast=True)
    e = (exponent + 0x4B400000).to(tl.float32, bitcast=True) - 12582912.0
    f = m - 1.0
    p = f * -0.17400719 + 0.28534952
    p = p * f + -0.29829574
    p = p * f + 0.33155173
    p = p * f + -0.39926124
    p = p * f + 0.50002676
    p = p * f + -0.66667819
    p = p * f + 1.0
    p = p * f + -2.0
    return e * -1.3862944 + p * f


@triton.jit
def turn(u):
    """(cos 2 pi u, sin 2 pi u) for 0 <= u <= 1, absolute error below 2e-7.

    The reduction to an eighth of a turn is exact: u and its nearest quarter differ by a
    representable float32.
    """
    nearest = u * 4.0 + 12582912.0
    quadrant = nearest.to(tl.int32, bitcast=True)
    f = u - (nearest - 12582912.0) * 0.25
    t = f * f
    s = t * -75.40207 + 81.59255
    s = s * t + -41.341663
    s = (s * t + 6.2831855) * f
    c = t * 59.24596 + -85.443741
    c = c * t + 64.939323
    c = c * t + -19.739208
    c = c * t + 1.0
    odd = (quadrant & 1) != 0
    cosine = tl.where(odd, s, c).to(tl.int32, bitcast=True) ^ (((quadrant + 1) & 2) << 30)
    sine = tl.where(odd, c, s).to(tl.int32, bitcast=True) ^ ((quadrant & 2) << 30)
    return cosine.to(tl.float32, bitcast=True), sine.to(tl.float32, bitcast=True)


@triton.jit
def normal_pair(word1, word2):
    """Two normals of one pair of words, cosine first; |z| <= 6.77."""
    radius = tl.sqrt(minus_two_log(uniform(word1)))
    cosine, sine = turn(uniform(word2))
    return radius * cosine, radius * sine


@triton.jit
def normals(c0, c1, c2, c3, k0, k1):
    """Four standard normals of one block, lanes 0 .. 3."""
    w0, w1, w2, w3 = philox_words(c0, c1, c2, c3, k0, k1)
    z0, z1 = normal_pair(w0, w1)
    z2, z3 = normal_pair(w2, w3)
    return z0, z1, z2, z3


@triton.jit
def row_counter(stream, image, sample, row):
    """Counter words (c1 sample, c2 image id, c3 stream) of a row, as uint32."""
    c1 = tl.load(sample + row).to(tl.uint32, bitcast=True)
    c2 = tl.load(image + row).to(tl.uint32, bitcast=True)
    c3 = tl.load(stream + row).to(tl.uint32, bitcast=True)
    return c1, c2, c3


@triton.jit
def key_words(key):
    """The two words of the run seed, from an int32 tensor of two words."""
    k0 = tl.load(key).to(tl.uint32, bitcast=True)
    k1 = tl.load(key + 1).to(tl.uint32, bitcast=True)
    return k0, k1
