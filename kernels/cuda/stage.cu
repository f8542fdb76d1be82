// A whole stage of a CIFAR ResNet on chip: the activations of IMAGES images stay in shared memory
// across all its blocks, weights stream from L2 into registers, sums are float32.
//
// The kernels are in the files that come after this one in a source (`Program`). Compiled with the definitions of `Stage`: CHANNELS, SIZE (pixels), PITCH (pixels of a row of a buffer,
// the halo being columns 0 and SIZE + 1), IMAGES (of a thread block), WARPS, ROWS (output rows of a unit
// of work), TILES (8-channel output tiles a warp has at once) and RESIDENT (thread blocks of a
// multiprocessor). None changes a bit of the result: an output is the sum over ky, kx and input channels
// in this order. Self-contained: NVRTC needs no header.

constexpr int SIDE = SIZE + 2;    // rows of a buffer: a halo of zeros above and below
constexpr int WARPS_N = CHUNKS / TILES < WARPS ? CHUNKS / TILES : WARPS;
constexpr int WARPS_M = WARPS / WARPS_N;
constexpr int PASSES = CHUNKS / (TILES * WARPS_N);  // over the images, for other output channels each
constexpr int STRIPS = IMAGES * SIZE / 16;  // 16 pixels wide; at SIZE 8, two images side by side
constexpr int UNITS = STRIPS * SIZE / ROWS;
constexpr int LINE = PITCH * PIXEL;
constexpr int BUFFER = IMAGES * SIDE * LINE;
constexpr int IMAGE = SIZE * SIZE * CHUNKS;   // chunks

static_assert(PITCH >= SIZE + 2, "a row holds its halo");
static_assert(SIZE >= 16 || IMAGES % 2 == 0, "two 8-pixel images make one strip");
static_assert(SIZE % ROWS == 0 && WARPS_M * WARPS_N == WARPS, "warps must tile the outputs");
static_assert(PASSES * TILES * WARPS_N == CHUNKS, "passes must tile the channels");

// Byte offset of a unit's first row of inputs, the one above its outputs.
__device__ __forceinline__ int unit_start(int unit) {
    const int strip = unit % STRIPS, top = unit / STRIPS * ROWS;
    if constexpr (SIZE >= 16)
        return (strip / (SIZE / 16) * SIDE + top) * LINE + strip % (SIZE / 16) * 16 * PIXEL;
    else
        return (strip * 2 * SIDE + top) * LINE;
}

// Pixel m (0 .. 15) of a strip: its column in the row, and the byte offset of its image.
__device__ __forceinline__ int lane_column(int m) { return SIZE >= 16 ? m : m % 8; }
__device__ __forceinline__ int lane_image(int m) { return SIZE >= 16 ? 0 : m / 8 * SIDE * LINE; }

// Byte offset of chunk i of the block's images, as they lie in device memory.
__device__ __forceinline__ int image_chunk(int i) {
    const int y = i % IMAGE / (SIZE * CHUNKS), column = i % (SIZE * CHUNKS) / CHUNKS;
    return (i / IMAGE * SIDE + y + 1) * LINE + place(column + 1, i % CHUNKS);
}

// One 3x3 convolution of all images, from one buffer to the other, for the output channels of a pass. The
// residual is read at the entries that this thread alone overwrites.
template <bool RESIDUAL>
__device__ __forceinline__ void convolve(char* memory, int from, int to, int pass, const uint2* weights,
                                         const float* bias) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int first_tile = (pass * WARPS_N + warp % WARPS_N) * TILES;
    weights += first_tile * 32 + lane;
    bias += first_tile * 8 + lane % 4 * 2;
    forget(weights, bias);  // else the compiler keeps an address per load
    u32 w[9][KSTEPS][TILES][2];
    load_taps(w, weights);
    float shift[TILES][2];
#pragma unroll
    for (int t = 0; t < TILES; ++t)
#pragma unroll
        for (int j = 0; j < 2; ++j) shift[t][j] = __ldg(bias + t * 8 + j);

    const u32 begin = static_cast<u32>(__cvta_generic_to_shared(memory)), base = begin + from + lane_image(lane % 16);
    u32 in[3][KSTEPS];
#pragma unroll
    for (int kx = 0; kx < 3; ++kx)
#pragma unroll
        for (int k = 0; k < KSTEPS; ++k)
            in[kx][k] = base + place(lane_column(lane % 16) + kx, 2 * k + lane / 16);
    u32 out[2][TILES];
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
        for (int t = 0; t < TILES; ++t) {
            const int m = lane / 4 + 8 * half;
            const int chunk = place(lane_column(m) + 1, first_tile + t);
            out[half][t] = begin + to + lane_image(m) + LINE + chunk + lane % 4 * 4;
        }

#pragma unroll 1
    for (int unit = warp / WARPS_N; unit < UNITS; unit += WARPS_M) {
        const int start = unit_start(unit);
        float acc[3][TILES][4] = {};
#pragma unroll
        for (int r = 0; r < ROWS + 2; ++r) {
            add_row(acc, r, in, start + r * LINE, w);
            if (r < 2) continue;
            float(&sum)[TILES][4] = acc[(r - 2) % 3];
#pragma unroll
            for (int half = 0; half < 2; ++half)
#pragma unroll
                for (int t = 0; t < TILES; ++t) {
                    const u32 target = out[half][t] + start + (r - 2) * LINE;
                    float low = sum[t][2 * half] + shift[t][0];
                    float high = sum[t][2 * half + 1] + shift[t][1];
                    if (RESIDUAL) {
                        const u32 old = load_word(target);
                        low += __uint_as_float(old << 16);
                        high += __uint_as_float(old & 0xffff0000u);
                    }
                    store_word(target, pack_relu(low, high));
                    sum[t][2 * half] = 0.0f;
                    sum[t][2 * half + 1] = 0.0f;
                }
        }
    }
}

__device__ __forceinline__ void clear(char* memory, int bytes) {
    for (int i = threadIdx.x; i < bytes / 16; i += WARPS * 32)
        reinterpret_cast<uint4*>(memory)[i] = make_uint4(0, 0, 0, 0);
}

// Both buffers as a stage needs them: zeros, and the activations of images from `first` on.
__device__ __forceinline__ void load_images(char* memory, const uint4* x, long long first, int rows) {
    clear(memory, 2 * BUFFER);
    __syncthreads();
    for (int i = threadIdx.x; i < IMAGES * IMAGE; i += WARPS * 32)
        if (first + i / IMAGE < rows)
            *reinterpret_cast<uint4*>(memory + image_chunk(i)) = x[first * IMAGE + i];
    __syncthreads();
}

// weights: packed fragments of 2 * blocks convolutions; bias: [2 * blocks, CHANNELS]. Each block: conv,
// ReLU, conv, add the block's input, ReLU. The first buffer holds input and result.
__device__ __forceinline__ void run_blocks(char* memory, const uint2* weights, const float* bias, int blocks) {
    constexpr int FRAGMENTS = 9 * KSTEPS * CHUNKS * 32;
    for (int block = 0; block < blocks; ++block) {
        const uint2* w = weights + static_cast<long long>(block) * 2 * FRAGMENTS;
        const float* b = bias + block * 2 * CHANNELS;
        for (int pass = 0; pass < PASSES; ++pass) convolve<false>(memory, 0, BUFFER, pass, w, b);
        __syncthreads();
        for (int pass = 0; pass < PASSES; ++pass)
            convolve<true>(memory, BUFFER, 0, pass, w + FRAGMENTS, b + CHANNELS);
        __syncthreads();
    }
}
