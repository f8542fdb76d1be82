/* Chains of convolutions and maxima over maps, whatever their values are.
 *
 * Maps are channels-last, with a border for padding, and hold the rows of one group, so that a
 * group stays in the cache. A line of a kernel is a run of bytes, width by channels, multiplied
 * four at a time for sixteen outputs. Shapes are checked by the Python wrapper.
 *
 * The file that includes this one defines
 *     BUILT              where the compiler knows the instructions,
 *     TARGET             the instructions,
 *     VALUE              bytes of a value,
 *     VALUES             sixteen values, read,
 *     LARGER(a, b)       the larger of those, or NaN if either is,
 *     SUM, NOTHING       sixteen sums, and those of no products,
 *     MULTIPLY(s, v, w)  s plus the products of four bytes of values, in each lane, and weights,
 *     TILE_TARGET, TILE_BIT, MULTIPLY_TILES(s, v, w)  the same for AMX and numbers of its tiles;
 *                        the bit is that of the fourth register of cpuid,
 * and the functions that are declared without a body below.
 */
#include <stdint.h>
#include <string.h>

#define STEP 4  /* bytes multiplied at once, for each lane */
#define TILE 16 /* sums in registers; pixels of a tile */
#define BLOCK (LANES * STEP)

/* Where a map is in the scratch memory, all in bytes: its first pixel, and the way from one row,
 * line and pixel to the next. */
typedef struct {
    int64_t start, row, line, pixel;
} place;

/* A map that is written, and the border around it: `rim` is a whole line of it. */
typedef struct {
    place at;
    int64_t height, width, channels, above, left, rim;
} map;

/* A convolution, or a maximum where `maximum` is set. Offsets are into the packed constants. */
typedef struct {
    place in, shortcut; /* from the first tap of the first output; no shortcut: start -1 */
    map out;
    int64_t weights, scale, bias; /* [blocks][kernel lines][steps][vectors][LANES][STEP] */
    int64_t maximum, relu, kernel_height, kernel_width, tap_line, steps;
    int64_t pixels, vectors, across; /* of a tile; whether its pixels are one of each row */
    int64_t half, tiled; /* whether a line ends half way in a step; whether AMX multiplies */
    float factor;
} layer;

/* How images become the first map, and the last map float32. */
typedef struct {
    map first, last;
    int64_t mean, deviation;
    float inverse, zero, last_zero, last_scale;
} ends;

#ifdef BUILT
#include "lanes.h"

/* Outputs k and on of a line of pixels: one line of a map, or one pixel of every row. */
typedef struct {
    const uint8_t *in, *weights, *shortcut;
    const float *scale, *bias;
    uint8_t *out;
    int64_t shortcut_pixel, out_pixel, width, outputs;
} strip;

/* Sums of pixels x and on, [pixels][vectors], become values of the map. */
INLINE void write_tile(const layer *l, const strip *s, const SUM *sums, int64_t x,
                       const int pixels, const int vectors);
INLINE VALUES read_values(const uint8_t *in, __mmask16 mask);
INLINE void write_values(uint8_t *out, __mmask16 mask, VALUES values);
FAST static void begin(const ends *e, int64_t rows, const uint8_t *constants, const uint8_t *images,
                       uint8_t *scratch);
FAST static void widen(const ends *e, int64_t rows, const uint8_t *scratch, float *out);

/* A line of a map of so many, counted through the rows. */
static inline int64_t line_of(const place *p, int64_t height, int64_t i)
{
    return p->start + i / height * p->row + i % height * p->line;
}

/* The lines above and below the rows of a map, and the pixels beside them. */
static void frame(const map *m, int64_t rows, const uint8_t *constants, uint8_t *scratch)
{
    const int64_t side = m->left * m->at.pixel, line = m->width * m->at.pixel;
    const uint8_t *rim = constants + m->rim;
    for (int64_t row = 0; row < rows && (m->above || m->left); row++) {
        uint8_t *out = scratch + m->at.start + row * m->at.row - m->above * m->at.line - side;
        for (int64_t y = -m->above; y < m->height + m->above; y++, out += m->at.line) {
            const int inside = y >= 0 && y < m->height;
            memcpy(out, rim, inside ? side : line + 2 * side);
            if (inside) memcpy(out + side + line, rim, side);
        }
    }
}

/* The same bytes of values for every lane; zeros follow those of half a step. */
INLINE __m512i spread(const uint8_t *in, const int bytes)
{
    int32_t word = 0;
    memcpy(&word, in, bytes);
    return _mm512_set1_epi32(word);
}

INLINE void multiply(SUM *sums, const uint8_t *from, const uint8_t *weight, const int64_t in_pixel,
                     const int pixels, const int vectors, const int bytes)
{
    __m512i taps[4];
    for (int v = 0; v < vectors; v++) taps[v] = _mm512_loadu_si512(weight + v * BLOCK);
    for (int j = 0; j < pixels * vectors; j++)
        sums[j] = MULTIPLY(sums[j], spread(from + j / vectors * in_pixel, bytes), taps[j % vectors]);
}

