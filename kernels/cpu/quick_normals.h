/* The normals of normals_avx512.h, sooner: short polynomials and fused multiply-adds come near
 * them, and where that leaves a float32 in doubt the whole tile is computed there.
 *
 * Radii, cosines and sines are within 2^-43 of those there, relative to them, at every float32
 * (tests/kernels/cpu/test_quick_normals.py tries them all), so a product is within 2^-40. Both
 * round to one float32 unless half way between two of them lies that near.
 */

/* Words in the low halves of 64-bit lanes, as one vector. */
AVX512_INLINE __m512i low_halves(const __m512i words[2])
{
    const __m512i even =
        _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    return _mm512_permutex2var_epi32(words[0], even, words[1]);
}

AVX512_INLINE __m512 uniforms_of(const __m512i words[2])
{
    const __m512 whole = _mm512_cvtepu32_ps(low_halves(words)); /* whose product is exact */
    return _mm512_fmadd_ps(whole, _mm512_set1_ps(0x1p-32f), _mm512_set1_ps(0x1p-33f));
}

AVX512_INLINE __m256i half_of(__m512i x, int half)
{
    return half ? _mm512_extracti64x4_epi64(x, 1) : _mm512_castsi512_si256(x);
}

AVX512_INLINE __m512d doubles(__m512 x, int half)
{
    return _mm512_cvtps_pd(_mm256_castsi256_ps(half_of(_mm512_castps_si512(x), half)));
}

/* terms[0] + terms[1] t + ... + terms[5] t^5 */
AVX512_INLINE __m512d quintic(const double terms[6], __m512d t)
{
    __m512d p = _mm512_set1_pd(terms[5]);
    for (int i = 4; i >= 0; i--) p = _mm512_fmadd_pd(p, t, _mm512_set1_pd(terms[i]));
    return p;
}

/* sqrt(-2 ln u): u = m 2^k, m in one of sixteen intervals, f near 1 / m all over it (and 1 where m
 * may be 1), r = m f - 1 exactly, and -2 ln u = -2 k ln 2 + 2 ln f - 2 ln(1 + r). */
AVX512_INLINE void quick_radii(__m512 u, __m512d radius[2])
{
    static const double factors[16] = {
        0x1.66p+0,  0x1.57p+0,  0x1.494p+0, 0x1.3c8p+0, 0x1.30cp+0, 0x1.26p+0,
        0x1.1bcp+0, 0x1.124p+0, 0x1.094p+0, 0x1p+0,     0x1.e58p-1, 0x1.ca8p-1,
        0x1.b2p-1,  0x1.9cp-1,  0x1.888p-1, 0x1.768p-1};
    static const double logs[16] = { /* 2 ln f */
        0x1.5767717455a6cp-1,  0x1.2b9303ab89d25p-1,  0x1.01ade39139ef7p-1,  0x1.b2797ee46320cp-2,
        0x1.64fee8825fc4bp-2,  0x1.1b72ad52f67ap-2,   0x1.a58b60c2b2324p-3,  0x1.1a0fba1bf8a52p-3,
        0x1.22c71bcea83a5p-4,  0x0p+0,                -0x1.b35dd9b58baadp-4, -0x1.c40d6425a5cb1p-3,
        -0x1.527e5e4a1b58dp-2, -0x1.bd087383bd8adp-2, -0x1.102ac0a35cc1cp-1, -0x1.403d086cea79cp-1};
    static const double terms[6] = { /* (2 r - 2 ln(1 + r)) / r^2 for |r| <= 0.0298 */
        0x1.0000000005f9bp+0,  -0x1.555555555ff4ep-1, 0x1.fffff896b03c4p-2,
        -0x1.999993030fc32p-2, 0x1.55ac797847948p-2,  -0x1.24dfbef4fb5c3p-2};
    const __m512i bits = _mm512_castps_si512(u);
    const __m512i above = _mm512_sub_epi32(bits, _mm512_set1_epi32(0x3F330000));
    const __m512i power = _mm512_srai_epi32(above, 23), interval = _mm512_srli_epi32(above, 19);
    const __m512 m = _mm512_castsi512_ps(_mm512_sub_epi32(bits, _mm512_slli_epi32(power, 23)));
    const __m512d f0 = _mm512_loadu_pd(factors), f1 = _mm512_loadu_pd(factors + 8);
    const __m512d l0 = _mm512_loadu_pd(logs), l1 = _mm512_loadu_pd(logs + 8);
    for (int h = 0; h < 2; h++) {
        const __m512i at = _mm512_cvtepu32_epi64(half_of(interval, h)); /* its last four bits */
        const __m512d f = _mm512_permutex2var_pd(f0, at, f1);
        const __m512d k = _mm512_cvtepi32_pd(half_of(power, h));
        const __m512d r = _mm512_fmsub_pd(doubles(m, h), f, _mm512_set1_pd(1.0));
        __m512d sum = _mm512_permutex2var_pd(l0, at, l1);
        sum = _mm512_fmadd_pd(k, _mm512_set1_pd(-0x1.62e42fefa39efp+0), sum);
        sum = _mm512_fnmadd_pd(r, _mm512_set1_pd(2.0), sum);
        sum = _mm512_fmadd_pd(_mm512_mul_pd(r, r), quintic(terms, r), sum);
        radius[h] = _mm512_sqrt_pd(sum);
    }
}

