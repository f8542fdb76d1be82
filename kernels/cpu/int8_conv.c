/* Convolutions of 8-bit maps with 8-bit weights, in chains, on a CPU with AVX512-VNNI.
 *
 * Values of maps are unsigned, weights signed; four products and their sum in 32 bits are one
 * instruction that does not saturate, and whole sums fit 32 bits. Then a value is, each step
 * rounded to float32,
 *     sum * scale[output] + bias[output] + shortcut * factor,
 * cut off at 0 and 255 (no number is 0) and rounded to a whole number, ties to even. What is read
 * beyond a line of a kernel meets weights of zero.
 */
#if defined(__x86_64__)
#define BUILT
#endif
#define TARGET "avx512f,avx512bw,avx512vl,avx512vnni"
#define VALUE 1
#define VALUES __m128i
#define LARGER(a, b) _mm_max_epu8(a, b)
#define SUM __m512i
#define NOTHING _mm512_setzero_si512()
#define MULTIPLY(sums, values, weights) _mm512_dpbusd_epi32(sums, values, weights)
#define TILE_TARGET "amx-tile,amx-int8"
#define TILE_BIT 25
#define MULTIPLY_TILES(sums, values, weights) _tile_dpbusd(sums, values, weights)
#include "chains.h"

#ifdef BUILT
INLINE __m128i read_values(const uint8_t *in, __mmask16 mask)
{
    return _mm_maskz_loadu_epi8(mask, in);
}

INLINE void write_values(uint8_t *out, __mmask16 mask, __m128i values)
{
    _mm_mask_storeu_epi8(out, mask, values);
}

/* Cut off, rounded to even and written as bytes. max(NaN, 0) is 0. */
INLINE void write_bytes(uint8_t *out, __mmask16 mask, __m512 value)
{
    value = _mm512_min_ps(_mm512_max_ps(value, _mm512_setzero_ps()), _mm512_set1_ps(255));
    const __m512i whole =
        _mm512_cvt_roundps_epi32(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    write_values(out, mask, _mm512_cvtepi32_epi8(whole));
}

INLINE __m512 read_bytes(const uint8_t *in, __mmask16 mask)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(read_values(in, mask)));
}

INLINE void write_tile(const layer *l, const strip *s, const SUM *sums, int64_t x,
                       const int pixels, const int vectors)
{
    const __m512 factor = _mm512_set1_ps(l->factor);
    const uint8_t *shortcut = s->shortcut ? s->shortcut + x * s->shortcut_pixel : 0;
    uint8_t *out = s->out + x * s->out_pixel;
    for (int k = 0; k < vectors * LANES; k += LANES, sums++) {
        if (k >= s->outputs) return;
        const __mmask16 mask = first_of(s->outputs - k);
        const __m512 scale = _mm512_loadu_ps(s->scale + k), bias = _mm512_loadu_ps(s->bias + k);
        for (int p = 0; p < pixels; p++) {
            if (p >= s->width - x) break;
            __m512 value = _mm512_mul_ps(_mm512_cvtepi32_ps(sums[p * vectors]), scale);
            value = _mm512_add_ps(value, bias);
            if (shortcut) {
                const __m512 other = read_bytes(shortcut + p * s->shortcut_pixel + k, mask);
                value = _mm512_add_ps(value, _mm512_mul_ps(other, factor));
            }
            write_bytes(out + p * s->out_pixel + k, mask, value);
        }
    }
}

/* The image quantized. */
FAST static void begin(const ends *e, int64_t rows, const uint8_t *constants, const uint8_t *images,
                       uint8_t *scratch)
{
    const map *m = &e->first;
    const int64_t line = m->width * m->channels;
    const __m512 inverse = _mm512_set1_ps(e->inverse), zero = _mm512_set1_ps(e->zero);
    const float *image = (const float *)images;
    (void)constants;
    for (int64_t i = 0; i < rows * m->height; i++, image += line) {
        uint8_t *out = scratch + line_of(&m->at, m->height, i);
        for (int64_t x = 0; x < line; x += LANES) {
            const __m512 value = _mm512_maskz_loadu_ps(first_of(line - x), image + x);
            write_bytes(out + x, first_of(line - x),
                        _mm512_add_ps(_mm512_mul_ps(value, inverse), zero));
        }
    }
}

FAST static void widen(const ends *e, int64_t rows, const uint8_t *scratch, float *out)
{
    const map *m = &e->last;
    const int64_t line = m->width * m->channels;
    const __m512 zero = _mm512_set1_ps(e->last_zero), scale = _mm512_set1_ps(e->last_scale);
    for (int64_t i = 0; i < rows * m->height; i++, out += line) {
        const uint8_t *in = scratch + line_of(&m->at, m->height, i);
        for (int64_t x = 0; x < line; x += LANES) {
            const __m512 value = _mm512_sub_ps(read_bytes(in + x, first_of(line - x)), zero);
            _mm512_mask_storeu_ps(out + x, first_of(line - x), _mm512_mul_ps(value, scale));
        }
    }
}
#endif

/* 1 where this processor has the instructions, 3 where it has AMX, too. */
int dualsmooth_int8_conv_available(void)
{
#ifdef BUILT
    if (__builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl"))
        return has_tiles() ? 3 : 1;
#endif
    return 0;
}

void dualsmooth_int8_maps(const ends *e, const layer *layers, int64_t count, int64_t rows,
                          int64_t group, const uint8_t *constants, const float *images,
                          uint8_t *scratch, float *out)
{
#ifdef BUILT
    const int64_t image = e->first.height * e->first.width * e->first.channels;
    run_chain(e, layers, count, rows, group, constants, (const uint8_t *)images,
              image * (int64_t)sizeof *images, scratch, out);
#endif
}
