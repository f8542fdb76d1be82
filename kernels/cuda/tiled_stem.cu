// Noise, preprocessing and the first convolution of any network: a thread block makes the noisy pixels that
// TILE rows of outputs need, once and with a halo of zeros, and reads the taps from shared memory.
//
// Compiled with the definitions of `TiledStem`: HEIGHT, WIDTH (of images), OUTPUTS, KERNEL, STRIDE, TILE, TILES
// (8-channel output tiles a warp has at once), WARPS and RESIDENT. A pixel has four lanes of bf16. Rows of
// the kernel are padded to a multiple of four taps, so that a step of 16 entries lies in one row and every
// address is a constant of the lane, plus the start of the strip, plus an immediate.

constexpr int PAD = KERNEL / 2;
constexpr int OUT_HEIGHT = (HEIGHT - 1) / STRIDE + 1, OUT_WIDTH = (WIDTH - 1) / STRIDE + 1;
constexpr int ROW_STEPS = (KERNEL + 3) / 4, STEPS = KERNEL * ROW_STEPS;
constexpr int STRIPS = (OUT_WIDTH + 15) / 16;  // of 16 output pixels in a row
constexpr int LINES = (TILE - 1) * STRIDE + KERNEL;
constexpr int REACH = (STRIPS * 16 - 1) * STRIDE + ROW_STEPS * 4;
constexpr int PITCH = REACH > WIDTH + 2 * PAD ? REACH : WIDTH + 2 * PAD;  // pixels
constexpr int WARPS_N = OUTPUTS / 8 / TILES, WARPS_M = WARPS / WARPS_N;

static_assert(WARPS_N * TILES * 8 == OUTPUTS && WARPS_M * WARPS_N == WARPS, "warps must tile the outputs");

// A pixel is a Philox block. See `rows.Rows` for the columns.
__device__ __forceinline__ void make_lines(char* noisy, const float* image, int colors, float sigma, const u32* key,
                                           u32 stream, u32 id, u32 sample, int top) {
    for (int i = threadIdx.x; i < LINES * PITCH; i += WARPS * 32) {
        const int y = top + i / PITCH, x = i % PITCH - PAD;
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

// images: float32 [slots, HEIGHT, WIDTH, colors]; weights: fragments of [STEPS, 16, OUTPUTS]; table: biases of
// border classes, see `folding.FoldedStem`; out: bf16 [rows, OUT_HEIGHT, OUT_WIDTH, OUTPUTS]. Block b has tile
// b % tiles of row b / tiles.
extern "C" __global__ void __launch_bounds__(WARPS * 32, RESIDENT)
    tiled_stem(const float* images, const u32* key, const int* slot, const float* sigma, const u32* stream,
               const u32* image, const u32* sample, const uint2* weights, const float* table, u32* out, int colors,
               int relu) {
    extern __shared__ __align__(128) char memory[];
    constexpr int BLOCKS = (OUT_HEIGHT + TILE - 1) / TILE, SIDE = (PAD + 1) * (PAD + 1);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, first = warp % WARPS_N * TILES;
    const long long row = blockIdx.x / BLOCKS;
    const int top = blockIdx.x % BLOCKS * TILE;
    const float* source = images + static_cast<long long>(slot[row]) * HEIGHT * WIDTH * colors;
    make_lines(memory, source, colors, sigma[row], key, stream[row], image[row], sample[row], top * STRIDE - PAD);
    u32 w[STEPS][TILES][2];
#pragma unroll
    for (int s = 0; s < STEPS; ++s)
#pragma unroll
        for (int t = 0; t < TILES; ++t) {
            const uint2 pair = __ldg(weights + (s * (OUTPUTS / 8) + first + t) * 32 + lane);
            w[s][t][0] = pair.x;
            w[s][t][1] = pair.y;
        }
    __syncthreads();
#pragma unroll 1
    for (int strip = warp / WARPS_N; strip < TILE * STRIPS; strip += WARPS_M) {
        const int y = strip / STRIPS;
        if (top + y >= OUT_HEIGHT) break;
        const int left = strip % STRIPS * 16 + lane / 4;
        const char* corner = memory + (y * STRIDE * PITCH + left * STRIDE) * 8 + lane % 4 * 4;
        float acc[TILES][4] = {};
#pragma unroll
        for (int s = 0; s < STEPS; ++s) {
            u32 a[4];
#pragma unroll
            for (int j = 0; j < 4; ++j)
                a[j] = *reinterpret_cast<const u32*>(corner + (s / ROW_STEPS * PITCH + s % ROW_STEPS * 4 + j / 2 * 2 +
                                                               j % 2 * 8 * STRIDE) * 8);
#pragma unroll
            for (int t = 0; t < TILES; ++t) multiply(acc[t], a, w[s][t]);
        }
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int x = left + 8 * half;
            if (x >= OUT_WIDTH) continue;
            const int border = outside((top + y) * STRIDE - PAD, HEIGHT) * SIDE + outside(x * STRIDE - PAD, WIDTH);
            u32* target = out + ((row * OUT_HEIGHT + top + y) * OUT_WIDTH + x) * (OUTPUTS / 2) + first * 4 + lane % 4;
#pragma unroll
            for (int t = 0; t < TILES; ++t) {
                const float* shift = table + border * OUTPUTS + (first + t) * 8 + lane % 4 * 2;
                const float low = acc[t][2 * half] + __ldg(shift), high = acc[t][2 * half + 1] + __ldg(shift + 1);
                target[t * 4] = relu ? pack_relu(low, high) : pack(low, high);
            }
        }
    }
}
