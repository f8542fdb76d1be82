/* The normals of sixteen Philox blocks with AVX-512: the bits of the plain loops in normals.h,
 * operation by operation. Four vectors of eight doubles are in work at once, because every step
 * waits for the one before. */
#include <immintrin.h>

#define AVX512 __attribute__((target("avx512f,avx512dq,avx512vl,avx512bw")))
#define AVX512_INLINE AVX512 static inline __attribute__((always_inline))
#define STREAMS 4

/* Words in the low halves of 64-bit lanes, [word][half]. Products need the low half only, so the
 * high half may keep what a round leaves there. */
AVX512_INLINE void philox_rounds(__m512i c[4][2], const uint32_t key[2])
{
    const __m512i m0 = _mm512_set1_epi64(0xD2511F53u), m1 = _mm512_set1_epi64(0xCD9E8D57u);
    uint32_t k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; round++, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
        const __m512i key0 = _mm512_set1_epi64(k0), key1 = _mm512_set1_epi64(k1);
        for (int h = 0; h < 2; h++) {
            __m512i p0 = _mm512_mul_epu32(c[0][h], m0), p1 = _mm512_mul_epu32(c[2][h], m1);
            __m512i high0 = _mm512_srli_epi64(p0, 32), high1 = _mm512_srli_epi64(p1, 32);
            c[0][h] = _mm512_ternarylogic_epi64(high1, c[1][h], key0, 0x96); /* xor of three */
            c[2][h] = _mm512_ternarylogic_epi64(high0, c[3][h], key1, 0x96);
            c[1][h] = p1, c[3][h] = p0;
        }
    }
}

AVX512 static void philox_avx512(uint32_t words[4][TILE], const uint32_t key[2])
{
    __m512i c[4][2];
    for (int w = 0; w < 4; w++)
        for (int h = 0; h < 2; h++)
            c[w][h] = _mm512_cvtepu32_epi64(_mm256_loadu_si256((__m256i *)(words[w] + 8 * h)));
    philox_rounds(c, key);
    for (int w = 0; w < 4; w++)
        for (int h = 0; h < 2; h++)
            _mm256_storeu_si256((__m256i *)(words[w] + 8 * h), _mm512_cvtepi64_epi32(c[w][h]));
}

AVX512_INLINE __m512d uniforms(__m512i words)
{
    __m256 u = _mm256_cvtepu32_ps(_mm512_cvtepi64_epi32(words));
    u = _mm256_add_ps(_mm256_mul_ps(u, _mm256_set1_ps(0x1p-32f)), _mm256_set1_ps(0x1p-33f));
    return _mm512_cvtps_pd(u);
}

/* p = p t + constant, in every stream */
AVX512_INLINE void horner(__m512d p[STREAMS], const __m512d t[STREAMS], double constant)
{
    for (int i = 0; i < STREAMS; i++)
        p[i] = _mm512_add_pd(_mm512_mul_pd(p[i], t[i]), _mm512_set1_pd(constant));
}

AVX512_INLINE void fill(__m512d p[STREAMS], double constant)
{
    for (int i = 0; i < STREAMS; i++) p[i] = _mm512_set1_pd(constant);
}

/* u = m 2^exponent and s = (m - 1) / (m + 1), as in natural_log */
AVX512_INLINE void split(const __m512d u[STREAMS], __m512d exponent[STREAMS], __m512d s[STREAMS])
{
    const __m512d one = _mm512_set1_pd(1.0);
    const __m512i lowest = _mm512_set1_epi64(0x3FE6A09E00000000);
    for (int i = 0; i < STREAMS; i++) {
        __m512i bits = _mm512_castpd_si512(u[i]);
        __m512i power = _mm512_srai_epi64(_mm512_sub_epi64(bits, lowest), 52);
        __m512d m = _mm512_castsi512_pd(_mm512_sub_epi64(bits, _mm512_slli_epi64(power, 52)));
        exponent[i] = _mm512_cvtepi64_pd(power);
        s[i] = _mm512_div_pd(_mm512_sub_pd(m, one), _mm512_add_pd(m, one));
    }
}

