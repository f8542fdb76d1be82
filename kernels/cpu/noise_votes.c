/* Noisy rows and vote counts on a CPU.
 *
 * The noise is stream version 1 of dualsmooth.engine.noise: Philox4x32-10 words, Box-Muller in
 * float64, one rounding to float32; or the integer noise of dualsmooth.engine.integer_noise, by
 * thresholds of 64-bit words. Compiled without contraction of a*b+c, so every instruction set gives
 * the same bits. Tables and shapes are checked by the Python wrapper.
 */
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define TILE 16
#define LOW_WORD 0x8000u /* bit of counter word 3 that marks the low half of a 64-bit word */

typedef struct {
    int64_t end;     /* rows of this and all earlier segments */
    int64_t image;   /* index of the image */
    int64_t level;   /* index of the table of thresholds, integer noise only */
    uint32_t first;  /* sample index of the first row, counter word 1 */
    uint32_t id;     /* image id, counter word 2 */
    uint32_t word3;  /* phase, stream version and attempt */
    float sigma;
} segment;

typedef void (*rounds)(uint32_t words[4][TILE], const uint32_t key[2]);

typedef struct {
    uint32_t key[2];
    rounds philox;
    int64_t values;    /* floats of an image */
    int64_t lanes;     /* values per Philox block: 3 or 4 */
    const float *images; /* grid steps 0 .. 255 for integer noise */
    void *out;
    const uint64_t *limits; /* tables of thresholds, each padded with ones to 2^k - 1 entries */
    const int64_t *counts;  /* thresholds in use */
    int64_t width;          /* 2^k - 1 */
} job;

static void philox(uint32_t words[4][TILE], const uint32_t key[2])
{
    for (int i = 0; i < TILE; i++) {
        uint32_t c0 = words[0][i], c1 = words[1][i], c2 = words[2][i], c3 = words[3][i];
        uint32_t k0 = key[0], k1 = key[1];
        for (int round = 0; round < 10; round++) {
            uint64_t p0 = (uint64_t)c0 * 0xD2511F53u, p1 = (uint64_t)c2 * 0xCD9E8D57u;
            c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
            c1 = (uint32_t)p1;
            c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
            c3 = (uint32_t)p0;
            k0 += 0x9E3779B9u;
            k1 += 0xBB67AE85u;
        }
        words[0][i] = c0, words[1][i] = c1, words[2][i] = c2, words[3][i] = c3;
    }
}

#if defined(__x86_64__)
#include "normals_avx512.h"
#include "quick_normals.h"
#include "words_avx2.h"
#include "quick_normals_avx2.h"
#endif

#include "normals.h"

