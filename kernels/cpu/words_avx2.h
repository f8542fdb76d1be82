/* Philox words of eight blocks at a time with AVX2, and the order of the values made of them. */
#include <immintrin.h>

#define AVX2_TARGET __attribute__((target("avx2,fma")))
#if defined(__clang__)
#define AVX2 AVX2_TARGET
#else /* sixteen registers are too few for what that pass brings into flight: 1.3 times the time */
#define AVX2 AVX2_TARGET __attribute__((optimize("no-schedule-insns")))
#endif
#define AVX2_INLINE AVX2 static inline __attribute__((always_inline))

typedef struct {
    __m256i keys[10][2];
    __m256i shared[4];   /* what the first two rounds make of words that all blocks have */
    __m256i words[4][2]; /* of the next eight blocks, in the low halves of 64-bit lanes */
} words_avx2;

/* The low halves of the lanes of two vectors, lane 0 and 1 of each before 2 and 3. */
AVX2_INLINE __m256i low_words(__m256i a, __m256i b)
{
    return _mm256_castps_si256(
        _mm256_shuffle_ps(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b), 0x88));
}

AVX2_INLINE __m256i first_product(__m256i word)
{
    return _mm256_mul_epu32(word, _mm256_set1_epi64x(0xD2511F53u));
}

AVX2_INLINE __m256i second_product(__m256i word)
{
    return _mm256_mul_epu32(word, _mm256_set1_epi64x(0xCD9E8D57u));
}

/* As in philox_rounds, the high half of a lane keeps what a round leaves there. */
AVX2_INLINE void one_round(__m256i c[4][2], const __m256i key[2])
{
    for (int h = 0; h < 2; h++) {
        const __m256i p0 = first_product(c[0][h]), p1 = second_product(c[2][h]);
        const __m256i high0 = _mm256_srli_epi64(p0, 32), high1 = _mm256_srli_epi64(p1, 32);
        c[0][h] = _mm256_xor_si256(high1, _mm256_xor_si256(c[1][h], key[0]));
        c[2][h] = _mm256_xor_si256(high0, _mm256_xor_si256(c[3][h], key[1]));
        c[1][h] = p1, c[3][h] = p0;
    }
}

AVX2_INLINE void key_schedule(__m256i keys[10][2], const uint32_t key[2])
{
    for (uint32_t i = 0; i < 10; i++) {
        keys[i][0] = _mm256_set1_epi32((int32_t)(key[0] + i * 0x9E3779B9u));
        keys[i][1] = _mm256_set1_epi32((int32_t)(key[1] + i * 0xBB67AE85u));
    }
}

AVX2 static void philox_avx2(uint32_t words[4][TILE], const uint32_t key[2])
{
    __m256i keys[10][2];
    key_schedule(keys, key);
    for (int i = 0; i < TILE; i += 8) {
        __m256i c[4][2];
        for (int w = 0; w < 4; w++) {
            const __m256i x = _mm256_loadu_si256((__m256i *)(words[w] + i));
            c[w][0] = _mm256_unpacklo_epi32(x, x), c[w][1] = _mm256_unpackhi_epi32(x, x);
        }
        for (int round = 0; round < 10; round++) one_round(c, keys[round]);
        for (int w = 0; w < 4; w++)
            _mm256_storeu_si256((__m256i *)(words[w] + i), low_words(c[w][0], c[w][1]));
    }
}

/* The eight blocks from `block` on after two rounds, in which only one product a round differs. */
AVX2_INLINE void two_rounds(__m256i c[4][2], const words_avx2 *b, uint32_t block)
{
    const __m256i steps = _mm256_set_epi64x(3, 2, 1, 0);
    for (int h = 0; h < 2; h++) {
        const __m256i at = _mm256_add_epi64(_mm256_set1_epi64x((int64_t)block + 4 * h), steps);
        const __m256i p0 = first_product(at);
        const __m256i p1 =
            second_product(_mm256_xor_si256(_mm256_srli_epi64(p0, 32), b->shared[0]));
        c[0][h] = _mm256_xor_si256(_mm256_srli_epi64(p1, 32), b->shared[1]);
        c[1][h] = p1;
        c[2][h] = _mm256_xor_si256(p0, b->shared[2]);
        c[3][h] = b->shared[3];
    }
}

