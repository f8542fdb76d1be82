/* Convolutions of 8-bit maps with 8-bit weights, in chains, on a CPU with AVX512-VNNI.
 *
 * Values of maps are unsigned, weights signed; four products and their sum in 32 bits are one
 * instruction that does not saturate, and whole sums fit 32 bits. Then a value is, each step
 * rounded to float32,
 *     sum * scale[output] + bias[output] + shortcut * factor,
 * cut off at 0 and 255 (no number is 0) and rounded to a whole number, ties to even. What is read
 * beyond a line of a kernel meets weights of zero.
 */
#define TARGET "avx512f,avx512bw,avx512vl,avx512vnni"
#define VALUE 1
#define SUM __m512i
#define NOTHING _mm512_setzero_si512()
#define MULTIPLY(sums, values, weights) _mm512_dpbusd_epi32(sums, values, weights)
#include "chains.h"

#if defined(__x86_64__)
/* Cut off, rounded to even and written as bytes. max(NaN, 0) is 0. */
INLINE void write_bytes(uint8_t *out, __mmask16 mask, __m512 value)
{
    value = _mm512_min_ps(_mm512_max_ps(value, _mm512_setzero_ps()), _mm512_set1_ps(255));
    const __m512i whole =
        _mm512_cvt_roundps_epi32(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    _mm_mask_storeu_epi8(out, mask, _mm512_cvtepi32_epi8(whole));
}

INLINE __m512 read_bytes(const uint8_t *in, __mmask16 mask)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(mask, in)));
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

FAST static void maximum(const layer *l, int64_t rows, uint8_t *scratch)
{
    const map *m = &l->out;
    for (int64_t i = 0; i < rows * m->height; i++) {
        const uint8_t *in = scratch + line_of(&l->in, m->height, i);
        uint8_t *out = scratch + line_of(&m->at, m->height, i);
        for (int64_t x = 0; x < m->width; x++, in += l->in.pixel, out += m->channels)
            for (int64_t c = 0; c < m->channels; c += LANES) {
                const __mmask16 mask = first_of(m->channels - c);
                __m128i most = _mm_setzero_si128();
                for (int64_t v = 0; v < l->kernel_height; v++)
                    for (int64_t u = 0; u < l->kernel_width; u++)
                        most = _mm_max_epu8(most, _mm_maskz_loadu_epi8(
                            mask, in + v * l->tap_line + u * m->channels + c));
                _mm_mask_storeu_epi8(out + c, mask, most);
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

/* Whether this processor has the instructions. */
int dualsmooth_int8_conv_available(void)
{
#if defined(__x86_64__)
    return __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl");
#else
    return 0;
#endif
}

void dualsmooth_int8_maps(const ends *e, const layer *layers, int64_t count, int64_t rows,
                          int64_t group, const uint8_t *constants, const float *images,
                          uint8_t *scratch, float *out)
{
#if defined(__x86_64__)
    const int64_t image = e->first.height * e->first.width * e->first.channels;
    run_chain(e, layers, count, rows, group, constants, (const uint8_t *)images,
              image * (int64_t)sizeof *images, scratch, out);
#endif
}
