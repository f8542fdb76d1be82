// From images to the second stage: noise, preprocessing and the 3x3 stem straight into the first buffer,
// the stage, and the block behind it. Noisy images, bf16 with four lanes a pixel and a halo of zeros,
// lie in the second buffer, which the stage has no use for yet.

constexpr int NOISY_PITCH = SIZE + 10;  // taps of two rows, side by side in a load, meet other banks
constexpr int NOISY_LINE = NOISY_PITCH * 8;
constexpr int NOISY = SIDE * NOISY_LINE;  // bytes of an image
constexpr int STEM_STEPS = 3;             // of 16 entries (ky, kx, lane); there are 36

static_assert(CHANNELS == 16 && SIZE % 16 == 0 && NOISY % 16 == 0 && IMAGES * NOISY <= BUFFER, "the first stage");

// image + sigma * z in float32, rounded once; a pixel is a Philox block. See `rows.Rows` for the columns.
__device__ __forceinline__ void make_noise(char* noisy, const float* images, int colors, const u32* key,
                                           const int* slot, const float* sigma, const u32* stream,
                                           const u32* image, const u32* sample, long long first, int rows) {
    for (int i = threadIdx.x; i < IMAGES * SIZE * SIZE; i += WARPS * 32) {
        const long long row = first + i / (SIZE * SIZE);
        const int pixel = i % (SIZE * SIZE);
        if (row >= rows) break;
        u32 word[4] = {static_cast<u32>(pixel), sample[row], image[row], stream[row]};
        philox_words(word, key[0], key[1]);
        float z[4];
        normal_pair(word[0], word[1], z[0], z[1]);
        normal_pair(word[2], word[3], z[2], z[3]);
        const float* x = images + (static_cast<long long>(slot[row]) * SIZE * SIZE + pixel) * colors;
#pragma unroll
        for (int lane = 0; lane < 4; ++lane)
            z[lane] = lane < colors ? __fmaf_rn(sigma[row], z[lane], x[lane]) : 0.0f;
        const int at = (i / (SIZE * SIZE) * SIDE + pixel / SIZE + 1) * NOISY_LINE + (pixel % SIZE + 1) * 8;
        *reinterpret_cast<uint2*>(noisy + at) = make_uint2(pack(z[0], z[1]), pack(z[2], z[3]));
    }
}

// weights: fragments of [3 steps, 16, 16]; table: biases of border classes, see `folding.FoldedStem`.
__device__ __forceinline__ void stem(char* memory, const char* noisy, const uint2* weights, const float* table) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    u32 w[STEM_STEPS][2][2];
    int from[STEM_STEPS][2];
#pragma unroll
    for (int s = 0; s < STEM_STEPS; ++s)
#pragma unroll
        for (int j = 0; j < 2; ++j) {
            const uint2 pair = __ldg(weights + (s * 2 + j) * 32 + lane);
            w[s][j][0] = pair.x;
            w[s][j][1] = pair.y;
            const int tap = 4 * s + lane % 4 / 2 + 2 * j;
            from[s][j] = tap < 9 ? tap / 3 * NOISY_LINE + tap % 3 * 8 + lane % 2 * 4 : -1;
        }
#pragma unroll 1
    for (int strip = warp; strip < IMAGES * SIZE * SIZE / 16; strip += WARPS) {
        const int y = strip / (SIZE / 16) % SIZE, image = strip / (SIZE / 16 * SIZE);
        const int left = strip % (SIZE / 16) * 16 + lane / 4;
        float acc[2][4] = {};
#pragma unroll
        for (int s = 0; s < STEM_STEPS; ++s) {
            u32 a[4];
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const char* corner = noisy + (image * SIDE + y) * NOISY_LINE + (left + 8 * (j % 2)) * 8;
                a[j] = from[s][j / 2] < 0 ? 0 : *reinterpret_cast<const u32*>(corner + from[s][j / 2]);
            }
#pragma unroll
            for (int t = 0; t < 2; ++t) multiply(acc[t], a, w[s][t]);
        }
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int x = left + 8 * half;
            const int border = ((y == 0) * 2 + (y == SIZE - 1)) * 4 + (x == 0) * 2 + (x == SIZE - 1);
#pragma unroll
            for (int t = 0; t < 2; ++t) {
                const float* shift = table + border * CHANNELS + t * 8 + lane % 4 * 2;
                *reinterpret_cast<u32*>(memory + (image * SIDE + y + 1) * LINE + place(x + 1, t) + lane % 4 * 4) =
                    pack_relu(acc[t][2 * half] + __ldg(shift), acc[t][2 * half + 1] + __ldg(shift + 1));
            }
        }
    }
}

extern "C" __global__ void __launch_bounds__(WARPS * 32, RESIDENT)
    noisy_stage(const float* images, const u32* key, const int* slot, const float* sigma, const u32* stream,
                const u32* image, const u32* sample, const uint2* stem_weights, const float* table,
                const uint2* weights, const float* bias, const uint2* strided, const float* strided_bias,
                u32* out, int rows, int blocks, int colors) {
    extern __shared__ __align__(128) char memory[];
    const long long first = static_cast<long long>(blockIdx.x) * IMAGES;
    char* noisy = memory + BUFFER;
    clear(memory, 2 * BUFFER);
    __syncthreads();
    make_noise(noisy, images, colors, key, slot, sigma, stream, image, sample, first, rows);
    __syncthreads();
    stem(memory, noisy, stem_weights, table);
    __syncthreads();
    clear(noisy, IMAGES * NOISY);
    __syncthreads();
    run_blocks(memory, weights, bias, blocks);
    strided_block(memory, strided, strided_bias, out, first, rows);
}
