/* Convolutions on a CPU with AVX-512 or AVX2, with bias, ReLU and 2x2 max pooling, in chains: those
 * of few input channels, and strided ones.
 *
 * Output channels are a vector and up to sixteen neighbouring pixels are in registers at once, or up
 * to twelve with two vectors. Of grey images with few outputs, pixels are a vector. Every output is one chain of fused multiply-adds over (ky, kx, channel), so its bits
 * depend on its own image only. Arrays are channels-last; shapes are checked by the Python wrapper.
 */
#include <stdint.h>

#define GREY 8 /* most outputs of a grey image for which pixels, not outputs, are a vector */
#define LONGEST 16 /* most pixels of a tile */

typedef struct {
    int64_t height, width, channels;
    int64_t kernel_height, kernel_width, stride, pad_height, pad_width;
    int64_t out_height, out_width, outputs; /* before pooling */
    int64_t relu, pool;                     /* flags */
    int64_t padded_height, padded_width;    /* of the padded image: tiles may read past its edge */
    int64_t tile, wide_tile; /* pixels in registers with one block of output channels, with two */
    int64_t padded_out; /* grey images with few outputs: a multiple of two vectors; others: 0 */
    int64_t part;       /* lines of the kernel whose weights are in use at once */
    int64_t lines;      /* of the output, computed together: an even number where they are pooled */
} geometry;

/* A convolution of a chain; places count values, those of weights, bias and border (the value of
 * each channel beyond the image) in the constants. Its image is in the scratch memory, padded, where
 * the convolution before it wrote it; the last one writes from the start of the result on. */
typedef struct {
    geometry shape;
    int64_t weights, bias, border, padded, out;
    int64_t out_line, out_step; /* values from one line to the next, and from one row */
} link;

#if defined(__x86_64__)
#include <string.h>

#include "lanes.h"

/* One image, padded, and what is made of it. */
typedef struct {
    const geometry *shape;
    const float *weights, *bias, *padded;
    float *sums, *out;
    int64_t out_line;
} image;

/* A line of pixels, and where its sums are kept or, where `out` is not null, go to. */
typedef struct {
    const float *corner, *weights; /* of some lines of the kernel */
    const float *bias;             /* or null: the sums that are kept go on */
    float *sums, *out;
    int64_t kernel_lines, outputs; /* outputs: those left from this block on */
} strip;

/* What outputs are at least; the larger of it and NaN is NaN. */
INLINE vec least(const geometry *g) { return all(g->relu ? 0.0f : -__builtin_inff()); }

/* A tile of neighbouring pixels, `step` values apart, and `vectors` blocks of output channels. */
INLINE void one_tile(const geometry *g, const strip *s, int64_t x, const int tile,
                     const int vectors, const int64_t step)
{
    vec sums[24];
    const int64_t taps = g->kernel_width * g->channels;
    const float *corner = s->corner + x * step, *weights = s->weights;
    float *kept = s->sums + x * vectors * LANES;
#pragma GCC unroll 24
    for (int i = 0; i < tile * vectors; i++)
        sums[i] = load(s->bias ? s->bias + i % vectors * LANES : kept + i * LANES);
    for (int64_t ky = 0; ky < s->kernel_lines; ky++) {
        const float *pixel = corner + ky * g->padded_width * g->channels;
#pragma GCC unroll 2
        for (const float *last = pixel + taps; pixel < last; pixel++, weights += vectors * LANES)
#pragma GCC unroll 16
            for (int t = 0; t < tile; t++) {
                const vec value = all(pixel[t * step]);
                for (int v = 0; v < vectors; v++)
                    sums[t * vectors + v] =
                        multiply_add(load(weights + v * LANES), value, sums[t * vectors + v]);
            }
    }
    if (!s->out) {
#pragma GCC unroll 24
        for (int i = 0; i < tile * vectors; i++) store(kept + i * LANES, sums[i]);
        return;
    }
    const lanes some[2] = {first_of(s->outputs), first_of(s->outputs - (vectors - 1) * LANES)};
    const vec floor = least(g);
    const int64_t width = g->out_width - x, outputs = g->outputs;
    float *out = s->out + x * outputs;
#pragma GCC unroll 16
    for (int t = 0; t < tile; t++, out += outputs) {
        if (t >= width) break;
        for (int v = 0; v < vectors; v++)
            store_some(out + v * LANES, at_least(floor, sums[t * vectors + v]), some[v]);
    }
}

/* A line with constants for the compiler: sums stay in registers, addresses are simple. */
INLINE void tiles_of(const geometry *g, const strip *s, const int tile, const int vectors)
{
    const int64_t step = g->stride * g->channels;
    for (int64_t x = 0; x < g->out_width; x += tile) {
        if (step == 1)
            one_tile(g, s, x, tile, vectors, 1);
        else if (step == 3)
            one_tile(g, s, x, tile, vectors, 3);
        else if (step == 6)
            one_tile(g, s, x, tile, vectors, 6);
        else
            one_tile(g, s, x, tile, vectors, step);
    }
}

