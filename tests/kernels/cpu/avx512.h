/* AVX-512 as Intel's manual (SDM volume 2) defines it, written with AVX2, FMA and the compiler's
 * own vectors, so that loops can be tested on processors without it: what they use of it and no
 * more. To be included before the loops, in which no function may be built for AVX-512. */
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define __builtin_cpu_supports(name) 1
#define EMULATED __attribute__((always_inline)) static inline
#define VECTOR(name, value, bytes) \
    typedef value name __attribute__((vector_size(bytes), may_alias))
VECTOR(u8x16, uint8_t, 16);
VECTOR(u16x16, uint16_t, 32);
VECTOR(i32x8, int32_t, 32);
VECTOR(u32x8, uint32_t, 32);
VECTOR(i32x16, int32_t, 64);
VECTOR(u32x16, uint32_t, 64);
VECTOR(u64x8, uint64_t, 64);

#define TO(type, v) __builtin_convertvector(v, type)
#define WORDS(v) ((u32x16)(v))
#define LONGS(v) ((u64x8)(v))
#define BITS(v) ((__m512i)(v))

/* Loads, stores and numbers in all places. Where a mask is 0 nothing is read or written. */
#define MEMORY(vector, name)                                                    \
    EMULATED vector load_##name(const void *from)                               \
    {                                                                           \
        vector v;                                                               \
        memcpy(&v, from, sizeof v);                                             \
        return v;                                                               \
    }                                                                           \
    EMULATED void store_##name(void *to, vector v) { memcpy(to, &v, sizeof v); }
MEMORY(__m512, ps)
MEMORY(__m512d, pd)
MEMORY(__m512i, si)
EMULATED void copy_some(void *to, const void *from, uint16_t mask, int size)
{
    for (int i = 0; i < 16; i++)
        if (mask >> i & 1) memcpy((char *)to + i * size, (const char *)from + i * size, size);
}
#define SOME(vector, name, size)                                         \
    EMULATED vector load_some_##name(uint16_t mask, const void *from)      \
    {                                                                      \
        vector v = {0};                                                    \
        copy_some(&v, from, mask, size);                                   \
        return v;                                                          \
    }                                                                      \
    EMULATED void store_some_##name(void *to, uint16_t mask, vector v)     \
    {                                                                      \
        copy_some(to, &v, mask, size);                                     \
    }
SOME(__m512, ps, 4)
SOME(__m256i, epi16, 2)
SOME(__m128i, epi8, 1)
#define ALL(name, vector, value)                                   \
    EMULATED vector all_##name(value x)                            \
    {                                                              \
        vector v;                                                  \
        for (int i = 0; i < (int)(sizeof v / sizeof x); i++) v[i] = x; \
        return v;                                                  \
    }
ALL(ps, __m512, float)
ALL(pd, __m512d, double)
ALL(epi32, i32x16, int32_t)
ALL(epi64, __m512i, int64_t)
#define _mm512_loadu_ps load_ps
#define _mm512_loadu_pd load_pd
#define _mm512_loadu_si512 load_si
#define _mm512_storeu_ps store_ps
#define _mm512_storeu_pd store_pd
#define _mm512_storeu_si512 store_si
#define _mm512_maskz_loadu_ps load_some_ps
#define _mm256_maskz_loadu_epi16 load_some_epi16
#define _mm_maskz_loadu_epi8 load_some_epi8
#define _mm512_mask_storeu_ps store_some_ps
#define _mm256_mask_storeu_epi16 store_some_epi16
#define _mm_mask_storeu_epi8 store_some_epi8
#define _mm512_set1_ps all_ps
#define _mm512_set1_pd all_pd
#define _mm512_set1_epi32(x) BITS(all_epi32(x))
#define _mm512_set1_epi64 all_epi64
#define _mm512_setzero_ps() ((__m512){0})
#define _mm512_setzero_si512() ((__m512i){0})
#define _mm512_set_epi64(a, b, c, d, e, f, g, h) ((__m512i){h, g, f, e, d, c, b, a})
#define _mm512_set_epi32(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p) \
    BITS(((i32x16){p, o, n, m, l, k, j, i, h, g, f, e, d, c, b, a}))

