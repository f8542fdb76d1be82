// Noise, preprocessing and the first convolution of any network: a thread block makes the noisy pixels that
// TILE rows of outputs need, once and with a halo of zeros, and reads the taps from shared memory.
//
// Compiled with the definitions of `TiledStem`: HEIGHT, WIDTH (of images), OUTPUTS, KERNEL, STRIDE, POOL (0, or the
// 2x2 or 3x3 of a max pooling of stride 2 behind it), TILE (output rows of a block), TILES (8-channel output tiles
// a warp has at once), WARPS and RESIDENT. A pixel has four lanes of bf16. Rows of the kernel are padded to a
// multiple of four taps, so that a step of 16 entries lies in one row and every address is a constant of the
// lane, plus the start of the strip, plus an immediate.
//
// With pooling a warp goes down a strip, keeps the largest of the rows that an output has so far in registers, and
// asks neighbouring lanes for the columns: the convolution itself is nowhere stored.

constexpr int PAD = KERNEL / 2;
constexpr int CONV_HEIGHT = (HEIGHT - 1) / STRIDE + 1, CONV_WIDTH = (WIDTH - 1) / STRIDE + 1;
constexpr int EDGE = POOL == 3 ? 1 : 0;  // padding of the pooling
constexpr int OUT_HEIGHT = POOL ? (CONV_HEIGHT + 2 * EDGE - POOL) / 2 + 1 : CONV_HEIGHT;
constexpr int OUT_WIDTH = POOL ? (CONV_WIDTH + 2 * EDGE - POOL) / 2 + 1 : CONV_WIDTH;
constexpr int STRIP = POOL == 3 ? 7 : POOL == 2 ? 8 : 16;  // outputs in a row that 16 pixels make
constexpr int STRIPS = (OUT_WIDTH + STRIP - 1) / STRIP;
constexpr int ADVANCE = POOL ? 2 * STRIP : STRIP;     // pixels of the convolution from strip to strip
constexpr int ROWS = POOL ? 2 * TILE + EDGE : TILE;  // of the convolution
constexpr int ROW_STEPS = (KERNEL + 3) / 4, STEPS = KERNEL * ROW_STEPS;
constexpr int LINES = (ROWS - 1) * STRIDE + KERNEL;
constexpr int MARGIN = PAD + EDGE * STRIDE;  // pixels left of the image
constexpr int REACH = ((STRIPS - 1) * ADVANCE + 15) * STRIDE + ROW_STEPS * 4;
constexpr int PITCH = REACH > WIDTH + PAD + MARGIN ? REACH : WIDTH + PAD + MARGIN;  // pixels
constexpr int WARPS_N = OUTPUTS / 8 / TILES, WARPS_M = WARPS / WARPS_N;
constexpr u32 LEAST = 0xff80ff80u;  // minus infinity, twice

static_assert(WARPS_N * TILES * 8 == OUTPUTS && WARPS_M * WARPS_N == WARPS, "warps must tile the outputs");
static_assert(POOL == 0 || POOL == 2 || POOL == 3, "poolings there are");

// A pixel is a Philox block. See `rows.Rows` for the columns.
__device__ __forceinline__ void make_lines(char* noisy, const float* image, int colors, float sigma, const u32* key,
                                           u32 stream, u32 id, u32 sample, int top) {
    for (int i = threadIdx.x; i < LINES * PITCH; i += WARPS * 32) {
        const int y = top + i / PITCH, x = i % PITCH - MARGIN;
        float z[4] = {};
        if (y >= 0 && y < HEIGHT && x >= 0 && x < WIDTH) {
            const int pixel = y * WIDTH + x;
            u32 word[4] = {static_cast<u32>(pixel), sample, id, stream};
            philox_words(word, key[0], key[1]);
            normal_pair(word[0], word[1], z[0], z[1]);
            normal_pair(word[2], word[3], z[2], z[3]);
#pragma unroll
            for (int lane = 0; lane < 4; ++lane)
                z[lane] = lane < colors ? __fmaf_rn(sigma, z[lane], image[pixel * colors + lane]) : 0.0f;
        }
        *reinterpret_cast<uint2*>(noisy + i * 8) = make_uint2(pack(z[0], z[1]), pack(z[2], z[3]));
    }
}

// What of a kernel lies outside an image on both sides, as an index of border classes.
__device__ __forceinline__ int outside(int start, int size) {
    const int before = start < 0 ? -start : 0, behind = start + KERNEL > size ? start + KERNEL - size : 0;
    return before * (PAD + 1) + behind;
}

