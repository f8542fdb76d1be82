/* The short way of quick_normals.h with AVX2, for eight blocks at a time: four vectors of four
 * doubles are in work at once, and beside their steps the rounds of the next eight blocks.
 *
 * Doubles are joined of words that are made apart, so that nothing but entries of a table crosses
 * the halves of a vector. Eight intervals and one more term come as near as sixteen do there.
 */

/* The doubles of these words, whose low_words are `low` again. */
AVX2_INLINE void join(__m256i low, __m256i high, __m256d x[2])
{
    x[0] = _mm256_castsi256_pd(_mm256_unpacklo_epi32(low, high));
    x[1] = _mm256_castsi256_pd(_mm256_unpackhi_epi32(low, high));
}

/* Positive float32 times 2^-896, by their bits. */
AVX2_INLINE void scaled(__m256i bits, __m256d x[2])
{
    join(_mm256_slli_epi32(bits, 29), _mm256_srli_epi32(bits, 3), x);
}

/* Bits of the uniforms: a word is rounded once when its halves are added. */
AVX2_INLINE __m256i uniform_bits(const __m256i words[2])
{
    const __m256i w = low_words(words[0], words[1]);
    const __m256 high = _mm256_cvtepi32_ps(_mm256_srli_epi32(w, 16));
    const __m256 low = _mm256_cvtepi32_ps(_mm256_and_si256(w, _mm256_set1_epi32(0xFFFF)));
    const __m256 whole = _mm256_fmadd_ps(high, _mm256_set1_ps(0x1p16f), low);
    return _mm256_castps_si256(
        _mm256_fmadd_ps(whole, _mm256_set1_ps(0x1p-32f), _mm256_set1_ps(0x1p-33f)));
}

AVX2_INLINE void constant(double term, __m256d p[4])
{
    for (int i = 0; i < 4; i++) p[i] = _mm256_set1_pd(term);
}

/* p = p t + term */
AVX2_INLINE void step(double term, const __m256d t[4], __m256d p[4])
{
    for (int i = 0; i < 4; i++) p[i] = _mm256_fmadd_pd(p[i], t[i], _mm256_set1_pd(term));
}

AVX2_INLINE __m256i entries(const uint32_t table[8], __m256i at)
{
    return _mm256_permutevar8x32_epi32(_mm256_loadu_si256((__m256i *)table), at);
}

/* sqrt(-2 ln u) as in quick_radii, but -0 for 1, whose product has the sign of the long way. */
AVX2_INLINE void radii_avx2(const __m256i u[2], __m256d radius[4], __m256i next[4][2],
                            const words_avx2 *b)
{
    static const uint32_t factors[8] = { /* high words of 2^896 f, whose low ones are 0 */
        0x77FCFC00, 0x77FA0800, 0x77F7A200, 0x77F5A200,
        0x77F3F200, 0x77F28200, 0x77F14200, 0x77F00000};
    static const uint32_t lows[8] = { /* words of 2 ln f */
        0xF7027E68, 0x93CEBBB7, 0x4DDEE3C8, 0x9D0CE0B3,
        0xC32DDE0C, 0xB53BC760, 0x3E38435C, 0x00000000};
    static const uint32_t highs[8] = {
        0x3FF3036C, 0x3FEF263D, 0x3FE8F689, 0x3FE34DC8,
        0x3FDC363E, 0x3FD2A328, 0x3FC35F84, 0x80000000};
    static const double terms[8] = { /* -2 ln(1 + r) / r for |r| <= 0.0568 */
        -2.0, 0x1.ffffffffefde9p-1, -0x1.5555555ca4b71p-1, 0x1.00000085cd3eep-1,
        -0x1.99991be4d022dp-2, 0x1.5552953770d26p-2, -0x1.25cc0bb1ca2cap-2, 0x1.02a0a2df4f94ap-2};
    const __m256i zero = _mm256_setzero_si256(), lowest = _mm256_set1_epi32(0x3F055555);
    const __m256i biased = _mm256_set1_epi32(0x405A0000); /* the high word of 104.0 */
    __m256d m[4], f[4], k[4], sum[4], p[4];
    for (int i = 0; i < 4; i += 2) {
        const __m256i above = _mm256_sub_epi32(u[i / 2], lowest);
        const __m256i power = _mm256_and_si256(above, _mm256_set1_epi32((int32_t)0xFF800000u));
        const __m256i interval = _mm256_srli_epi32(above, 20); /* its last three bits */
        scaled(_mm256_sub_epi32(u[i / 2], power), m + i);
        join(zero, entries(factors, interval), f + i);
        join(zero, _mm256_add_epi32(_mm256_srai_epi32(power, 9), biased), k + i);
        join(entries(lows, interval), entries(highs, interval), sum + i);
    }
    for (int i = 0; i < 4; i++) {
        m[i] = _mm256_fmsub_pd(m[i], f[i], _mm256_set1_pd(1.0)); /* r */
        k[i] = _mm256_sub_pd(k[i], _mm256_set1_pd(104.0));
        sum[i] = _mm256_fmadd_pd(k[i], _mm256_set1_pd(-0x1.62e42fefa39efp+0), sum[i]);
    }
    constant(terms[7], p);
#pragma GCC unroll 7
    for (int term = 6; term >= 0; term--) {
        step(terms[term], m, p);
        if (term < 4) one_round(next, b->keys[5 - term]);
    }
    for (int i = 0; i < 4; i++) radius[i] = _mm256_sqrt_pd(_mm256_fmadd_pd(m[i], p[i], sum[i]));
}

