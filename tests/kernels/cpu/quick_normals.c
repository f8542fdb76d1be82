/* What test_quick_normals.py asks of the loops: how near the short polynomials come, and whether
 * the bits are those of the long ones. */
#include <math.h>
#include "noise_votes.c"

typedef struct {
    double worst;
    int64_t signs; /* that are others */
} distance;

static void compare(distance *d, const double *found, const double *wanted)
{
    for (int i = 0; i < 2 * TILE; i++) {
        double error = fabs(found[i] - wanted[i]), size = fabs(wanted[i]);
        if (!(error <= d->worst * size)) d->worst = error / size;
        d->signs += !signbit(found[i]) != !signbit(wanted[i]);
    }
}

AVX512 static void load(uint32_t bits, float values[2 * TILE], __m512 quick[2], __m512d exact[4])
{
    for (uint32_t i = 0; i < 2 * TILE; i++) {
        uint32_t next = bits + i;
        memcpy(values + i, &next, 4);
    }
    for (int i = 0; i < 2; i++) quick[i] = _mm512_loadu_ps(values + i * TILE);
    for (int i = 0; i < 4; i++) exact[i] = _mm512_cvtps_pd(_mm256_loadu_ps(values + 8 * i));
}

/* Of float32 from 2^-33 on to below 1, in groups of 32, every step-th of them. */
AVX512 void distance_of_radii_avx512(distance *d, uint32_t step)
{
    for (uint32_t bits = 0x2F000000; bits < 0x3F800000; bits += step * 2 * TILE) {
        float values[2 * TILE];
        __m512 quick[2];
        __m512d u[STREAMS], exponent[STREAMS], s[STREAMS], wanted[STREAMS], found[4];
        load(bits, values, quick, u);
        split(u, exponent, s);
        radii(exponent, s, wanted);
        for (int i = 0; i < 2; i++) quick_radii(quick[i], found + 2 * i);
        compare(d, (double *)found, (double *)wanted);
    }
}

/* And of 1, too. */
AVX512 void distance_of_turns_avx512(distance *d, uint32_t step)
{
    for (uint32_t bits = 0x2F000000; bits <= 0x3F800000; bits += step * 2 * TILE) {
        float values[2 * TILE];
        __m512 quick[2];
        __m512d v[STREAMS], wanted[2][STREAMS], found[2][4];
        load(bits, values, quick, v);
        cosines_sines(v, wanted[0], wanted[1]);
        for (int i = 0; i < 2; i++) {
            __m512d parts[2][2];
            __m512i signs[2];
            quick_turns(quick[i], parts, signs);
            for (int part = 0; part < 2; part++)
                for (int h = 0; h < 2; h++) {
                    __m512i sign = _mm512_cvtepu32_epi64(half_of(signs[part], h));
                    __m512i value = _mm512_castpd_si512(parts[part][h]);
                    value = _mm512_xor_si512(value, _mm512_slli_epi64(sign, 32));
                    found[part][2 * i + h] = _mm512_castsi512_pd(value);
                }
        }
        for (int part = 0; part < 2; part++)
            compare(d, (double *)found[part], (double *)wanted[part]);
    }
}

/* Where join puts the float32 of a vector, and what their doubles have to be near. */
static void numbers(uint32_t bits, double values[2 * TILE], __m256i quick[4])
{
    static const uint32_t order[8] = {0, 1, 4, 5, 2, 3, 6, 7};
    for (uint32_t i = 0; i < 2 * TILE; i++) {
        uint32_t next = bits + i, joined = bits + i / 8 * 8 + order[i % 8];
        float value;
        memcpy(&value, &joined, 4);
        memcpy((char *)quick + 4 * i, &next, 4);
        values[i] = (double)value;
    }
}

static const words_avx2 NO_WORDS;

AVX2_TARGET void distance_of_radii_avx2(distance *d, uint32_t step)
{
    for (uint32_t bits = 0x2F000000; bits < 0x3F800000; bits += step * 2 * TILE) {
        double values[2 * TILE], wanted[2 * TILE];
        __m256i quick[4], next[4][2] = {0};
        __m256d found[8];
        numbers(bits, values, quick);
        for (int i = 0; i < 2 * TILE; i++) wanted[i] = sqrt(-2.0 * natural_log(values[i]));
        for (int i = 0; i < 4; i += 2) radii_avx2(quick + i, found + 2 * i, next, &NO_WORDS);
        compare(d, (double *)found, wanted);
    }
}

AVX2_TARGET void distance_of_turns_avx2(distance *d, uint32_t step)
{
    for (uint32_t bits = 0x2F000000; bits <= 0x3F800000; bits += step * 2 * TILE) {
        double values[2 * TILE], wanted[2][2 * TILE];
        __m256i quick[4], next[4][2] = {0};
        __m256d found[2][8];
        numbers(bits, values, quick);
        for (int i = 0; i < 2 * TILE; i++) cos_sin(values[i], wanted[0] + i, wanted[1] + i);
        for (int i = 0; i < 4; i += 2) {
            __m256d parts[2][4], sign[4];
            turns_avx2(quick + i, parts, sign, next, &NO_WORDS);
            for (int k = 0; k < 8; k++)
                found[k / 4][2 * i + k % 4] = _mm256_xor_pd(parts[k / 4][k % 4], sign[k % 4]);
        }
        for (int part = 0; part < 2; part++) compare(d, (double *)found[part], wanted[part]);
    }
}

/* Rows of two tiles from `first` on that have other bits. */
int64_t rows_that_differ_avx512(uint32_t first, int64_t rows, int64_t lanes)
{
    const uint32_t key[2] = {12345, 9};
    int64_t count = 0;
    for (int64_t row = 0; row < rows; row++) {
        const uint32_t rest[3] = {first + (uint32_t)row, 1000, 18};
        __m512i words[4][2];
        int differ = 0;
        first_words(words, key, rest);
        for (uint32_t block = 0; block < 2 * TILE; block += TILE) {
            float found[4 * TILE], wanted[4 * TILE];
            quick_normals(found, words, key, rest, block, lanes);
            normals_avx512(wanted, key, rest, block, lanes);
            differ |= memcmp(found, wanted, lanes * TILE * sizeof(float));
        }
        count += differ != 0;
    }
    return count;
}

/* The same of all that is done for a row, beside what needs no instruction set. */
int64_t rows_that_differ_avx2(uint32_t first, int64_t rows, int64_t lanes)
{
    const segment s = {.end = rows, .first = first, .id = 1000, .word3 = 18, .sigma = 1.0f};
    float image[8 * TILE], out[2][8 * TILE];
    int64_t values = 2 * TILE * lanes, count = 0;
    for (int i = 0; i < 8 * TILE; i++) image[i] = -0.0f; /* keeps the sign of zero */
    for (int64_t row = 0; row < rows; row++) {
        for (int version = 0; version < 2; version++)
            dualsmooth_noisy_rows(version, 12345, 9, values, lanes, image, &s, row, 1, 0,
                                  out[version], NULL, NULL, 0);
        count += memcmp(out[0], out[1], values * sizeof(float)) != 0;
    }
    return count;
}
