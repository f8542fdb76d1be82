/* Products of whole tiles by AMX, for `chains.h`: 16 pixels by 64 bytes of a kernel's line, and as
 * many weights of 16 outputs. Values are read where they lie, with a pixel's way to the next as the
 * way from line to line of a tile; packed weights have the layout of the other loops. The end of a
 * kernel's line has tiles of its own, so that nothing is read beyond it.
 */
#if defined(__linux__) && defined(__has_include)
#if __has_include(<amxtileintrin.h>) || __has_include(<amxintrin.h>)
#define TILED __attribute__((target(TARGET "," TILE_TARGET)))
#endif
#endif

#ifdef TILED
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Tiles 0 and 1 are sums, 2 values, 3 and 4 weights; 5, 6 and 7 the latter at the end of a line. */
typedef struct {
    uint8_t palette, start, none[14];
    uint16_t bytes[16];
    uint8_t rows[16];
} tile_shapes;

/* What was written reaches memory: compilers do not know what instructions of tiles read. */
#define REACHES_MEMORY(what) __asm__ volatile("" : : "r"(what) : "memory")

TILED static void shape_tiles(const layer *l)
{
    const int64_t end = l->steps % TILE ? l->steps % TILE : TILE;
    tile_shapes shapes = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        shapes.bytes[i] = i == 5 ? end * STEP : BLOCK;
        shapes.rows[i] = i == 3 || i == 4 ? TILE : i > 5 ? end : l->pixels;
    }
    REACHES_MEMORY(&shapes);
    _tile_loadconfig(&shapes);
}

TILED static void release_tiles(void)
{
    _tile_release();
}

TILED static void multiply_strip(const layer *l, const strip *s, int64_t in_pixel)
{
    const int64_t vectors = l->vectors, line = vectors * BLOCK;
    SUM sums[2 * TILE];
    for (int64_t x = 0; x < s->width; x += l->pixels) {
        const uint8_t *weight = s->weights;
        REACHES_MEMORY(sums);
        _tile_zero(0);
        _tile_zero(1);
        for (int64_t y = 0; y < l->kernel_height; y++) {
            const uint8_t *from = s->in + x * in_pixel + y * l->tap_line;
            int64_t i = 0;
            for (; i + TILE <= l->steps; i += TILE, from += BLOCK, weight += TILE * line) {
                _tile_loadd(2, from, in_pixel);
                _tile_loadd(3, weight, line);
                MULTIPLY_TILES(0, 2, 3);
                if (vectors == 1) continue;
                _tile_loadd(4, weight + BLOCK, line);
                MULTIPLY_TILES(1, 2, 4);
            }
            if (i == l->steps) continue;
            _tile_loadd(5, from, in_pixel);
            _tile_loadd(6, weight, line);
            MULTIPLY_TILES(0, 5, 6);
            if (vectors == 2) {
                _tile_loadd(7, weight + BLOCK, line);
                MULTIPLY_TILES(1, 5, 7);
            }
            weight += (l->steps - i) * line;
        }
        _tile_stored(0, sums, line);
        if (vectors == 2) _tile_stored(1, sums + 1, line);
        write_tile(l, s, sums, x, l->pixels, vectors);
    }
}

/* Whether the processor has such tiles and the system lets this process use them. */
static int has_tiles(void)
{
    enum { AMX_TILE = 24, ASK_FOR = 0x1023, TILE_DATA = 18 };
    unsigned a, b, c, d = 0;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d >> AMX_TILE & d >> TILE_BIT & 1) &&
           syscall(SYS_arch_prctl, ASK_FOR, TILE_DATA) == 0;
}
#else
static void shape_tiles(const layer *l) { (void)l; }
static void release_tiles(void) {}
static void multiply_strip(const layer *l, const strip *s, int64_t in_pixel)
{
    (void)l, (void)s, (void)in_pixel;
}
static int has_tiles(void) { return 0; }
#endif
