/* Convolutions of few input channels on a CPU with AVX-512, with bias, ReLU and 2x2 max pooling.
 *
 * Sixteen output channels are a vector and up to sixteen neighbouring pixels are in registers at
 * once, or up to twelve with two vectors. Every output is one chain of fused multiply-adds over (ky, kx, channel), so its bits depend
 * on its own image only. Arrays are channels-last; shapes are checked by the Python wrapper.
 */
#include <stdint.h>

#define LANES 16

typedef struct {
    int64_t rows, height, width, channels;
    int64_t kernel_height, kernel_width, stride, pad_height, pad_width;
    int64_t out_height, out_width, outputs; /* before pooling */
    int64_t relu, pool;                     /* flags */
    int64_t padded_height, padded_width;    /* of the padded image: tiles may read past its edge */
    int64_t tile, wide_tile; /* pixels in registers with one block of output channels, with two */
} geometry;

#if defined(__x86_64__)
#include <immintrin.h>
#include <string.h>

#define AVX512 __attribute__((target("avx512f")))
#define INLINE AVX512 static inline __attribute__((always_inline))

/* A tile of neighbouring pixels of one line, `vectors` blocks of output channels. Pixels are `step`
 * values apart. */
INLINE void one_tile(const geometry *g, const float *corner, const float *weights,
                     const float *bias, float *line, const int tile, const int vectors,
                     const int64_t step)
{
    __m512 sums[24];
    const int64_t taps = g->kernel_width * g->channels, block = taps * g->kernel_height * LANES;
    for (int i = 0; i < tile * vectors; i++) sums[i] = _mm512_loadu_ps(bias + i % vectors * LANES);
    for (int64_t ky = 0; ky < g->kernel_height; ky++) {
        const float *pixel = corner + ky * g->padded_width * g->channels;
        for (const float *last = pixel + taps; pixel < last; pixel++, weights += LANES)
            for (int t = 0; t < tile; t++) {
                const __m512 value = _mm512_set1_ps(pixel[t * step]);
                for (int v = 0; v < vectors; v++)
                    sums[t * vectors + v] = _mm512_fmadd_ps(
                        _mm512_loadu_ps(weights + v * block), value, sums[t * vectors + v]);
            }
    }
    for (int i = 0; i < tile * vectors; i++) _mm512_storeu_ps(line + i * LANES, sums[i]);
}

/* A line with constants for the compiler: sums stay in registers, addresses are simple. */
INLINE void tiles_of(const geometry *g, const float *corner, const float *weights,
                     const float *bias, float *line, const int tile, const int vectors)
{
    const int64_t step = g->stride * g->channels;
    for (int64_t x = 0; x < g->out_width; x += tile) {
        if (vectors == 1 && step == 1)
            one_tile(g, corner, weights, bias, line, tile, vectors, 1);
        else if (vectors == 1 && step == 3)
            one_tile(g, corner, weights, bias, line, tile, vectors, 3);
        else if (vectors == 1 && step == 6)
            one_tile(g, corner, weights, bias, line, tile, vectors, 6);
        else
            one_tile(g, corner, weights, bias, line, tile, vectors, step);
        corner += tile * step, line += tile * vectors * LANES;
    }
}

AVX512 static void one_line(const geometry *g, const float *corner, const float *weights,
                            const float *bias, float *line)
{
    switch (g->tile) {
    case 8: tiles_of(g, corner, weights, bias, line, 8, 1); break;
    case 10: tiles_of(g, corner, weights, bias, line, 10, 1); break;
    case 12: tiles_of(g, corner, weights, bias, line, 12, 1); break;
    case 14: tiles_of(g, corner, weights, bias, line, 14, 1); break;
    default: tiles_of(g, corner, weights, bias, line, 16, 1);
    }
}

