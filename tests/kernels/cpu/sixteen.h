/* For lanes.h with vectors of sixteen values where the processor has AVX2, value by value. */
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define TARGET "avx2,fma"
#define __builtin_cpu_supports(name) 1
#define EACH for (int i = 0; i < 16; i++)
#define MADE static inline __attribute__((target(TARGET), always_inline))
typedef int32_t whole __attribute__((vector_size(64)));

MADE __m512 loaded(const float *from)
{
    __m512 v;
    memcpy(&v, from, sizeof v);
    return v;
}
MADE void stored(float *to, uint16_t some, __m512 v) { EACH if (some >> i & 1) to[i] = v[i]; }
MADE __m512 every(float value)
{
    __m512 v;
    EACH v[i] = value;
    return v;
}
MADE __m512 fused(__m512 a, __m512 b, __m512 c)
{
    EACH c[i] = __builtin_fmaf(a[i], b[i], c[i]);
    return c;
}
MADE __m512 most(__m512 a, __m512 b)
{
    EACH b[i] = a[i] > b[i] ? a[i] : b[i]; /* b where either is NaN, or both are zero */
    return b;
}
MADE uint16_t unordered(__m512 a)
{
    uint16_t some = 0;
    EACH some |= (uint16_t)((a[i] != a[i]) << i);
    return some;
}
MADE __m512 chosen(__m512 a, uint16_t some, __m512 b)
{
    EACH a[i] = some >> i & 1 ? b[i] : a[i];
    return a;
}
MADE __m512 picked(__m512 a, whole at, __m512 b)
{
    __m512 v;
    EACH v[i] = at[i] < 16 ? a[at[i]] : b[at[i] - 16];
    return v;
}

#define _mm512_loadu_ps loaded
#define _mm512_set1_ps every
#define _mm512_storeu_ps(to, v) stored(to, 0xFFFF, v)
#define _mm512_mask_storeu_ps stored
#define _mm512_fmadd_ps fused
#define _mm512_max_ps most
#define _mm512_cmp_ps_mask(a, b, kind) unordered(a)
#define _mm512_mask_mov_ps chosen
#define _mm512_permutex2var_ps picked
#define __m512i whole
#define _mm512_set_epi32(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p) \
    {p, o, n, m, l, k, j, i, h, g, f, e, d, c, b, a}