/* Arithmetic, each operation rounded to nearest even. */
#define _mm512_add_ps(a, b) ((a) + (b))
#define _mm512_add_pd(a, b) ((a) + (b))
#define _mm512_sub_ps(a, b) ((a) - (b))
#define _mm512_sub_pd(a, b) ((a) - (b))
#define _mm512_mul_ps(a, b) ((a) * (b))
#define _mm512_mul_pd(a, b) ((a) * (b))
#define _mm512_div_ps(a, b) ((a) / (b))
#define _mm512_div_pd(a, b) ((a) / (b))
#define _mm512_add_epi32(a, b) BITS(WORDS(a) + WORDS(b))
#define _mm512_sub_epi32(a, b) BITS(WORDS(a) - WORDS(b))
#define _mm512_add_epi64(a, b) BITS(LONGS(a) + LONGS(b))
#define _mm512_sub_epi64(a, b) BITS(LONGS(a) - LONGS(b))
#define _mm512_mul_epu32(a, b) BITS((LONGS(a) & UINT32_MAX) * (LONGS(b) & UINT32_MAX))
#define _mm512_slli_epi32(a, n) BITS(WORDS(a) << (n))
#define _mm512_srli_epi32(a, n) BITS(WORDS(a) >> (n))
#define _mm512_srai_epi32(a, n) BITS((i32x16)(a) >> (n))
#define _mm512_slli_epi64(a, n) BITS(LONGS(a) << (n))
#define _mm512_srli_epi64(a, n) BITS(LONGS(a) >> (n))
#define _mm512_srai_epi64(a, n) ((a) >> (n))
#define _mm512_and_si512(a, b) ((a) & (b))
#define _mm512_xor_si512(a, b) ((a) ^ (b))
#define HALVES(name, vector, half, ...)                                              \
    EMULATED vector name##_512(vector a, vector b, vector c)                         \
    {                                                                                \
        for (int h = 0; h < 2; h++) {                                                \
            half *x = (half *)&a + h, *y = (half *)&b + h, *z = (half *)&c + h;      \
            (void)y, (void)z;                                                        \
            *x = __VA_ARGS__;                                                        \
        }                                                                            \
        return a;                                                                    \
    }
HALVES(fmadd_ps, __m512, __m256, _mm256_fmadd_ps(*x, *y, *z))
HALVES(fmadd_pd, __m512d, __m256d, _mm256_fmadd_pd(*x, *y, *z))
HALVES(max_ps, __m512, __m256, _mm256_max_ps(*x, *y))
HALVES(min_ps, __m512, __m256, _mm256_min_ps(*x, *y))
HALVES(sqrt_pd, __m512d, __m256d, _mm256_sqrt_pd(*x))
HALVES(nearest, __m512, __m256, (__m256)_mm256_cvtps_epi32(*x))
#define _mm512_fmadd_ps fmadd_ps_512
#define _mm512_fmadd_pd fmadd_pd_512
#define _mm512_fmsub_pd(a, b, c) fmadd_pd_512(a, b, -(c))
#define _mm512_fnmadd_pd(a, b, c) fmadd_pd_512(-(a), b, c)
#define _mm512_max_ps(a, b) max_ps_512(a, b, b)
#define _mm512_min_ps(a, b) min_ps_512(a, b, b)
#define _mm512_sqrt_pd(a) sqrt_pd_512(a, a, a)
#define _mm512_abs_ps(a) ((__m512)(WORDS(a) & INT32_MAX))
EMULATED __m512i bits_of_three(__m512i a, __m512i b, __m512i c, int table)
{
    __m512i v = {0};
    for (int i = 0; i < 8; i++)
        if (table >> i & 1) v |= (i & 4 ? a : ~a) & (i & 2 ? b : ~b) & (i & 1 ? c : ~c);
    return v;
}
#define _mm512_ternarylogic_epi64 bits_of_three
EMULATED __m512i dot_of_bytes(__m512i sums, __m512i values, __m512i weights)
{
    for (int high = 24; high >= 0; high -= 8) /* of weights' bytes, which have signs */
        sums = BITS(WORDS(sums) + (WORDS(values) << high >> 24) *
                                      (u32x16)((i32x16)(WORDS(weights) << high) >> 24));
    return sums;
}
#define _mm512_dpbusd_epi32 dot_of_bytes

/* Other types of the same values, or of the same bits. */
#define _mm512_castps_si512(v) BITS(v)
#define _mm512_castpd_si512(v) BITS(v)
#define _mm512_castsi512_ps(v) ((__m512)(v))
#define _mm512_castsi512_pd(v) ((__m512d)(v))
#define _mm512_castps_pd(v) ((__m512d)(v))
#define _mm512_castsi512_si256(v) half_of_bits(v, 0)
#define _mm512_extracti64x4_epi64(v, h) half_of_bits(v, h)
#define _mm512_castps256_ps512(v) with_half((__m512){0}, v, 0)
#define _mm512_insertf32x8(v, half, h) with_half(v, half, h)
EMULATED __m256i half_of_bits(__m512i v, int h) { return ((__m256i *)&v)[h]; }
EMULATED __m512 with_half(__m512 v, __m256 half, int h)
{
    ((__m256 *)&v)[h] = half;
    return v;
}
#define _mm512_cvtepi32_ps(v) TO(__m512, (i32x16)(v))
#define _mm512_cvtepu32_ps(v) TO(__m512, WORDS(v))
#define _mm256_cvtepu32_ps(v) TO(__m256, (u32x8)(v))
#define _mm512_cvtepi32_pd(v) TO(__m512d, (i32x8)(v))
#define _mm512_cvtepi64_pd(v) TO(__m512d, v)
#define _mm512_cvtps_pd(v) TO(__m512d, v)
#define _mm512_cvtpd_ps(v) TO(__m256, v)
#define _mm512_cvttpd_epi32(v) ((__m256i)TO(i32x8, v))
#define _mm512_cvtps_epi32(v) BITS(nearest_512(v, v, v))
#define _mm512_cvt_roundps_epi32(v, how) _mm512_cvtps_epi32(v)
#define _mm512_cvtepu32_epi64(v) TO(__m512i, (u32x8)(v))
#define _mm512_cvtepi64_epi32(v) ((__m256i)TO(u32x8, v))
#define _mm512_cvtepu8_epi32(v) BITS(TO(u32x16, (u8x16)(v)))
#define _mm512_cvtepu16_epi32(v) BITS(TO(u32x16, (u16x16)(v)))
#define _mm512_cvtepi32_epi8(v) ((__m128i)TO(u8x16, WORDS(v)))
#define _mm512_cvtepi32_epi16(v) ((__m256i)TO(u16x16, WORDS(v)))