/* sqrt(-2 ln u), the logarithm as in natural_log */
AVX512_INLINE void radii(const __m512d exponent[STREAMS], const __m512d s[STREAMS],
                         __m512d radius[STREAMS])
{
    const __m512d ln2 = _mm512_set1_pd(0x1.62e42fefa39efp-1), two = _mm512_set1_pd(2.0);
    __m512d t[STREAMS], p[STREAMS];
    for (int i = 0; i < STREAMS; i++) t[i] = _mm512_mul_pd(s[i], s[i]);
    fill(p, 2.0 / 17);
    for (int odd = 15; odd >= 3; odd -= 2) horner(p, t, 2.0 / odd);
    for (int i = 0; i < STREAMS; i++) {
        __m512d artanh = _mm512_add_pd(_mm512_mul_pd(two, s[i]),
                                       _mm512_mul_pd(_mm512_mul_pd(s[i], t[i]), p[i]));
        __m512d log = _mm512_add_pd(_mm512_mul_pd(exponent[i], ln2), artanh);
        radius[i] = _mm512_sqrt_pd(_mm512_mul_pd(_mm512_set1_pd(-2.0), log));
    }
}

AVX512_INLINE __m512d negate(__m512d x, __mmask8 where)
{
    return _mm512_mask_xor_pd(x, where, x, _mm512_set1_pd(-0.0));
}

/* cos and sin of 2 pi u, as cos_sin */
AVX512_INLINE void cosines_sines(const __m512d u[STREAMS], __m512d cosine[STREAMS],
                                 __m512d sine[STREAMS])
{
    __m256i quarter[STREAMS];
    __m512d a[STREAMS], t[STREAMS], c[STREAMS], s[STREAMS];
    for (int i = 0; i < STREAMS; i++) {
        __m512d turns = _mm512_mul_pd(_mm512_set1_pd(4.0), u[i]);
        quarter[i] = _mm512_cvttpd_epi32(_mm512_add_pd(turns, _mm512_set1_pd(0.5)));
        __m512d rest = _mm512_sub_pd(turns, _mm512_cvtepi32_pd(quarter[i]));
        a[i] = _mm512_mul_pd(rest, _mm512_set1_pd(0x1.921fb54442d18p0));
        t[i] = _mm512_mul_pd(a[i], a[i]);
    }
    static const double cosine_terms[] = {-1.0 / 87178291200.0, 1.0 / 479001600.0, -1.0 / 3628800.0,
                                          1.0 / 40320.0, -1.0 / 720.0, 1.0 / 24.0, -0.5, 1.0};
    static const double sine_terms[] = {1.0 / 6227020800.0, -1.0 / 39916800.0, 1.0 / 362880.0,
                                        -1.0 / 5040.0, 1.0 / 120.0, -1.0 / 6.0};
    fill(c, 1.0 / 20922789888000.0);
    fill(s, -1.0 / 1307674368000.0);
    for (int term = 0; term < 8; term++) horner(c, t, cosine_terms[term]);
    for (int term = 0; term < 6; term++) horner(s, t, sine_terms[term]);
    for (int i = 0; i < STREAMS; i++) {
        const __m256i odd = _mm256_set1_epi32(1), two = _mm256_set1_epi32(2);
        const __mmask8 swap = _mm256_test_epi32_mask(quarter[i], odd);
        s[i] = _mm512_add_pd(a[i], _mm512_mul_pd(_mm512_mul_pd(a[i], t[i]), s[i]));
        cosine[i] = negate(_mm512_mask_blend_pd(swap, c[i], s[i]),
                           _mm256_test_epi32_mask(_mm256_add_epi32(quarter[i], odd), two));
        sine[i] = negate(_mm512_mask_blend_pd(swap, s[i], c[i]),
                         _mm256_test_epi32_mask(quarter[i], two));
    }
}

AVX512_INLINE __m512 rounded(__m512d low, __m512d high)
{
    const __m512 half = _mm512_castps256_ps512(_mm512_cvtpd_ps(low));
    return _mm512_insertf32x8(half, _mm512_cvtpd_ps(high), 1);
}

/* Where flat[3 i + lane] comes from: i of the lane, lane 1 counted on from lane 0. */
static const int32_t THREE[3 * TILE] = {
    0, 16, 0, 1, 17, 1, 2, 18, 2, 3, 19, 3, 4, 20, 4, 5,
    21, 5, 6, 22, 6, 7, 23, 7, 8, 24, 8, 9, 25, 9, 10, 26,
    10, 11, 27, 11, 12, 28, 12, 13, 29, 13, 14, 30, 14, 15, 31, 15};