// A thread's share of 16 pixels of the convolution: words of two channels, of the pixels left and left + 8. `corner`
// is what the first tap of the first one reads; (y, left) its place; LEAST where the convolution has no pixel.
__device__ __forceinline__ void convolve(u32 (&word)[TILES][2], const char* corner, const u32 (&w)[STEPS][TILES][2],
                                         const float* table, int y, int left, int relu) {
    float acc[TILES][4] = {};
#pragma unroll
    for (int s = 0; s < STEPS; ++s) {
        u32 a[4];
#pragma unroll
        for (int j = 0; j < 4; ++j)
            a[j] = *reinterpret_cast<const u32*>(
                corner + (s / ROW_STEPS * PITCH + s % ROW_STEPS * 4 + j / 2 * 2 + j % 2 * 8 * STRIDE) * 8);
#pragma unroll
        for (int t = 0; t < TILES; ++t) multiply(acc[t], a, w[s][t]);
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const int x = left + 8 * half;
        const bool inside = y >= 0 && y < CONV_HEIGHT && x >= 0 && x < CONV_WIDTH;
        constexpr int SIDE = (PAD + 1) * (PAD + 1);
        const int border = outside(y * STRIDE - PAD, HEIGHT) * SIDE + outside(x * STRIDE - PAD, WIDTH);
#pragma unroll
        for (int t = 0; t < TILES; ++t) {
            const float* shift = table + border * OUTPUTS + t * 8;
            const float low = inside ? acc[t][2 * half] + __ldg(shift) : 0.0f;
            const float high = inside ? acc[t][2 * half + 1] + __ldg(shift + 1) : 0.0f;
            word[t][half] = !inside ? LEAST : relu ? pack_relu(low, high) : pack(low, high);
        }
    }
}

// Two or three pixels side by side, for every second of the 16: the largest of each channel.
__device__ __forceinline__ void pool_columns(u32 (&word)[2]) {
    const int lane = threadIdx.x % 32;
    u32 next[2], third[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        next[half] = __shfl_sync(0xffffffffu, word[half], (lane + 4) % 32);
        if (POOL == 3) third[half] = __shfl_sync(0xffffffffu, word[half], (lane + 8) % 32);
    }
    if (POOL == 3 && lane / 4 == 6) third[0] = third[1];  // pixel 8 lies in the other half
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        word[half] = larger(word[half], next[half]);
        if (POOL == 3) word[half] = larger(word[half], third[half]);
    }
}

// images: float32 [slots, HEIGHT, WIDTH, colors]; weights: fragments of [STEPS, 16, OUTPUTS]; table: biases of
// border classes, see `folding.FoldedStem`; out: bf16 [rows, OUT_HEIGHT, OUT_WIDTH, OUTPUTS]. Block b has tile
// b % tiles of row b / tiles.
extern "C" __global__ void __launch_bounds__(WARPS * 32, RESIDENT)
    tiled_stem(const float* images, const u32* key, const int* slot, const float* sigma, const u32* stream,
               const u32* image, const u32* sample, const uint2* weights, const float* table, u32* out, int colors,
               int relu) {
    extern __shared__ __align__(128) char memory[];
    constexpr int BLOCKS = (OUT_HEIGHT + TILE - 1) / TILE;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, first = warp % WARPS_N * TILES;
    const long long row = blockIdx.x / BLOCKS;
    const int top = blockIdx.x % BLOCKS * TILE, conv_top = POOL ? 2 * top - EDGE : top;
    const float* source = images + static_cast<long long>(slot[row]) * HEIGHT * WIDTH * colors;
    make_lines(memory, source, colors, sigma[row], key, stream[row], image[row], sample[row],
               conv_top * STRIDE - PAD);
    u32 w[STEPS][TILES][2];
#pragma unroll
    for (int s = 0; s < STEPS; ++s)
#pragma unroll
        for (int t = 0; t < TILES; ++t) {
            const uint2 pair = __ldg(weights + (s * (OUTPUTS / 8) + first + t) * 32 + lane);
            w[s][t][0] = pair.x;
            w[s][t][1] = pair.y;
        }
    table += first * 8 + lane % 4 * 2;
    out += row * OUT_HEIGHT * OUT_WIDTH * (OUTPUTS / 2) + first * 4 + lane % 4;
    __syncthreads();
    constexpr int WALK = POOL ? ROWS : 1;  // rows of a strip that a warp takes one after the other
#pragma unroll 1
    for (int unit = warp / WARPS_N; unit < STRIPS * (ROWS / WALK); unit += WARPS_M) {
        const int strip = unit % STRIPS;
        const int left = strip * ADVANCE - EDGE + lane / 4;
        u32 most[TILES][2], word[TILES][2];
#pragma unroll 1
        for (int line = unit / STRIPS; line < unit / STRIPS + WALK; ++line) {
            const char* corner = memory + (line * PITCH + (left + EDGE)) * STRIDE * 8 + lane % 4 * 4;
            convolve(word, corner, w, table, conv_top + line, left, relu);
            const bool whole = !POOL || (line > 0 && (line - EDGE) % 2 == 1);  // the last row of an output
#pragma unroll
            for (int t = 0; t < TILES; ++t) {
                u32 kept[2] = {word[t][0], word[t][1]};
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    const bool begins = POOL == 2 ? line % 2 == 0 : line == 0;
                    if (POOL && !begins) word[t][half] = larger(word[t][half], most[t][half]);
                    most[t][half] = POOL == 3 && whole ? kept[half] : word[t][half];
                }
                if (!whole) continue;
                if (POOL) pool_columns(word[t]);
                const int y = POOL ? top + (line - POOL + 1) / 2 : top + line;
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    const int pixel = lane / 4 + 8 * half, x = strip * STRIP + (POOL ? pixel / 2 : pixel);
                    const bool mine = POOL == 0 || (pixel % 2 == 0 && pixel / 2 < STRIP);
                    if (mine && y < OUT_HEIGHT && x < OUT_WIDTH)
                        out[(y * OUT_WIDTH + x) * (OUTPUTS / 2) + t * 4] = word[t][half];
                }
            }
        }
    }
}
