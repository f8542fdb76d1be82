/* What loops over vectors of floats share: sixteen lanes of AVX-512, or, where LANES is 8, eight of
 * AVX2. The operations on a value are the same, so their bits are. The file that includes this one
 * may define TARGET, the instructions.
 */
#include <immintrin.h>
#include <stdint.h>

#ifndef LANES
#define LANES 16
#endif
#define PAIRS (LANES == 16 ? 12 : 6) /* pairs of vectors of sums that registers hold */
#define FEWER (PAIRS * 2 / 3)
#if !defined(TARGET) && LANES == 16
#define TARGET "avx512f"
#elif !defined(TARGET)
#define TARGET "avx2,fma"
#endif
#define FAST __attribute__((target(TARGET)))
#define INLINE FAST static inline __attribute__((always_inline))

#if LANES == 16
typedef __m512 vec;
typedef __mmask16 lanes; /* the first ones of a vector */

static inline int supported(void) { return __builtin_cpu_supports("avx512f") != 0; }

INLINE lanes first_of(int64_t count)
{
    return count < LANES ? (lanes)((1 << count) - 1) : (lanes)-1;
}

INLINE vec load(const float *from) { return _mm512_loadu_ps(from); }
INLINE vec all(float value) { return _mm512_set1_ps(value); }
INLINE void store(float *to, vec v) { _mm512_storeu_ps(to, v); }
INLINE void store_some(float *to, vec v, lanes some) { _mm512_mask_storeu_ps(to, some, v); }
INLINE vec multiply_add(vec a, vec b, vec c) { return _mm512_fmadd_ps(a, b, c); }
INLINE vec at_least(vec floor, vec v) { return _mm512_max_ps(floor, v); } /* NaN stays */

/* The larger, or NaN if either is, as in PyTorch's pooling: the instruction returns b then. */
INLINE vec larger(vec a, vec b)
{
    const __mmask16 nan = _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q);
    return _mm512_mask_mov_ps(_mm512_max_ps(a, b), nan, a);
}

/* Every second value of two vectors, from the first on or from the second. */
INLINE vec evens(vec a, vec b)
{
    const __m512i even =
        _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    return _mm512_permutex2var_ps(a, even, b);
}
INLINE vec odds(vec a, vec b)
{
    const __m512i odd =
        _mm512_set_epi32(31, 29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
    return _mm512_permutex2var_ps(a, odd, b);
}
#else
typedef __m256 vec;
typedef int64_t lanes;

static inline int supported(void)
{
    return __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0;
}

INLINE vec load(const float *from) { return _mm256_loadu_ps(from); }
INLINE vec all(float value) { return _mm256_set1_ps(value); }
INLINE void store(float *to, vec v) { _mm256_storeu_ps(to, v); }
INLINE lanes first_of(int64_t count) { return count; }
/* One by one, as AMD's masked stores are slow. */
FAST __attribute__((noinline)) static void store_few(float *to, vec v, lanes some)
{
    float values[LANES];
    store(values, v);
    for (int64_t i = 0; i < some; i++) to[i] = values[i];
}
INLINE void store_some(float *to, vec v, lanes some)
{
    if (some >= LANES)
        store(to, v);
    else
        store_few(to, v, some);
}
INLINE vec multiply_add(vec a, vec b, vec c) { return _mm256_fmadd_ps(a, b, c); }
INLINE vec at_least(vec floor, vec v) { return _mm256_max_ps(floor, v); } /* NaN stays */

/* As above. */
INLINE vec larger(vec a, vec b)
{
    return _mm256_blendv_ps(_mm256_max_ps(a, b), a, _mm256_cmp_ps(a, a, _CMP_UNORD_Q));
}
INLINE vec evens(vec a, vec b)
{
    const __m256d mixed = _mm256_castps_pd(_mm256_shuffle_ps(a, b, 0x88));
    return _mm256_castpd_ps(_mm256_permute4x64_pd(mixed, 0xD8));
}
INLINE vec odds(vec a, vec b)
{
    const __m256d mixed = _mm256_castps_pd(_mm256_shuffle_ps(a, b, 0xDD));
    return _mm256_castpd_ps(_mm256_permute4x64_pd(mixed, 0xD8));
}
#endif
