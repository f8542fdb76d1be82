/* Convolutions of few input channels on a CPU with AVX-512, with bias, ReLU and 2x2 max pooling.
 *
 * Sixteen output channels are a vector and up to sixteen neighbouring pixels are in registers at
 * once, or up to twelve with two vectors. Of grey images with few outputs, sixteen pixels are a
 * vector. Every output is one chain of fused multiply-adds over (ky, kx, channel), so its bits
 * depend on its own image only. Arrays are channels-last; shapes are checked by the Python wrapper.
 */
#include <stdint.h>

#define LANES 16
#define GREY 8 /* most outputs of a grey image for which pixels, not outputs, are a vector */

typedef struct {
    int64_t rows, height, width, channels;
    int64_t kernel_height, kernel_width, stride, pad_height, pad_width;
    int64_t out_height, out_width, outputs; /* before pooling */
    int64_t relu, pool;                     /* flags */
    int64_t padded_height, padded_width;    /* of the padded image: tiles may read past its edge */
    int64_t tile, wide_tile; /* pixels in registers with one block of output channels, with two */
    int64_t padded_out; /* grey images with few outputs: a multiple of 32 pixels; others: 0 */
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
AVX512 static void one_image(const geometry *g, const float *padded, const float *weights,
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

/* A line of a grey image: 32 neighbouring pixels are two vectors, and every output channel has
 * sums of its own. `line` holds one channel after another. */
INLINE void grey_line(const geometry *g, const float *corner, const float *weights,
                      const float *bias, float *line, const int outputs)
{
    for (int64_t x = 0; x < g->padded_out; x += 2 * LANES) {
        __m512 sums[2 * GREY];
        const float *weight = weights;
        for (int i = 0; i < 2 * outputs; i++) sums[i] = _mm512_set1_ps(bias[i / 2]);
        for (int64_t ky = 0; ky < g->kernel_height; ky++)
            for (int64_t kx = 0; kx < g->kernel_width; kx++, weight += GREY) {
                const float *pixels = corner + ky * g->padded_width + x + kx;
                const __m512 near = _mm512_loadu_ps(pixels), far = _mm512_loadu_ps(pixels + LANES);
                for (int k = 0; k < outputs; k++) {
                    const __m512 factor = _mm512_set1_ps(weight[k]);
                    sums[2 * k] = _mm512_fmadd_ps(near, factor, sums[2 * k]);
                    sums[2 * k + 1] = _mm512_fmadd_ps(far, factor, sums[2 * k + 1]);
                }
            }
        for (int k = 0; k < outputs; k++) {
            _mm512_storeu_ps(line + k * g->padded_out + x, sums[2 * k]);
            _mm512_storeu_ps(line + k * g->padded_out + x + LANES, sums[2 * k + 1]);
        }
    }
}

/* Pooling and ReLU in place, as `finish`; then channels last. */
INLINE void finish_grey(const geometry *g, float *line, float *out)
{
    const int64_t width = g->pool ? g->out_width / 2 : g->out_width;
    const __m512i even =
        _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
    for (int64_t k = 0; k < g->outputs; k++) {
        float *pixels = line + k * g->padded_out, *under = pixels + GREY * g->padded_out;
        for (int64_t x = 0; x < width; x += LANES) {
            __m512 value = _mm512_loadu_ps(pixels + x);
            if (g->pool) {
                const float *above = pixels + 2 * x, *below = under + 2 * x;
                __m512 a = larger(_mm512_loadu_ps(above), _mm512_loadu_ps(below));
                above += LANES, below += LANES;
                __m512 b = larger(_mm512_loadu_ps(above), _mm512_loadu_ps(below));
                value = _mm512_permutex2var_ps(a, even, b);
                value = larger(value, _mm512_permutex2var_ps(a, odd, b));
            }
            if (g->relu) value = _mm512_max_ps(_mm512_setzero_ps(), value);
            _mm512_storeu_ps(pixels + x, value);
        }
    }
    for (int64_t x = 0; x < width; x++)
        for (int64_t k = 0; k < g->outputs; k++) *out++ = line[k * g->padded_out + x];
}

AVX512 static void grey_image(const geometry *g, const float *padded, const float *weights,
                              const float *bias, float *line, float *out)
{
    const int64_t lines = g->pool ? 2 : 1, height = g->out_height / lines;
    const int64_t width = g->out_width / lines;
    for (int64_t y = 0; y < height; y++, out += width * g->outputs) {
        for (int64_t i = 0; i < lines; i++) {
            const float *corner = padded + (y * lines + i) * g->padded_width;
            float *to = line + i * GREY * g->padded_out;
            if (g->outputs <= 4)
                grey_line(g, corner, weights, bias, to, 4);
            else if (g->outputs <= 6)
                grey_line(g, corner, weights, bias, to, 6);
            else
                grey_line(g, corner, weights, bias, to, GREY);
        }
        finish_grey(g, line, out);
    }
}

AVX512 static void all_images(const geometry *g, const float *in, const float *weights,
                              const float *bias, const float *border, float *scratch, float *out)
{
    const int64_t values = g->width * g->channels, shrink = g->pool ? 2 : 1;
    const int64_t outputs = (g->out_height / shrink) * (g->out_width / shrink) * g->outputs;
    const int64_t padded = g->padded_height * g->padded_width;
    float *line = scratch + padded * g->channels;
    for (int64_t i = 0; i < padded; i++)
        for (int64_t c = 0; c < g->channels; c++) scratch[i * g->channels + c] = border[c];
    for (int64_t row = 0; row < g->rows; row++, out += outputs) {
        for (int64_t y = 0; y < g->height; y++, in += values)
            memcpy(scratch + ((y + g->pad_height) * g->padded_width + g->pad_width) * g->channels,
                   in, values * sizeof(float));
        (g->padded_out ? grey_image : one_image)(g, scratch, weights, bias, line, out);
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

/* border: the value of each channel beyond the image.
 * scratch: room for a padded image, then for two lines and one tile.
 * weights: [blocks of 16 outputs][ky][kx][channel][16]; grey: [ky][kx][8]. */
void dualsmooth_direct_conv(const geometry *g, const float *in, const float *weights,
                            const float *bias, const float *border, float *scratch, float *out)
{
#if defined(__x86_64__)
    all_images(g, in, weights, bias, border, scratch, out);
#endif
}