INLINE void convolve_strip(const layer *l, const strip *s, const int64_t in_pixel,
                           const int pixels, const int vectors)
{
    for (int64_t x = 0; x < s->width; x += pixels) {
        SUM sums[TILE];
        for (int i = 0; i < pixels * vectors; i++) sums[i] = NOTHING;
        const uint8_t *weight = s->weights;
        for (int64_t y = 0; y < l->kernel_height; y++) {
            const uint8_t *from = s->in + x * in_pixel + y * l->tap_line;
            for (int64_t i = l->half; i < l->steps; i++, from += STEP, weight += vectors * BLOCK)
                multiply(sums, from, weight, in_pixel, pixels, vectors, STEP);
            if (VALUE > 1 && l->half) {
                multiply(sums, from, weight, in_pixel, pixels, vectors, STEP / 2);
                weight += vectors * BLOCK;
            }
        }
        write_tile(l, s, sums, x, pixels, vectors);
    }
}

#include "tiles.h"

INLINE void convolve_all(const layer *l, int64_t rows, const uint8_t *constants, uint8_t *scratch,
                         const int64_t in_pixel, const int pixels, const int vectors)
{
    const place *in = &l->in, *other = &l->shortcut, *out = &l->out.at;
    const int64_t across = l->across, lines = across ? 1 : l->out.height;
    const int64_t block = l->kernel_height * l->steps * vectors * BLOCK;
    strip s = {.shortcut_pixel = across ? other->row : other->pixel,
               .out_pixel = across ? out->row : out->pixel,
               .width = across ? rows : l->out.width};
    for (int64_t k = 0; k < l->out.channels; k += vectors * LANES) {
        s.weights = constants + l->weights + k / (vectors * LANES) * block;
        s.scale = (const float *)(constants + l->scale) + k;
        s.bias = (const float *)(constants + l->bias) + k;
        s.outputs = l->out.channels - k;
        for (int64_t i = 0; i < (across ? 1 : rows * lines); i++) {
            s.in = scratch + line_of(in, lines, i);
            s.out = scratch + line_of(out, lines, i) + k * VALUE;
            s.shortcut = other->start < 0 ? 0 : scratch + line_of(other, lines, i) + k * VALUE;
            if (pixels) convolve_strip(l, &s, in_pixel, pixels, vectors);
            else multiply_strip(l, &s, in_pixel);
        }
    }
}

/* Tiles that the loops are compiled for; sixteen channels are a constant for the compiler. */
FAST static void convolve(const layer *l, int64_t n, const uint8_t *c, uint8_t *scratch)
{
    const int64_t pixel = l->across ? l->in.row : l->in.pixel, tile = l->pixels * 10 + l->vectors;
    if (l->tiled) {
        shape_tiles(l);
        convolve_all(l, n, c, scratch, pixel, 0, l->vectors);
        release_tiles();
    } else if (tile == 161 && pixel == 16 * VALUE) convolve_all(l, n, c, scratch, 16 * VALUE, 16, 1);
    else if (tile == 161) convolve_all(l, n, c, scratch, pixel, 16, 1);
    else if (tile == 141) convolve_all(l, n, c, scratch, pixel, 14, 1);
    else if (tile == 82) convolve_all(l, n, c, scratch, pixel, 8, 2);
    else if (tile == 72) convolve_all(l, n, c, scratch, pixel, 7, 2);
    else if (tile == 44) convolve_all(l, n, c, scratch, pixel, 4, 4);
    else convolve_all(l, n, c, scratch, pixel, 2, 4);
}

FAST static void maximum(const layer *l, int64_t rows, uint8_t *scratch)
{
    const map *m = &l->out;
    for (int64_t i = 0; i < rows * m->height; i++) {
        const uint8_t *in = scratch + line_of(&l->in, m->height, i);
        uint8_t *out = scratch + line_of(&m->at, m->height, i);
        for (int64_t x = 0; x < m->width; x++, in += l->in.pixel, out += m->at.pixel)
            for (int64_t c = 0; c < m->channels; c += LANES) {
                const __mmask16 mask = first_of(m->channels - c);
                VALUES most = read_values(in + c * VALUE, mask);
                for (int64_t v = 0; v < l->kernel_height; v++)
                    for (int64_t u = 0; u < l->kernel_width; u++)
                        most = LARGER(
                            read_values(in + v * l->tap_line + u * m->at.pixel + c * VALUE, mask),
                            most);
                write_values(out + c * VALUE, mask, most);
            }
    }
}

/* Every layer for a group of rows, then for the next group. */
static void run_chain(const ends *e, const layer *layers, int64_t count, int64_t rows, int64_t group,
                      const uint8_t *constants, const uint8_t *images, int64_t image,
                      uint8_t *scratch, float *out)
{
    const int64_t result = e->last.height * e->last.width * e->last.channels;
    for (int64_t first = 0; first < rows; first += group) {
        const int64_t here = rows - first < group ? rows - first : group;
        begin(e, here, constants, images + first * image, scratch);
        frame(&e->first, here, constants, scratch);
        for (const layer *l = layers; l < layers + count; l++) {
            if (l->maximum) maximum(l, here, scratch);
            else convolve(l, here, constants, scratch);
            frame(&l->out, here, constants, scratch);
        }
        widen(e, here, scratch, out + first * result);
    }
}
#endif
