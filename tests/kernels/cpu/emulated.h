/* VDPBF16PS, VCVTNEPS2BF16 and the tiles of AMX as Intel's manual (SDM volume 2) defines them,
 * written with AVX-512's operations, for the same end. To be included before the loops.
 * Every operation rounds to nearest even; denormal numbers are zero, going in and coming out.
 * VDPBF16PS adds the product of the odd values of each pair first, then that of the even ones,
 * both fused. TDPBF16PS adds up the products of even and odd values of a tile apart, fused, and
 * then adds both sums to each other and that to the tile. Shapes of tiles must fit. */
#include <cpuid.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "avx512.h"

EMULATED __m512 flushed(__m512 v)
{
    const i32x16 small = _mm512_abs_ps(v) < _mm512_set1_ps(0x1p-126f);
    return (__m512)((i32x16)v & ~(small & INT32_MAX));
}

EMULATED __m512 even(__m512i pairs)
{
    return flushed(_mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16)));
}

EMULATED __m512 odd(__m512i pairs)
{
    const __m512i high = _mm512_set1_epi32(0xffff0000);
    return flushed(_mm512_castsi512_ps(_mm512_and_si512(pairs, high)));
}

EMULATED __m512 dot(__m512 sums, __m512i a, __m512i b)
{
    sums = flushed(_mm512_fmadd_ps(odd(a), odd(b), flushed(sums)));
    return flushed(_mm512_fmadd_ps(even(a), even(b), sums));
}

EMULATED __m256i rounded(__m512 v)
{
    const u32x16 bits = (u32x16)flushed(v), missing = (u32x16)(v != v);
    const u32x16 nearest = bits + (bits >> 16 & 1) + 0x7fff, quiet = bits | 1 << 22;
    return _mm512_cvtepi32_epi16((nearest & ~missing | quiet & missing) >> 16);
}

static _Thread_local struct {
    struct { uint8_t palette, start, none[14]; uint16_t bytes[16]; uint8_t rows[16]; } shape;
    uint8_t data[8][16][64];
} tiles;

static void load_shapes(const void *shapes)
{
    memcpy(&tiles.shape, shapes, sizeof tiles.shape);
    memset(tiles.data, 0xff, sizeof tiles.data);
    if (tiles.shape.palette != 1 || tiles.shape.start) abort();
    for (int t = 0; t < 8; t++)
        if (tiles.shape.bytes[t] > 64 || tiles.shape.rows[t] > 16 || !tiles.shape.rows[t] ||
            !tiles.shape.bytes[t] || tiles.shape.bytes[t] % 4) abort();
}

static void load_tile(int t, const void *base, long stride)
{
    memset(tiles.data[t], 0, sizeof tiles.data[t]);
    for (int r = 0; r < tiles.shape.rows[t]; r++)
        memcpy(tiles.data[t][r], (const char *)base + r * stride, tiles.shape.bytes[t]);
}

static void store_tile(int t, void *base, long stride)
{
    for (int r = 0; r < tiles.shape.rows[t]; r++)
        memcpy((char *)base + r * stride, tiles.data[t][r], tiles.shape.bytes[t]);
}

static void fit(int sums, int a, int b)
{
    const uint8_t *rows = tiles.shape.rows;
    if (tiles.shape.palette != 1 || rows[sums] != rows[a] || tiles.shape.bytes[a] != 4 * rows[b] ||
        tiles.shape.bytes[sums] != tiles.shape.bytes[b]) abort();
}

EMULATED __m512i pair(int t, int row, int k)
{
    int32_t word;
    memcpy(&word, tiles.data[t][row] + 4 * k, 4);
    return _mm512_set1_epi32(word);
}

EMULATED void dot_tiles(int sums, int a, int b)
{
    fit(sums, a, b);
    for (int m = 0; m < tiles.shape.rows[a]; m++) {
        __m512 evens = _mm512_setzero_ps(), odds = evens, *sum = (__m512 *)tiles.data[sums][m];
        for (int k = 0; k < tiles.shape.rows[b]; k++) {
            const __m512i weights = _mm512_loadu_si512(tiles.data[b][k]), values = pair(a, m, k);
            evens = flushed(_mm512_fmadd_ps(even(values), even(weights), evens));
            odds = flushed(_mm512_fmadd_ps(odd(values), odd(weights), odds));
        }
        const __m512 more = flushed(_mm512_add_ps(evens, odds));
        _mm512_storeu_ps(sum, flushed(_mm512_add_ps(_mm512_loadu_ps(sum), more)));
    }
}

EMULATED void dot_bytes(int sums, int a, int b)
{
    fit(sums, a, b);
    for (int m = 0; m < tiles.shape.rows[a]; m++)
        for (int k = 0; k < tiles.shape.rows[b]; k++) {
            void *sum = tiles.data[sums][m];
            _mm512_storeu_si512(sum, _mm512_dpbusd_epi32(_mm512_loadu_si512(sum), pair(a, m, k),
                                                         _mm512_loadu_si512(tiles.data[b][k])));
        }
}

static int every_feature(unsigned *a, unsigned *d)
{
    *a = *d = ~0u;
    return 1;
}

#define _mm512_dpbf16_ps(sums, a, b) dot(sums, (__m512i)(a), (__m512i)(b))
#define _mm512_cvtneps_pbh(v) rounded(v)
#undef _tile_loadd
#undef _tile_stored
#undef _tile_zero
#undef _tile_dpbf16ps
#undef _tile_dpbusd
#define _tile_loadconfig(shapes) load_shapes(shapes)
#define _tile_release() memset(&tiles, 0, sizeof tiles)
#define _tile_loadd(t, base, stride) load_tile(t, base, stride)
#define _tile_stored(t, base, stride) store_tile(t, base, stride)
#define _tile_zero(t) memset(tiles.data[t], 0, sizeof tiles.data[t])
#define _tile_dpbf16ps(sums, a, b) dot_tiles(sums, a, b)
#define _tile_dpbusd(sums, a, b) dot_bytes(sums, a, b)
#define __get_cpuid_count(leaf, sub, a, b, c, d) ((void)(b), (void)(c), every_feature(a, d))
#define syscall(...) 0
