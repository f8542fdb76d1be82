/* 3x3 convolutions of stride 1 by Winograd's minimal filtering F(4x4, 3x3), with bias, shortcut and
 * ReLU, on a CPU with AVX-512 or AVX2.
 *
 * A tile of 6x6 pixels gives 4x4 outputs with 36 products per pair of channels instead of 144. The
 * points are 0, +-1/sqrt(2), +-sqrt(2) and infinity. Channels are a vector. The arithmetic
 * of an output has one order, whatever its place in the batch, so its bits depend on its own image
 * only. Arrays are channels-last; shapes are checked by the Python wrapper.
 */
#include <stdint.h>

#define POINTS 36
#define SIDE 4 /* outputs of a tile, and the step from tile to tile */
#define PATCH 6
#define GAP 16

typedef struct {
    int64_t height, width, channels, above, left, out_height, out_width, outputs;
    int64_t relu; /* a flag */
} geometry;

/* A convolution of a chain. Arrays with a step hold every row, the values of a row apart; those
 * with a step of 0 hold the rows of one group. */
typedef struct {
    geometry shape;
    const float *weights, *bias, *in, *shortcut; /* shortcut: null, or added before the ReLU */
    float *out;
    int64_t in_step, shortcut_step, out_step;
} link;

#if defined(__x86_64__)
#include "lanes.h"
#define MOST (LANES == 16 ? 16 : 12) /* sums in registers */

static const float NEAR = 0.70710678118654752f, FAR = 1.4142135623730950f;

INLINE vec plus(vec a, float factor, vec b)
{
    return multiply_add(all(factor), b, a);
}

/* Six values of a line as their values at the six points. */
INLINE void to_points(const vec *d, vec *p, const int step)
{
    const vec even_near = plus(d[4], -2.0f, d[2]), odd_near = plus(d[3], -2.0f, d[1]);
    const vec even_far = plus(d[4], -0.5f, d[2]), odd_far = plus(d[3], -0.5f, d[1]);
    p[0] = plus(d[4], -2.5f, d[2]) + d[0];
    p[1 * step] = plus(even_near, NEAR, odd_near);
    p[2 * step] = plus(even_near, -NEAR, odd_near);
    p[3 * step] = plus(even_far, FAR, odd_far);
    p[4 * step] = plus(even_far, -FAR, odd_far);
    p[5 * step] = plus(d[5], -2.5f, d[3]) + d[1];
}

/* Products at the six points as four outputs. */
INLINE void from_points(const vec *p, vec *y)
{
    const vec near = p[1] + p[2], far = p[3] + p[4];
    const vec slope_near = p[1] - p[2], slope_far = p[3] - p[4];
    y[0] = p[0] + near + far;
    y[1] = plus(NEAR * slope_near, FAR, slope_far);
    y[2] = plus(0.5f * near, 2.0f, far);
    y[3] = plus(plus(p[5], 0.5f * NEAR, slope_near), 2.0f * FAR, slope_far);
}

/* A 6x6 patch of a vector of channels as its values at the 36 points. */
INLINE void transform_patch(const float *corner, int64_t line, int64_t pixel, float *out,
                            int64_t pitch)
{
    vec points[POINTS], values[PATCH];
    for (int y = 0; y < PATCH; y++) {
        for (int x = 0; x < PATCH; x++) values[x] = load(corner + y * line + x * pixel);
        to_points(values, points + y, PATCH);
    }
    for (int x = 0; x < PATCH; x++) {
        to_points(points + x * PATCH, values, 1);
        for (int y = 0; y < PATCH; y++) store(out + (y * PATCH + x) * pitch, values[y]);
    }
}