/* cos and sin of 2 pi v, but for the sign that both of them have. */
AVX2_INLINE void turns_avx2(const __m256i v[2], __m256d parts[2][4], __m256d sign[4],
                            __m256i next[4][2], const words_avx2 *b)
{
    const __m256d four = _mm256_set1_pd(0x1p898), whole = _mm256_set1_pd(0x1.8p52);
    __m256d turns[4], quarter[4], x[4], t[4], c[4], s[4];
    for (int i = 0; i < 4; i += 2) scaled(v[i / 2], turns + i);
    for (int i = 0; i < 4; i++) {
        quarter[i] = _mm256_fmadd_pd(turns[i], four, whole); /* rounded, in the last bits */
        x[i] = _mm256_fmsub_pd(turns[i], four, _mm256_sub_pd(quarter[i], whole));
        t[i] = _mm256_mul_pd(x[i], x[i]);
    }
    constant(COSINE[5], c), constant(SINE[5], s);
#pragma GCC unroll 5
    for (int term = 4; term >= 0; term--) {
        step(COSINE[term], t, c);
        if (term < 4) one_round(next, b->keys[9 - term]);
        step(SINE[term], t, s);
    }
    for (int i = 0; i < 4; i++) {
        const __m256i bits = _mm256_castpd_si256(quarter[i]);
        const __m256d odd = _mm256_castsi256_pd(_mm256_slli_epi64(bits, 63));
        const __m256d half = _mm256_castsi256_pd(_mm256_slli_epi64(bits, 62));
        s[i] = _mm256_mul_pd(x[i], s[i]);
        parts[0][i] = _mm256_xor_pd(_mm256_blendv_pd(c[i], s[i], odd), odd);
        parts[1][i] = _mm256_blendv_pd(s[i], c[i], odd);
        sign[i] = _mm256_and_pd(half, _mm256_set1_pd(-0.0));
    }
}

/* As products; `least` has a zero where one is in doubt. */
AVX2_INLINE __m256 products_avx2(const __m256d radius[2], const __m256d part[2], __m256i *least)
{
    const __m256i before = _mm256_set1_epi32((1 << 28) - (1 << 13));
    const __m256i far = _mm256_set1_epi32((1 << 29) - (1 << 14));
    const __m256d x = _mm256_mul_pd(radius[0], part[0]), y = _mm256_mul_pd(radius[1], part[1]);
    const __m256i low = low_words(_mm256_castpd_si256(x), _mm256_castpd_si256(y));
    *least = _mm256_min_epu32(*least, _mm256_and_si256(_mm256_sub_epi32(low, before), far));
    return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm256_cvtpd_ps(x)), _mm256_cvtpd_ps(y), 1);
}

/* Normals of the blocks from `block` on, whose words are in `b`; 0 where one is in doubt. */
AVX2 static int quick_normals_avx2(float *flat, words_avx2 *b, uint32_t block, int64_t lanes)
{
    __m256i least = _mm256_set1_epi32(-1);
    for (int i = 0; i < TILE; i += 8, flat += 8 * lanes) {
        __m256i next[4][2];
        __m256d radius[4], parts[2][4], sign[4];
        __m256 values[4];
        two_rounds(next, b, block + i + 8);
        const __m256i u[2] = {uniform_bits(b->words[0]), uniform_bits(b->words[2])};
        const __m256i v[2] = {uniform_bits(b->words[1]), uniform_bits(b->words[3])};
        radii_avx2(u, radius, next, b);
        turns_avx2(v, parts, sign, next, b);
        memcpy(b->words, next, sizeof(next));
        for (int k = 0; k < 4; k++) radius[k] = _mm256_xor_pd(radius[k], sign[k]);
        for (int w = 0; w < 4; w++)
            values[w] = products_avx2(radius + w / 2 * 2, parts[w % 2] + w / 2 * 2, &least);
        if (lanes == 3)
            three_lanes(values, flat);
        else
            four_lanes(values, flat);
    }
    const __m256i doubt = _mm256_cmpeq_epi32(least, _mm256_setzero_si256());
    return _mm256_testz_si256(doubt, doubt);
}