/* All that quick_normals_avx2 needs of a row. */
AVX2 static void first_avx2(words_avx2 *b, const uint32_t key[2], const uint32_t rest[3])
{
    const uint64_t p1 = rest[1] * (uint64_t)0xCD9E8D57u;
    const uint64_t p0 = ((uint32_t)(p1 >> 32) ^ rest[0] ^ key[0]) * (uint64_t)0xD2511F53u;
    const uint32_t shared[4] = {
        rest[2] ^ key[1], (uint32_t)p1 ^ (key[0] + 0x9E3779B9u),
        (uint32_t)(p0 >> 32) ^ (key[1] + 0xBB67AE85u), (uint32_t)p0};
    for (int i = 0; i < 4; i++) b->shared[i] = _mm256_set1_epi32((int32_t)shared[i]);
    key_schedule(b->keys, key);
    two_rounds(b->words, b, 0);
    for (int round = 2; round < 10; round++) one_round(b->words, b->keys[round]);
}

/* flat[3 i + lane]: in each half of a vector (0 0, 1 0, 2 0, 0 1), (1 1, 2 1, 0 2, 1 2) and
 * (2 2, 0 3, 1 3, 2 3), lane first. */
AVX2_INLINE void three_lanes(const __m256 lanes[4], float *flat)
{
    const __m256 a = _mm256_permute_ps(lanes[0], 0x6C), b = _mm256_permute_ps(lanes[1], 0xB1);
    const __m256 c = _mm256_permute_ps(lanes[2], 0xC6);
    const __m256 x = _mm256_blend_ps(_mm256_blend_ps(a, b, 0x22), c, 0x44);
    const __m256 y = _mm256_blend_ps(_mm256_blend_ps(b, c, 0x22), a, 0x44);
    const __m256 z = _mm256_blend_ps(_mm256_blend_ps(c, a, 0x22), b, 0x44);
    _mm256_storeu_ps(flat, _mm256_permute2f128_ps(x, y, 0x20));
    _mm256_storeu_ps(flat + 8, _mm256_blend_ps(z, x, 0xF0));
    _mm256_storeu_ps(flat + 16, _mm256_permute2f128_ps(y, z, 0x31));
}

/* flat[4 i + lane], transposed as in interleave_four. */
AVX2_INLINE void four_lanes(const __m256 lanes[4], float *flat)
{
    const __m256d a = _mm256_castps_pd(_mm256_unpacklo_ps(lanes[0], lanes[1]));
    const __m256d b = _mm256_castps_pd(_mm256_unpackhi_ps(lanes[0], lanes[1]));
    const __m256d c = _mm256_castps_pd(_mm256_unpacklo_ps(lanes[2], lanes[3]));
    const __m256d d = _mm256_castps_pd(_mm256_unpackhi_ps(lanes[2], lanes[3]));
    const __m256d r0 = _mm256_unpacklo_pd(a, c), r1 = _mm256_unpackhi_pd(a, c);
    const __m256d r2 = _mm256_unpacklo_pd(b, d), r3 = _mm256_unpackhi_pd(b, d);
    _mm256_storeu_pd((double *)flat, _mm256_permute2f128_pd(r0, r1, 0x20));
    _mm256_storeu_pd((double *)(flat + 8), _mm256_permute2f128_pd(r2, r3, 0x20));
    _mm256_storeu_pd((double *)(flat + 16), _mm256_permute2f128_pd(r0, r1, 0x31));
    _mm256_storeu_pd((double *)(flat + 24), _mm256_permute2f128_pd(r2, r3, 0x31));
}
