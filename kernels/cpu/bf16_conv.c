/* Convolutions of bfloat16 maps, in chains, on a CPU with AVX512-BF16.
 *
 * Two products and their sum in float32 are one instruction. Then a value is, each step rounded to
 * float32,
 *     sum + bias[output] + shortcut,
 * cut off at 0 where `relu` is set and rounded to bfloat16, ties to even; NaN stays NaN. Images come
 * in bfloat16 and become (x - mean) / deviation in float32, rounded once. A kernel's line of an odd
 * number of values ends with half a step, so that nothing beyond it is multiplied: zero times NaN
 * is NaN. A convolution is computed by AMX or not at all by it, as the order of sums differs.
 */
#if defined(__x86_64__) && defined(__has_include)
#if __has_include(<avx512bf16intrin.h>)
#define BUILT
#endif
#endif
#define TARGET "avx512f,avx512bw,avx512vl,avx512bf16"
#define VALUE 2
#define VALUES __m512
#define LARGER(a, b) larger(a, b)
#define SUM __m512
#define NOTHING _mm512_setzero_ps()
#define MULTIPLY(sums, values, weights) \
    _mm512_dpbf16_ps(sums, (__m512bh)(weights), (__m512bh)(values))
#define TILE_TARGET "amx-tile,amx-bf16"
#define TILE_BIT 22
#define MULTIPLY_TILES(sums, values, weights) _tile_dpbf16ps(sums, values, weights)
#include "chains.h"

#ifdef BUILT
#include <cpuid.h>

INLINE __m512 read_values(const uint8_t *in, __mmask16 mask)
{
    const __m512i words = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, in));
    return _mm512_castsi512_ps(_mm512_slli_epi32(words, 16));
}

INLINE void write_values(uint8_t *out, __mmask16 mask, __m512 values)
{
    _mm256_mask_storeu_epi16(out, mask, (__m256i)_mm512_cvtneps_pbh(values));
}

INLINE void write_tile(const layer *l, const strip *s, const SUM *sums, int64_t x,
                       const int pixels, const int vectors)
{
    const uint8_t *shortcut = s->shortcut ? s->shortcut + x * s->shortcut_pixel : 0;
    uint8_t *out = s->out + x * s->out_pixel;
    for (int k = 0; k < vectors * LANES; k += LANES, sums++) {
        if (k >= s->outputs) return;
        const __mmask16 mask = first_of(s->outputs - k);
        const __m512 bias = _mm512_loadu_ps(s->bias + k);
        for (int p = 0; p < pixels; p++) {
            if (p >= s->width - x) break;
            __m512 value = _mm512_add_ps(sums[p * vectors], bias);
            if (shortcut)
                value = _mm512_add_ps(
                    value, read_values(shortcut + p * s->shortcut_pixel + k * VALUE, mask));
            if (l->relu) value = _mm512_max_ps(_mm512_setzero_ps(), value); /* NaN if value is */
            write_values(out + p * s->out_pixel + k * VALUE, mask, value);
        }
    }
}

/* The image normalized. */
FAST static void begin(const ends *e, int64_t rows, const uint8_t *constants, const uint8_t *images,
                       uint8_t *scratch)
{
    const map *m = &e->first;
    const int64_t line = m->width * m->channels;
    const float *mean = (const float *)(constants + e->mean);
    const float *deviation = (const float *)(constants + e->deviation);
    for (int64_t i = 0; i < rows * m->height; i++, images += line * VALUE) {
        uint8_t *out = scratch + line_of(&m->at, m->height, i);
        for (int64_t x = 0; x < line; x += LANES) {
            const __mmask16 mask = first_of(line - x);
            const __m512 value = _mm512_sub_ps(read_values(images + x * VALUE, mask),
                                               _mm512_maskz_loadu_ps(mask, mean + x));
            write_values(out + x * VALUE, mask,
                         _mm512_div_ps(value, _mm512_maskz_loadu_ps(mask, deviation + x)));
        }
    }
}

FAST static void widen(const ends *e, int64_t rows, const uint8_t *scratch, float *out)
{
    const map *m = &e->last;
    const int64_t line = m->width * m->channels;
    for (int64_t i = 0; i < rows * m->height; i++, out += line) {
        const uint8_t *in = scratch + line_of(&m->at, m->height, i);
        for (int64_t x = 0; x < line; x += LANES)
            _mm512_mask_storeu_ps(out + x, first_of(line - x),
                                  read_values(in + x * VALUE, first_of(line - x)));
    }
}
#endif

/* 1 where this processor has the instructions, 3 where it has AMX, too. */
int dualsmooth_bf16_conv_available(void)
{
#ifdef BUILT
    unsigned a = 0, b, c, d;
    if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
        __get_cpuid_count(7, 1, &a, &b, &c, &d) && a >> 5 & 1)
        return has_tiles() ? 3 : 1;
#endif
    return 0;
}

void dualsmooth_bf16_maps(const ends *e, const layer *layers, int64_t count, int64_t rows,
                          int64_t group, const uint8_t *constants, const uint8_t *images,
                          uint8_t *scratch, float *out)
{
#ifdef BUILT
    const int64_t image = e->first.height * e->first.width * e->first.channels * VALUE;
    run_chain(e, layers, count, rows, group, constants, images, image, scratch, out);
#endif
}