/* flat[3 i + lane] of three lanes */
AVX512_INLINE void interleave_three(const __m512 lanes[4], float *flat)
{
    static const __mmask16 third[3] = {0x4924, 0x2492, 0x9249}; /* places of lane 2 */
    for (int part = 0; part < 3; part++) {
        const __m512i index = _mm512_loadu_si512(THREE + part * TILE);
        __m512 mixed = _mm512_permutex2var_ps(lanes[0], index, lanes[1]);
        mixed = _mm512_mask_permutexvar_ps(mixed, third[part], index, lanes[2]);
        _mm512_storeu_ps(flat + part * TILE, mixed);
    }
}

/* flat[4 i + lane]: 4x4 blocks of values, then of 128-bit parts, are transposed. */
AVX512_INLINE void interleave_four(const __m512 lanes[4], float *flat)
{
    const __m512d a = _mm512_castps_pd(_mm512_unpacklo_ps(lanes[0], lanes[1]));
    const __m512d b = _mm512_castps_pd(_mm512_unpackhi_ps(lanes[0], lanes[1]));
    const __m512d c = _mm512_castps_pd(_mm512_unpacklo_ps(lanes[2], lanes[3]));
    const __m512d d = _mm512_castps_pd(_mm512_unpackhi_ps(lanes[2], lanes[3]));
    const __m512d r0 = _mm512_unpacklo_pd(a, c), r1 = _mm512_unpackhi_pd(a, c);
    const __m512d r2 = _mm512_unpacklo_pd(b, d), r3 = _mm512_unpackhi_pd(b, d);
    const __m512d first = _mm512_shuffle_f64x2(r0, r1, 0x44);
    const __m512d second = _mm512_shuffle_f64x2(r2, r3, 0x44);
    const __m512d third = _mm512_shuffle_f64x2(r0, r1, 0xEE);
    const __m512d fourth = _mm512_shuffle_f64x2(r2, r3, 0xEE);
    _mm512_storeu_pd((double *)flat, _mm512_shuffle_f64x2(first, second, 0x88));
    _mm512_storeu_pd((double *)(flat + TILE), _mm512_shuffle_f64x2(first, second, 0xDD));
    _mm512_storeu_pd((double *)(flat + 2 * TILE), _mm512_shuffle_f64x2(third, fourth, 0x88));
    _mm512_storeu_pd((double *)(flat + 3 * TILE), _mm512_shuffle_f64x2(third, fourth, 0xDD));
}

AVX512_INLINE void interleave(const __m512 values[4], float *flat, int64_t lanes)
{
    if (lanes == 3)
        interleave_three(values, flat);
    else
        interleave_four(values, flat);
}

/* Philox words of sixteen blocks from `block` on. */
AVX512_INLINE void block_rounds(__m512i c[4][2], const uint32_t key[2], const uint32_t rest[3],
                                uint32_t block)
{
    const __m512i steps = _mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0);
    for (int h = 0; h < 2; h++) {
        c[0][h] = _mm512_add_epi64(_mm512_set1_epi64((int64_t)block + 8 * h), steps);
        for (int w = 1; w < 4; w++) c[w][h] = _mm512_set1_epi64(rest[w - 1]);
    }
    philox_rounds(c, key);
}

/* Normals of the blocks from `block` on, one block after another, `lanes` values of each. */
AVX512 static void normals_avx512(float *flat, const uint32_t key[2], const uint32_t rest[3],
                                  uint32_t block, int64_t lanes)
{
    __m512i c[4][2];
    block_rounds(c, key, rest, block);
    __m512d u[STREAMS], v[STREAMS], exponent[STREAMS], s[STREAMS];
    __m512d radius[STREAMS], cosine[STREAMS], sine[STREAMS];
    for (int i = 0; i < STREAMS; i++) { /* pair i / 2, half i % 2 */
        u[i] = uniforms(c[i / 2 * 2][i % 2]);
        v[i] = uniforms(c[i / 2 * 2 + 1][i % 2]);
    }
    split(u, exponent, s);
    cosines_sines(v, cosine, sine); /* while the divisions go on */
    radii(exponent, s, radius);
    for (int i = 0; i < STREAMS; i++) {
        cosine[i] = _mm512_mul_pd(radius[i], cosine[i]);
        sine[i] = _mm512_mul_pd(radius[i], sine[i]);
    }
    const __m512 values[4] = {rounded(cosine[0], cosine[1]), rounded(sine[0], sine[1]),
                              rounded(cosine[2], cosine[3]), rounded(sine[2], sine[3])};
    interleave(values, flat, lanes);
}
