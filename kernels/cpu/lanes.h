/* What loops over vectors of sixteen values share. The file that includes this one defines TARGET,
 * the instructions.
 */
#include <immintrin.h>
#include <stdint.h>

#define LANES 16
#define FAST __attribute__((target(TARGET)))
#define INLINE FAST static inline __attribute__((always_inline))

INLINE __mmask16 first_of(int64_t count)
{
    return count < LANES ? (__mmask16)((1 << count) - 1) : (__mmask16)-1;
}

/* The larger, or NaN if either is, as in PyTorch's pooling: the instruction returns b then. */
INLINE __m512 larger(__m512 a, __m512 b)
{
    const __mmask16 nan = _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q);
    return _mm512_mask_mov_ps(_mm512_max_ps(a, b), nan, a);
}