/* Round to nearest even, as torch does; rows are finite. */
INLINE uint16_t bfloat16(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return (uint16_t)((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16);
}

INLINE void block_words(uint32_t words[4][TILE], const job *j, const segment *s, uint32_t sample,
                        uint32_t block, uint32_t mark)
{
    for (int i = 0; i < TILE; i++) {
        words[0][i] = block + i, words[1][i] = sample;
        words[2][i] = s->id, words[3][i] = s->word3 | mark;
    }
    j->philox(words, j->key);
}

INLINE void normals(float lanes[4][TILE], const job *j, const segment *s, uint32_t sample,
                    uint32_t block)
{
    uint32_t words[4][TILE];
    block_words(words, j, s, sample, block, 0);
    box_muller(words[0], words[1], lanes[0], lanes[1]);
    box_muller(words[2], words[3], lanes[2], lanes[3]);
}

/* Number of thresholds <= word, less half of them: the noise, as a float that holds it exactly. */
INLINE void integers(float lanes[4][TILE], const job *j, const segment *s, uint32_t sample,
                     uint32_t block)
{
    uint32_t high[4][TILE], low[4][TILE];
    const uint64_t *limits = j->limits + s->level * j->width;
    int64_t count = j->counts[s->level];
    block_words(high, j, s, sample, block, 0);
    block_words(low, j, s, sample, block, LOW_WORD);
    for (int lane = 0; lane < 4; lane++) {
        int64_t below[TILE] = {0};
        for (int64_t half = (j->width + 1) / 2; half; half /= 2)
            for (int i = 0; i < TILE; i++) {
                uint64_t word = (uint64_t)high[lane][i] << 32 | low[lane][i];
                below[i] += limits[below[i] + half - 1] <= word ? half : 0;
            }
        for (int i = 0; i < TILE; i++) /* a word of ones also counts the padding */
            lanes[lane][i] = (float)((below[i] < count ? below[i] : count) - count / 2);
    }
}

/* Values of a tile of blocks, one block after another. */
INLINE void one_tile(float *flat, const job *j, const segment *s, uint32_t sample, uint32_t block,
                     int whole)
{
    float lanes[4][TILE];
    if (whole)
        integers(lanes, j, s, sample, block);
    else
        normals(lanes, j, s, sample, block);
    if (j->lanes == 3)
        for (int i = 0; i < TILE; i++)
            for (int lane = 0; lane < 3; lane++) flat[3 * i + lane] = lanes[lane][i];
    else
        for (int i = 0; i < TILE; i++)
            for (int lane = 0; lane < 4; lane++) flat[4 * i + lane] = lanes[lane][i];
}

INLINE void one_row(const job *j, const segment *s, uint32_t sample, int64_t row, int half,
                    int whole, int version)
{
    float flat[4 * TILE];
    const float *image = j->images + s->image * j->values;
    int64_t width = j->lanes * TILE;
#if defined(__x86_64__)
    __m512i words[4][2];
    words_avx2 eight;
    const uint32_t rest[3] = {sample, s->id, s->word3};
    if (version == 2 && !whole) first_words(words, j->key, rest);
    if (version == 1 && !whole) first_avx2(&eight, j->key, rest);
#endif
    for (int64_t start = 0, block = 0; start < j->values; start += width, block += TILE) {
#if defined(__x86_64__)
        if (version == 2 && !whole)
            quick_normals(flat, words, j->key, rest, (uint32_t)block, j->lanes);
        else if (version != 1 || whole ||
                 !quick_normals_avx2(flat, &eight, (uint32_t)block, j->lanes))
#endif
            one_tile(flat, j, s, sample, (uint32_t)block, whole);
        int64_t count = j->values - start < width ? j->values - start : width;
        int64_t at = row * j->values + start;
        for (int64_t i = 0; i < count; i++) {
            float value = whole ? (image[start + i] + flat[i]) * (1.0f / 255.0f)
                                : image[start + i] + flat[i] * s->sigma;
            if (half)
                ((uint16_t *)j->out)[at + i] = bfloat16(value);
            else
                ((float *)j->out)[at + i] = value;
        }
    }
}

/* Rows first .. first + rows - 1 of the segments' rows, one after another. */
INLINE void all_rows(const job *j, const segment *s, int64_t first, int64_t rows, int half,
                     int whole, int version)
{
    int64_t begin = 0;
    for (int64_t row = 0; row < rows; row++) {
        while (s->end <= first + row) begin = s->end, s++;
        one_row(j, s, s->first + (uint32_t)(first + row - begin), row, half, whole, version);
    }
}

#define VERSION(name, target, version)                                                         \
    target static void name(const job *j, const segment *s, int64_t first, int64_t rows, int half) \
    {                                                                                          \
        if (j->limits)                                                                         \
            all_rows(j, s, first, rows, half, 1, version);                                     \
        else if (half)                                                                         \
            all_rows(j, s, first, rows, 1, 0, version);                                        \
        else                                                                                   \
            all_rows(j, s, first, rows, 0, 0, version);                                        \
    }

VERSION(rows_plain, , 0)
#if defined(__x86_64__)
VERSION(rows_avx2, AVX2_TARGET, 1)
VERSION(rows_avx512,
        __attribute__((target("avx512f,avx512dq,avx512vl,avx512bw,prefer-vector-width=512"))), 2)
#endif

/* 0 plain, 1 AVX2 with FMA, 2 AVX-512 */
int dualsmooth_best_version(void)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512bw"))
        return 2;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return 1;
#endif
    return 0;
}

void dualsmooth_noisy_rows(int version, uint32_t k0, uint32_t k1, int64_t values, int64_t lanes,
                           const float *images, const segment *segments, int64_t first,
                           int64_t rows, int half, void *out, const uint64_t *limits,
                           const int64_t *counts, int64_t width)
{
    job j = {{k0, k1}, philox, values, lanes, images, out, limits, counts, width};
#if defined(__x86_64__)
    if (version == 2) {
        j.philox = philox_avx512;
        rows_avx512(&j, segments, first, rows, half);
        return;
    }
    if (version == 1) {
        j.philox = philox_avx2;
        rows_avx2(&j, segments, first, rows, half);
        return;
    }
#endif
    (void)version;
    rows_plain(&j, segments, first, rows, half);
}

/* Adds one vote per row: the largest logit, the lowest class on ties, the last bin where a logit is
 * not finite. counts has shape (segments, classes + 1). */
void dualsmooth_count_votes(const float *logits, int64_t classes, const segment *s, int64_t first,
                            int64_t rows, int64_t *counts)
{
    for (int64_t row = 0; row < rows; row++, logits += classes) {
        while (s->end <= first + row) s++, counts += classes + 1;
        int64_t best = 0;
        float poison = 0.0f;
        for (int64_t c = 0; c < classes; c++) {
            poison += logits[c] - logits[c];
            if (logits[c] > logits[best]) best = c;
        }
        counts[poison == 0.0f ? best : classes]++;
    }
}
