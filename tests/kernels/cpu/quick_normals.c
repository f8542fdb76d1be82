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
AVX512 void distance_of_radii(distance *d, uint32_t step)
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
AVX512 void distance_of_turns(distance *d, uint32_t step)
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

/* Rows of two tiles from `first` on that have other bits. */
int64_t rows_that_differ(uint32_t first, int64_t rows, int64_t lanes)
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