/* A vector of channels of a patch that lies partly outside of the image, where values are zero. */
INLINE void read_patch(const geometry *g, const float *image, int64_t top, int64_t left, float *out)
{
    const int64_t after = g->width - left, end = after < PATCH ? after : PATCH;
    for (int64_t y = top; y < top + PATCH; y++) {
        const int64_t stop = y < 0 || y >= g->height ? 0 : end;
        int64_t x = 0;
        for (; x < PATCH && (x < -left || stop <= 0); x++, out += LANES)
            store(out, all(0.0f));
        const float *in = image + (y * g->width + left + x) * g->channels;
        for (; x < stop; x++, in += g->channels, out += LANES)
            store(out, load(in));
        for (; x < PATCH; x++, out += LANES) store(out, all(0.0f));
    }
}

FAST static void read_tile(const geometry *g, const float *image, int64_t top, int64_t left,
                           float *out, int64_t pitch)
{
    const int64_t line = g->width * g->channels;
    if (top >= 0 && left >= 0 && top + PATCH <= g->height && left + PATCH <= g->width) {
        const float *corner = image + top * line + left * g->channels;
        for (int64_t c = 0; c < g->channels; c += LANES)
            transform_patch(corner + c, line, g->channels, out + c, pitch);
        return;
    }
    float patch[POINTS * LANES];
    for (int64_t c = 0; c < g->channels; c += LANES) {
        read_patch(g, image + c, top, left, patch);
        transform_patch(patch, PATCH * LANES, LANES, out + c, pitch);
    }
}

/* A vector of channels of a tile's outputs; those outside of the image are left out. */
INLINE void write_tile(const geometry *g, const float *in, int64_t pitch, const float *bias,
                       int64_t top, int64_t left, const float *shortcut, float *out)
{
    vec lines[SIDE * PATCH], points[PATCH], values[SIDE];
    for (int x = 0; x < PATCH; x++) {
        for (int y = 0; y < PATCH; y++) points[y] = load(in + (y * PATCH + x) * pitch);
        from_points(points, values);
        for (int y = 0; y < SIDE; y++) lines[y * PATCH + x] = values[y];
    }
    const int64_t width = g->out_width - left < SIDE ? g->out_width - left : SIDE;
    const int64_t height = g->out_height - top < SIDE ? g->out_height - top : SIDE;
    const vec offset = load(bias);
    for (int y = 0; y < SIDE; y++) {
        if (y >= height) break;
        from_points(lines + y * PATCH, values);
        const int64_t first = ((top + y) * g->out_width + left) * g->outputs;
        for (int x = 0; x < SIDE; x++) {
            if (x >= width) break;
            const int64_t at = first + x * g->outputs;
            vec value = values[x] + offset;
            if (shortcut) value += load(shortcut + at);
            if (g->relu) value = at_least(all(0.0f), value); /* keeps NaN */
            store(out + at, value);
        }
    }
}

/* sums[tile][output] over channels, for `tiles` tiles and `vectors` vectors of outputs. */
INLINE void multiply(const float *in, const int64_t channels, const float *weights, float *out,
                     const int64_t outputs, const int tiles, const int vectors)
{
    vec sums[MOST];
    for (int i = 0; i < tiles * vectors; i++) sums[i] = all(0.0f);
    for (int64_t c = 0; c < channels; c++, weights += vectors * LANES)
        for (int t = 0; t < tiles; t++) {
            const vec value = all(in[t * channels + c]);
            for (int v = 0; v < vectors; v++)
                sums[t * vectors + v] =
                    multiply_add(load(weights + v * LANES), value, sums[t * vectors + v]);
        }
    for (int t = 0; t < tiles; t++)
        for (int v = 0; v < vectors; v++)
            store(out + t * outputs + v * LANES, sums[t * vectors + v]);
}

INLINE void multiply_all(const float *in, const int64_t channels, const float *weights, float *out,
                         const int64_t outputs, int64_t count, const int tiles, const int vectors)
{
    const int64_t step = vectors * LANES;
    for (int64_t k = 0; k < outputs; k += step, weights += channels * step)
        for (int64_t t = 0; t < count; t += tiles)
            multiply(in + t * channels, channels, weights, out + t * outputs + k, outputs, tiles,
                     vectors);
}