/* Two blocks at once: every pixel is read half as often. */
AVX512 static void one_wide_line(const geometry *g, const float *corner, const float *weights,
                                 const float *bias, float *line)
{
    switch (g->wide_tile) {
    case 8: tiles_of(g, corner, weights, bias, line, 8, 2); break;
    case 10: tiles_of(g, corner, weights, bias, line, 10, 2); break;
    default: tiles_of(g, corner, weights, bias, line, 12, 2);
    }
}

/* The larger, or NaN if either is, as in PyTorch's pooling: the instruction returns b then. */
INLINE __m512 larger(__m512 a, __m512 b)
{
    const __mmask16 nan = _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q);
    return _mm512_mask_mov_ps(_mm512_max_ps(a, b), nan, a);
}

/* Pooling and ReLU, which keeps NaN, of one block of a line whose pixels are `step` values apart.
 * With pooling, `line` holds two lines, one after the other. */
INLINE void finish(const geometry *g, const float *line, int64_t step, float *out, int64_t used)
{
    const float *under = line + g->out_width * step;
    const int64_t width = g->pool ? g->out_width / 2 : g->out_width;
    const __mmask16 mask = (__mmask16)((1u << used) - 1);
    for (int64_t x = 0; x < width; x++, out += g->outputs, line += step) {
        __m512 value = _mm512_loadu_ps(line);
        if (g->pool) {
            line += step;
            value = larger(value, _mm512_loadu_ps(line));
            value = larger(value, larger(_mm512_loadu_ps(under), _mm512_loadu_ps(under + step)));
            under += 2 * step;
        }
        if (g->relu) value = _mm512_max_ps(_mm512_setzero_ps(), value);
        _mm512_mask_storeu_ps(out, mask, value);
    }
}

/* Channels beyond the last block's are weights of zero and are not written. */
INLINE void one_image(const geometry *g, const float *padded, const float *weights,
                      const float *bias, float *line, float *out)
{
    const int64_t lines = g->pool ? 2 : 1, pitch = g->padded_width * g->channels * g->stride;
    const int64_t block = g->kernel_height * g->kernel_width * g->channels * LANES;
    const int64_t height = g->out_height / lines, width = g->out_width / lines;
    for (int64_t y = 0; y < height; y++, out += width * g->outputs)
        for (int64_t first = 0, step; first < g->outputs; first += step) {
            step = g->outputs - first > LANES ? 2 * LANES : LANES;
            for (int64_t i = 0; i < lines; i++)
                (step > LANES ? one_wide_line : one_line)(
                    g, padded + (y * lines + i) * pitch, weights + first / LANES * block,
                    bias + first, line + i * g->out_width * step);
            for (int64_t v = 0; v < step; v += LANES) {
                const int64_t left = g->outputs - first - v;
                finish(g, line + v, step, out + first + v, left < LANES ? left : LANES);
            }
        }
}

AVX512 static void all_images(const geometry *g, const float *in, const float *weights,
                              const float *bias, float *scratch, float *out)
{
    const int64_t values = g->width * g->channels, shrink = g->pool ? 2 : 1;
    const int64_t outputs = (g->out_height / shrink) * (g->out_width / shrink) * g->outputs;
    float *line = scratch + g->padded_height * g->padded_width * g->channels;
    for (int64_t row = 0; row < g->rows; row++, out += outputs) {
        for (int64_t y = 0; y < g->height; y++, in += values)
            memcpy(scratch + ((y + g->pad_height) * g->padded_width + g->pad_width) * g->channels,
                   in, values * sizeof(float));
        one_image(g, scratch, weights, bias, line, out);
    }
}
#endif

/* Whether this processor has the instructions. */
int dualsmooth_direct_conv_available(void)
{
#if defined(__x86_64__)
    return __builtin_cpu_supports("avx512f") != 0;
#else
    return 0;
#endif
}

/* scratch: a padded image with its border filled in, then room for two lines and one tile. */
void dualsmooth_direct_conv(const geometry *g, const float *in, const float *weights,
                            const float *bias, float *scratch, float *out)
{
#if defined(__x86_64__)
    all_images(g, in, weights, bias, scratch, out);
#endif
}
