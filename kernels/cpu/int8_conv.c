/* Convolutions of 8-bit maps with 8-bit weights, in chains, on a CPU with AVX512-VNNI.
 *
 * Values of maps are unsigned, weights signed; four products and their sum in 32 bits are one
 * instruction that does not saturate, and whole sums fit 32 bits. Then a value is, each step
 * rounded to float32,
 *     sum * scale[output] + bias[output] + shortcut * factor,
 * cut off at 0 and 255 (no number is 0) and rounded to a whole number, ties to even. A line of a
 * kernel is a run of bytes, width by channels, read four at a time; what is read beyond it meets
 * weights of zero. Maps are channels-last, with a border for padding, and hold the rows of one
 * group, so that a group stays in the cache. Shapes are checked by the Python wrapper.
 */
#include <stdint.h>
#include <string.h>

#define LANES 16
#define STEP 4  /* bytes multiplied at once, for each lane */
#define TILE 16 /* sums in registers */
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
    int64_t maximum, kernel_height, kernel_width, tap_line, steps;
    int64_t pixels, vectors, across; /* of a tile; whether its pixels are one of each row */
    float factor;
} layer;

/* Float32 images become the first map, and the last map float32. */
typedef struct {
    map first, last;
    float inverse, zero, last_zero, last_scale;
} ends;

#if defined(__x86_64__)
#include <immintrin.h>

#define VNNI __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni")))
#define INLINE VNNI static inline __attribute__((always_inline))

INLINE __mmask16 first_of(int64_t count)
{
    return count < LANES ? (__mmask16)((1 << count) - 1) : (__mmask16)-1;
}

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

INLINE __m512i four(const uint8_t *in)
{
    int32_t word;
    memcpy(&word, in, sizeof word);
    return _mm512_set1_epi32(word);
}

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

/* Outputs k and on of a line of pixels: one line of a map, or one pixel of every row. */
typedef struct {
    const uint8_t *in, *weights, *shortcut;
    const float *scale, *bias;
    uint8_t *out;
    int64_t shortcut_pixel, out_pixel, width, outputs;
} strip;

INLINE void write_tile(const strip *s, const __m512i *sums, const __m512 factor, int64_t x,
                       const int pixels, const int vectors)
{
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

INLINE void convolve_strip(const layer *l, const strip *s, const int64_t in_pixel,
                           const int pixels, const int vectors)
{
    const __m512 factor = _mm512_set1_ps(l->factor);
    for (int64_t x = 0; x < s->width; x += pixels) {
        __m512i sums[TILE], taps[4];
        for (int i = 0; i < pixels * vectors; i++) sums[i] = _mm512_setzero_si512();
        const uint8_t *weight = s->weights;
        for (int64_t y = 0; y < l->kernel_height; y++) {
            const uint8_t *from = s->in + x * in_pixel + y * l->tap_line;
            for (int64_t i = 0; i < l->steps; i++, from += STEP, weight += vectors * BLOCK) {
                for (int v = 0; v < vectors; v++) taps[v] = _mm512_loadu_si512(weight + v * BLOCK);
                for (int j = 0; j < pixels * vectors; j++)
                    sums[j] = _mm512_dpbusd_epi32(sums[j], four(from + j / vectors * in_pixel),
                                                  taps[j % vectors]);
            }
        }
        write_tile(s, sums, factor, x, pixels, vectors);
    }
}

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
            s.out = scratch + line_of(out, lines, i) + k;
            s.shortcut = other->start < 0 ? 0 : scratch + line_of(other, lines, i) + k;
            convolve_strip(l, &s, in_pixel, pixels, vectors);
        }
    }
}

/* Tiles that the loops are compiled for; sixteen channels are a constant for the compiler. */
VNNI static void convolve(const layer *l, int64_t n, const uint8_t *c, uint8_t *scratch)
{
    const int64_t pixel = l->across ? l->in.row : l->in.pixel, tile = l->pixels * 10 + l->vectors;
    if (tile == 161 && pixel == 16) convolve_all(l, n, c, scratch, 16, 16, 1);
    else if (tile == 161) convolve_all(l, n, c, scratch, pixel, 16, 1);
    else if (tile == 141) convolve_all(l, n, c, scratch, pixel, 14, 1);
    else if (tile == 82) convolve_all(l, n, c, scratch, pixel, 8, 2);
    else if (tile == 72) convolve_all(l, n, c, scratch, pixel, 7, 2);
    else if (tile == 44) convolve_all(l, n, c, scratch, pixel, 4, 4);
    else convolve_all(l, n, c, scratch, pixel, 2, 4);
}

VNNI static void maximum(const layer *l, int64_t rows, uint8_t *scratch)
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

VNNI static void quantize(const ends *e, int64_t rows, const float *images, uint8_t *scratch)
{
    const map *m = &e->first;
    const int64_t line = m->width * m->channels;
    const __m512 inverse = _mm512_set1_ps(e->inverse), zero = _mm512_set1_ps(e->zero);
    for (int64_t i = 0; i < rows * m->height; i++, images += line) {
        uint8_t *out = scratch + line_of(&m->at, m->height, i);
        for (int64_t x = 0; x < line; x += LANES) {
            const __m512 value = _mm512_maskz_loadu_ps(first_of(line - x), images + x);
            write_bytes(out + x, first_of(line - x),
                        _mm512_add_ps(_mm512_mul_ps(value, inverse), zero));
        }
    }
}

VNNI static void widen(const ends *e, int64_t rows, const uint8_t *scratch, float *out)
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

/* Every layer for a group of rows, then for the next group. */
void dualsmooth_int8_chain(const ends *e, const layer *layers, int64_t count, int64_t rows,
                           int64_t group, const uint8_t *constants, const float *images,
                           uint8_t *scratch, float *out)
{
#if defined(__x86_64__)
    const int64_t image = e->first.height * e->first.width * e->first.channels;
    const int64_t result = e->last.height * e->last.width * e->last.channels;
    for (int64_t first = 0; first < rows; first += group) {
        const int64_t here = rows - first < group ? rows - first : group;
        quantize(e, here, images + first * image, scratch);
        frame(&e->first, here, constants, scratch);
        for (const layer *l = layers; l < layers + count; l++) {
            if (l->maximum) maximum(l, here, scratch);
            else convolve(l, here, constants, scratch);
            frame(&l->out, here, constants, scratch);
        }
        widen(e, here, scratch, out + first * result);
    }
#endif
}
