// Philox4x32-10 words and Box-Muller normals, noise stream version 1: the arithmetic of
// kernels/triton/philox.py, which says why no fast intrinsic is used. Every fused multiply-add that
// Triton makes of it is written out, so that a compiler has no choice and the bits are the same.

__device__ __forceinline__ void philox_words(u32 (&c)[4], u32 k0, u32 k1) {
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        const u32 high0 = __umulhi(c[0], 0xD2511F53u), low0 = c[0] * 0xD2511F53u;
        const u32 high1 = __umulhi(c[2], 0xCD9E8D57u), low1 = c[2] * 0xCD9E8D57u;
        c[0] = high1 ^ c[1] ^ k0;
        c[1] = low1;
        c[2] = high0 ^ c[3] ^ k1;
        c[3] = low0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
}

__device__ __forceinline__ float uniform(u32 word) {
    return __fmaf_rn(__uint2float_rn(word), 2.3283064365386963e-10f, 1.1641532182693481e-10f);
}

__device__ __forceinline__ float minus_two_log(float u) {
    const int bits = __float_as_int(u), exponent = (bits - 0x3F3504F3) >> 23;
    const float f = __fadd_rn(__int_as_float(bits - (exponent << 23)), -1.0f);
    const float e = __fadd_rn(__int_as_float(exponent + 0x4B400000), -12582912.0f);
    float p = __fmaf_rn(f, -0.17400719f, 0.28534952f);
    p = __fmaf_rn(f, p, -0.29829574f);
    p = __fmaf_rn(f, p, 0.33155173f);
    p = __fmaf_rn(f, p, -0.39926124f);
    p = __fmaf_rn(f, p, 0.50002676f);
    p = __fmaf_rn(f, p, -0.66667819f);
    p = __fmaf_rn(f, p, 1.0f);
    p = __fmaf_rn(f, p, -2.0f);
    return __fmaf_rn(f, p, __fmul_rn(e, -1.3862944f));
}

__device__ __forceinline__ void turn(float u, float& cosine, float& sine) {
    const float nearest = __fmaf_rn(u, 4.0f, 12582912.0f);
    const int quadrant = __float_as_int(nearest);
    const float f = __fmaf_rn(__fadd_rn(nearest, -12582912.0f), -0.25f, u), t = __fmul_rn(f, f);
    float s = __fmaf_rn(t, -75.40207f, 81.59255f);
    s = __fmaf_rn(t, s, -41.341663f);
    s = __fmul_rn(f, __fmaf_rn(t, s, 6.2831855f));
    float c = __fmaf_rn(t, 59.24596f, -85.443741f);
    c = __fmaf_rn(t, c, 64.939323f);
    c = __fmaf_rn(t, c, -19.739208f);
    c = __fmaf_rn(t, c, 1.0f);
    const bool odd = quadrant & 1;
    cosine = __int_as_float(__float_as_int(odd ? s : c) ^ (((quadrant + 1) & 2) << 30));
    sine = __int_as_float(__float_as_int(odd ? c : s) ^ ((quadrant & 2) << 30));
}

__device__ __forceinline__ void normal_pair(u32 word1, u32 word2, float& first, float& second) {
    const float radius = square_root(minus_two_log(uniform(word1)));
    float cosine, sine;
    turn(uniform(word2), cosine, sine);
    first = __fmul_rn(radius, cosine);
    second = __fmul_rn(radius, sine);
}