FAST static void one_line(const geometry *g, const strip *s)
{
    switch (g->tile) {
    case 8: tiles_of(g, s, 8, 1); break;
    case 10: tiles_of(g, s, 10, 1); break;
    case 12: tiles_of(g, s, 12, 1); break;
#if LANES == 16
    case 14: tiles_of(g, s, 14, 1); break;
    default: tiles_of(g, s, 16, 1);
#endif
    }
}

/* Two blocks at once: every pixel is read half as often. */
FAST static void one_wide_line(const geometry *g, const strip *s)
{
    switch (g->wide_tile) {
    case FEWER: tiles_of(g, s, FEWER, 2); break;
    case PAIRS * 5 / 6: tiles_of(g, s, PAIRS * 5 / 6, 2); break;
    default: tiles_of(g, s, PAIRS, 2);
    }
}

/* A block of two lines of sums, whose pixels are `step` values apart, as one line of maxima. */
INLINE void pool(const geometry *g, const float *line, const float *under, int64_t step, float *out,
                 int64_t outputs)
{
    for (int64_t x = 0; x < g->out_width / 2; x++, line += 2 * step, under += 2 * step) {
        const vec left = larger(load(line), load(under));
        const vec right = larger(load(line + step), load(under + step));
        store_some(out + x * g->outputs, at_least(least(g), larger(left, right)),
                   first_of(outputs));
    }
}

/* `lines` lines from y on, of `step` output channels from `first` on. */
FAST static void some_lines(const image *m, int64_t y, int64_t lines, int64_t first, int64_t step)
{
    const geometry *g = m->shape;
    const int64_t line = g->padded_width * g->channels, taps = g->kernel_width * g->channels;
    const int64_t kept = (g->out_width + LONGEST) * step, outputs = g->outputs - first;
    for (int64_t ky = 0; ky < g->kernel_height; ky += g->part) {
        const int64_t left = g->kernel_height - ky, last = left <= g->part;
        strip s = {.weights = m->weights + (first * g->kernel_height + ky * step) * taps,
                   .bias = ky ? 0 : m->bias + first,
                   .kernel_lines = last ? left : g->part,
                   .outputs = outputs};
        for (int64_t i = 0; i < lines; i++) {
            s.corner = m->padded + ((y + i) * g->stride + ky) * line;
            s.sums = m->sums + i * kept;
            s.out = last && !g->pool ? m->out + (y + i) * m->out_line + first : 0;
            (step > LANES ? one_wide_line : one_line)(g, &s);
        }
    }
    for (int64_t i = 0; g->pool && i < lines; i += 2)
        for (int64_t v = 0; v < step; v += LANES)
            pool(g, m->sums + i * kept + v, m->sums + (i + 1) * kept + v, step,
                 m->out + (y + i) / 2 * m->out_line + first + v, outputs - v);
}

/* Channels beyond the last block's are weights of zero and are not written. */
FAST static void one_image(const image *m)
{
    const geometry *g = m->shape;
    const int64_t height = g->pool ? g->out_height / 2 * 2 : g->out_height;
    for (int64_t y = 0; y < height; y += g->lines)
        for (int64_t first = 0, step; first < g->outputs; first += step) {
            step = g->outputs - first > LANES ? 2 * LANES : LANES;
            some_lines(m, y, height - y < g->lines ? height - y : g->lines, first, step);
        }
}

#include "grey_conv.h"
#include "linear.h"

FAST static void all_images(const link *links, int64_t count, int64_t rows,
                            const float *constants, const float *in, float *scratch, float *out)
{
    const geometry *g = &links->shape;
    const int64_t values = g->width * g->channels, line = g->padded_width * g->channels;
    const int64_t corner = links->padded + g->pad_height * line + g->pad_width * g->channels;
    for (const link *l = links; l < links + count; l++)
        for (int64_t i = 0; i < l->shape.padded_height * l->shape.padded_width; i++)
            memcpy(scratch + l->padded + i * l->shape.channels, constants + l->border,
                   l->shape.channels * sizeof(float));
    for (int64_t row = 0; row < rows; row++) {
        for (int64_t y = 0; y < g->height; y++, in += values)
            memcpy(scratch + corner + y * line, in, values * sizeof(float));
        for (const link *l = links; l < links + count; l++) {
            float *to = l + 1 < links + count ? scratch + l->out : out + row * l->out_step;
            const image m = {&l->shape, constants + l->weights, constants + l->bias,
                             scratch + l->padded, scratch, to, l->out_line};
            (l->shape.padded_out ? grey_image : one_image)(&m);
        }
    }
}
#endif

/* Values of a vector, 0 if this processor lacks the instructions. */
int dualsmooth_direct_conv_lanes(void)
{
#if defined(__x86_64__)
    if (supported()) return LANES;
#endif
    return 0;
}

/* Every link for a row, then for the next: what lies between them stays in the cache.
 * scratch: sums of the lines that are computed together, then the padded images.
 * weights: [blocks of two vectors of outputs, of one the last][ky][kx][channel][outputs]; grey:
 * [ky][kx][8]. */
void dualsmooth_direct_chain(const link *links, int64_t count, int64_t rows,
                             const float *constants, const float *in, float *scratch, float *out)
{
#if defined(__x86_64__)
    all_images(links, count, rows, constants, in, scratch, out);
#endif
}