static const double COSINE[6] = { /* cos(pi x / 2) by x^2, |x| <= 1/2 */
    0x1.ffffffffffe0bp-1,  -0x1.3bd3cc9bd2c27p+0, 0x1.03c1f074de4bcp-2,
    -0x1.55d3ba2fa1681p-6, 0x1.e1e7cc87a6ccdp-11, -0x1.a0ee03d4aa303p-16};
static const double SINE[6] = { /* sin(pi x / 2) / x */
    0x1.921fb54442cfap+0,  -0x1.4abbce6257a27p-1, 0x1.466bc67123b91p-4,
    -0x1.32d2c64479beap-8, 0x1.5071ce29d99dep-13, -0x1.dd54718419177p-19};

/* cos and sin of 2 pi v, but for the signs that are their words' first bits. */
AVX512_INLINE void quick_turns(__m512 v, __m512d parts[2][2], __m512i signs[2])
{
    const __m512 turns = _mm512_mul_ps(v, _mm512_set1_ps(4.0f));
    const __m512i quarter = _mm512_cvtps_epi32(turns), one = _mm512_set1_epi32(1);
    const __m512 rest = _mm512_sub_ps(turns, _mm512_cvtepi32_ps(quarter));
    const __mmask16 odd = _mm512_test_epi32_mask(quarter, one);
    const __m512i first = _mm512_set1_epi32(INT32_MIN);
    signs[0] = _mm512_and_si512(_mm512_slli_epi32(_mm512_add_epi32(quarter, one), 30), first);
    signs[1] = _mm512_and_si512(_mm512_slli_epi32(quarter, 30), first);
    for (int h = 0; h < 2; h++) {
        const __mmask8 swap = (__mmask8)(odd >> 8 * h);
        const __m512d x = doubles(rest, h), t = _mm512_mul_pd(x, x);
        const __m512d c = quintic(COSINE, t), s = _mm512_mul_pd(x, quintic(SINE, t));
        parts[0][h] = _mm512_mask_mov_pd(c, swap, s);
        parts[1][h] = _mm512_mask_mov_pd(s, swap, c);
    }
}

/* Products in float32; `sure` keeps the lanes where none is within 2^13 last places of double of
 * the middle between two floats, which is 2^28 of them from either. */
AVX512_INLINE __m512 products(const __m512d radius[2], const __m512d part[2], __m512i sign,
                              __mmask8 *sure)
{
    const __m512i before = _mm512_set1_epi64((1 << 28) - (1 << 13));
    const __m512i far = _mm512_set1_epi64((1 << 29) - (1 << 14));
    __m512d x[2];
    for (int h = 0; h < 2; h++) {
        x[h] = _mm512_mul_pd(radius[h], part[h]);
        const __m512i past = _mm512_sub_epi64(_mm512_castpd_si512(x[h]), before);
        *sure = _mm512_mask_test_epi64_mask(*sure, past, far);
    }
    return _mm512_castsi512_ps(
        _mm512_xor_si512(_mm512_castps_si512(rounded(x[0], x[1])), sign));
}

/* The words of a row's first blocks, for quick_normals. */
AVX512 static void first_words(__m512i words[4][2], const uint32_t key[2], const uint32_t rest[3])
{
    block_rounds(words, key, rest, 0);
}

/* As normals_avx512. `words` are those of the blocks from `block` on, and then of the next sixteen:
 * their rounds fill the time in which the steps here wait for each other. */
AVX512 static void quick_normals(float *flat, __m512i words[4][2], const uint32_t key[2],
                                 const uint32_t rest[3], uint32_t block, int64_t lanes)
{
    __m512i next[4][2];
    block_rounds(next, key, rest, block + TILE);
    __m512 values[4];
    __mmask8 sure = 0xFF;
    __mmask16 zero = 0; /* radii, whose sign is another there */
#pragma GCC unroll 2
    for (int w = 0; w < 4; w += 2) {
        __m512d radius[2], parts[2][2];
        __m512i signs[2];
        const __m512 u = uniforms_of(words[w]);
        zero |= _mm512_cmp_ps_mask(u, _mm512_set1_ps(1.0f), _CMP_EQ_OQ);
        quick_radii(u, radius);
        quick_turns(uniforms_of(words[w + 1]), parts, signs);
        for (int i = 0; i < 2; i++) values[w + i] = products(radius, parts[i], signs[i], &sure);
    }
    memcpy(words, next, sizeof(next));
    if (zero || sure != 0xFF)
        normals_avx512(flat, key, rest, block, lanes);
    else
        interleave(values, flat, lanes);
}