/* Other places. */
#define MIXED(type, a, b, ...) __builtin_shuffle(a, b, (type){__VA_ARGS__})
#define _mm512_permutex2var_ps(a, at, b) __builtin_shuffle(a, b, (i32x16)(at))
#define _mm512_permutex2var_pd(a, at, b) __builtin_shuffle(a, b, at)
#define _mm512_permutex2var_epi32(a, at, b) BITS(__builtin_shuffle(WORDS(a), WORDS(b), WORDS(at)))
#define _mm512_mask_permutexvar_ps(v, mask, at, a) \
    _mm512_mask_mov_ps(v, mask, __builtin_shuffle(a, (i32x16)(at)))
#define _mm512_unpacklo_ps(a, b) \
    MIXED(i32x16, a, b, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29)
#define _mm512_unpackhi_ps(a, b) \
    MIXED(i32x16, a, b, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31)
#define _mm512_unpacklo_pd(a, b) MIXED(__m512i, a, b, 0, 8, 2, 10, 4, 12, 6, 14)
#define _mm512_unpackhi_pd(a, b) MIXED(__m512i, a, b, 1, 9, 3, 11, 5, 13, 7, 15)
#define PAIR(from, which, n) from + 2 * ((which) >> n & 3), from + 1 + 2 * ((which) >> n & 3)
#define _mm512_shuffle_f64x2(a, b, which)                                           \
    MIXED(__m512i, a, b, PAIR(0, which, 0), PAIR(0, which, 2), PAIR(8, which, 4), \
          PAIR(8, which, 6))

/* Masks: bit i is about value i. */
EMULATED i32x16 mask_to_words(uint16_t mask)
{
    const i32x16 place = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return -((i32x16)_mm512_set1_epi32(mask) >> place & 1);
}
EMULATED uint16_t words_to_mask(i32x16 truths)
{
    const __m256 *half = (const __m256 *)&truths;
    return (uint16_t)(_mm256_movemask_ps(half[0]) | _mm256_movemask_ps(half[1]) << 8);
}
EMULATED __m512i mask_to_longs(uint8_t mask)
{
    const __m512i place = {0, 1, 2, 3, 4, 5, 6, 7};
    return -(_mm512_set1_epi64(mask) >> place & 1);
}
#define CHOSEN(a, mask, b) (BITS(a) & ~(mask) | BITS(b) & (mask))
#define _mm512_mask_mov_ps(a, mask, b) ((__m512)CHOSEN(a, BITS(mask_to_words(mask)), b))
#define _mm512_mask_mov_pd(a, mask, b) ((__m512d)CHOSEN(a, mask_to_longs(mask), b))
#define _mm512_mask_blend_pd(mask, a, b) _mm512_mask_mov_pd(a, mask, b)
#define _mm512_mask_xor_pd(a, mask, b, c) _mm512_mask_mov_pd(a, mask, BITS(b) ^ BITS(c))
#define _mm512_test_epi32_mask(a, b) words_to_mask((i32x16)((a) & (b)) != 0)
#define _mm256_test_epi32_mask(a, b) tested(0xFF, TO(__m512i, (i32x8)(a)), TO(__m512i, (i32x8)(b)))
#define _mm512_cmp_ps_mask(a, b, kind) compared(a, b, kind)
EMULATED uint16_t compared(__m512 a, __m512 b, int kind)
{
    const int equal = kind == _CMP_EQ_OQ; /* else _CMP_UNORD_Q */
    return words_to_mask(equal ? a == b : (a != a) | (b != b));
}
EMULATED uint8_t tested(uint8_t mask, __m512i a, __m512i b)
{
    for (int i = 0; i < 8; i++)
        if (!(a[i] & b[i])) mask &= (uint8_t)~(1 << i);
    return mask;
}
#define _mm512_mask_test_epi64_mask tested