/* One point of the first `tiles` tiles of a block; common widths are constants for the compiler. */
FAST static void multiply_point(const geometry *g, const float *in, const float *weights,
                                float *out, int64_t tiles)
{
    const int64_t channels = g->channels, outputs = g->outputs;
    if (channels == 16 && outputs == 16)
        multiply_all(in, 16, weights, out, 16, tiles, MOST * LANES / 16, 16 / LANES);
    else if (channels == 32 && outputs == 32)
        multiply_all(in, 32, weights, out, 32, tiles, MOST / 2, 2);
    else if (channels == 64 && outputs == 64)
        multiply_all(in, 64, weights, out, 64, tiles, MOST / 2, 2);
    else if (outputs % (2 * LANES) == 0)
        multiply_all(in, channels, weights, out, outputs, tiles, MOST / 2, 2);
    else
        multiply_all(in, channels, weights, out, outputs, tiles, MOST, 1);
}

/* Where a tile is; tiles go along lines, down images, and on with the next row. */
typedef struct {
    int64_t row, top, left; /* top and left of its outputs */
} place;

INLINE void next(const geometry *g, place *at)
{
    if ((at->left += SIDE) < g->out_width) return;
    at->left = 0;
    if ((at->top += SIDE) < g->out_height) return;
    at->top = 0;
    at->row++;
}

FAST static void convolve(const link *l, int64_t first, int64_t rows, int64_t block,
                          float *scratch)
{
    const geometry *g = &l->shape;
    const float *in = l->in + first * l->in_step;
    const float *shortcut = l->shortcut ? l->shortcut + first * l->shortcut_step : 0;
    float *out = l->out + first * l->out_step;
    const int64_t image = g->height * g->width * g->channels;
    const int64_t result = g->out_height * g->out_width * g->outputs;
    const int64_t widest = g->channels > g->outputs ? g->channels : g->outputs;
    const int64_t pitch = block * widest + GAP; /* no power of two: lines share cache sets */
    float *values = scratch + pitch; /* products of a point take the place of the point before */
    place from = {0, 0, 0}, to = from;
    while (from.row < rows) {
        int64_t tiles = 0;
        for (; tiles < block && from.row < rows; tiles++, next(g, &from))
            read_tile(g, in + from.row * image, from.top - g->above, from.left - g->left,
                      values + tiles * g->channels, pitch);
        for (int64_t p = 0; p < POINTS; p++)
            multiply_point(g, values + p * pitch, l->weights + p * g->channels * g->outputs,
                           scratch + p * pitch, tiles);
        for (int64_t t = 0; t < tiles; t++, next(g, &to))
            for (int64_t k = 0; k < g->outputs; k += LANES)
                write_tile(g, scratch + t * g->outputs + k, pitch, l->bias + k, to.top, to.left,
                           shortcut ? shortcut + to.row * result + k : 0,
                           out + to.row * result + k);
    }
}
#endif

/* Values of a vector, 0 if this processor lacks the instructions. */
int dualsmooth_winograd_conv_lanes(void)
{
#if defined(__x86_64__)
    if (supported()) return LANES;
#endif
    return 0;
}

/* Every link for a group of rows, then for the next group, so that a group stays in the cache.
 * block: tiles transformed together, a multiple of those multiplied together.
 * scratch: 37 * (block * the most channels + 16) values. */
void dualsmooth_winograd_chain(const link *links, int64_t count, int64_t rows, int64_t group,
                               int64_t block, float *scratch)
{
#if defined(__x86_64__)
    for (int64_t first = 0; first < rows; first += group)
        for (int64_t i = 0; i < count; i++)
            convolve(links + i, first, rows - first < group ? rows - first : group, block, scratch);
#endif
}
