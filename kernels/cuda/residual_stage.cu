// A whole stage of a CIFAR ResNet on chip: the activations of IMAGES images stay in shared memory
// across all its blocks, weights stream from L2 into registers, sums are float32.
//
// Compiled with -DCHANNELS=16|32|64 -DSIZE=32|16|8 -DIMAGES=n. Self-contained: NVRTC needs no header.
// tests/kernels/test_residual_stage.py runs the same loops in NumPy, name for name.

typedef unsigned int u32;
typedef unsigned short u16;

constexpr int WARPS = 8;
constexpr int SIDE = SIZE + 2;                     // with a halo of zeros
constexpr int CHUNKS = CHANNELS / 8;               // 16-byte chunks of a pixel
constexpr int KSTEPS = CHANNELS / 16;
constexpr int NTILES = CHANNELS == 64 ? 1 : 2;     // 8-channel output tiles of a warp
constexpr int WARPS_N = CHANNELS / (8 * NTILES);
constexpr int WARPS_M = WARPS / WARPS_N;
constexpr int ROWS = 8;                            // output rows of a unit
constexpr int STRIPS = IMAGES * SIZE / 16;         // 16 pixels wide; at SIZE 8, two images side by side
constexpr int UNITS = STRIPS * SIZE / ROWS;
constexpr int BUFFER = IMAGES * SIDE * SIDE * CHUNKS * 16;  // bytes

static_assert(SIZE >= 16 || IMAGES % 2 == 0, "two 8-pixel images make one strip");
static_assert(WARPS_M * WARPS_N == WARPS, "warps must tile the outputs");

// Byte offset of a chunk of a pixel. The swizzle makes the 8 rows of an ldmatrix, 8 pixels side by
// side, fall into 8 different 16-byte columns of the banks.
__device__ __forceinline__ int chunk_offset(int pixel, int chunk) {
    int swizzle = (pixel / (8 / CHUNKS)) % CHUNKS;
    return (pixel * CHUNKS + (chunk ^ swizzle)) * 16;
}

// Halo index of pixel m (0 .. 15) of a strip in row y; y = -1 and x = -1 are the halo.
__device__ __forceinline__ int strip_pixel(int strip, int y, int m, int dx) {
    int image, x;
    if constexpr (SIZE >= 16) {
        image = strip / (SIZE / 16);
        x = strip % (SIZE / 16) * 16 + m;
    } else {
        image = strip * 2 + m / 8;
        x = m % 8;
    }
    return (image * SIDE + y + 1) * SIDE + x + dx + 1;
}

__device__ __forceinline__ void load_matrix(u32 (&a)[4], u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3])
                 : "r"(address));
}

__device__ __forceinline__ void multiply(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// relu and rounding in one instruction; NaN stays NaN, so that the vote sees it.
__device__ __forceinline__ u32 pack_relu(float low, float high) {
    u32 packed;
    asm("cvt.rn.relu.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
}

// Bias, residual, ReLU and store of one finished row of a strip.
__device__ __forceinline__ void finish_row(const float (&acc)[NTILES][4], const float (&shift)[NTILES][2],
                                           char* to, const char* residual, int strip, int y,
                                           int first_tile, int lane) {
    for (int half = 0; half < 2; ++half) {
        int pixel = strip_pixel(strip, y, lane / 4 + 8 * half, 0);
#pragma unroll
        for (int t = 0; t < NTILES; ++t) {
            int offset = chunk_offset(pixel, first_tile + t) + lane % 4 * 4;
            float low = acc[t][2 * half] + shift[t][0];
            float high = acc[t][2 * half + 1] + shift[t][1];
            if (residual) {
                u32 old = *reinterpret_cast<const u32*>(residual + offset);
                low += __uint_as_float(old << 16);
                high += __uint_as_float(old & 0xffff0000u);
            }
            *reinterpret_cast<u32*>(to + offset) = pack_relu(low, high);
        }
    }
}

// One 3x3 convolution of all images: from one buffer to the other. Each input row is read once per
// column shift and feeds the three output rows that need it.
__device__ __forceinline__ void convolve(const char* from, char* to, const char* residual,
                                         const uint2* weights, const float* bias) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int first_tile = warp % WARPS_N * NTILES;
    u32 w[9][KSTEPS][NTILES][2];
    float shift[NTILES][2];
#pragma unroll
    for (int tap = 0; tap < 9; ++tap)
#pragma unroll
        for (int k = 0; k < KSTEPS; ++k)
#pragma unroll
            for (int t = 0; t < NTILES; ++t) {
                uint2 pair = __ldg(weights + ((tap * KSTEPS + k) * CHUNKS + first_tile + t) * 32 + lane);
                w[tap][k][t][0] = pair.x;
                w[tap][k][t][1] = pair.y;
            }
#pragma unroll
    for (int t = 0; t < NTILES; ++t)
#pragma unroll
        for (int j = 0; j < 2; ++j) shift[t][j] = __ldg(bias + (first_tile + t) * 8 + lane % 4 * 2 + j);

    const u32 base = static_cast<u32>(__cvta_generic_to_shared(from));
    for (int unit = warp / WARPS_N; unit < UNITS; unit += WARPS_M) {
        const int strip = unit % STRIPS, top = unit / STRIPS * ROWS;
        float acc[3][NTILES][4] = {};
#pragma unroll
        for (int r = 0; r < ROWS + 2; ++r) {
#pragma unroll
            for (int kx = 0; kx < 3; ++kx) {
                int pixel = strip_pixel(strip, top + r - 1, lane % 16, kx - 1);
#pragma unroll
                for (int k = 0; k < KSTEPS; ++k) {
                    u32 a[4];
                    load_matrix(a, base + chunk_offset(pixel, 2 * k + lane / 16));
#pragma unroll
                    for (int ky = 0; ky < 3; ++ky) {
                        if (r - ky < 0 || r - ky >= ROWS) continue;
#pragma unroll
                        for (int t = 0; t < NTILES; ++t)
                            multiply(acc[(r - ky) % 3][t], a, w[ky * 3 + kx][k][t]);
                    }
                }
            }
            if (r < 2) continue;
            finish_row(acc[(r - 2) % 3], shift, to, residual, strip, top + r - 2, first_tile, lane);
#pragma unroll
            for (int t = 0; t < NTILES; ++t)
#pragma unroll
                for (int j = 0; j < 4; ++j) acc[(r - 2) % 3][t][j] = 0.0f;
        }
    }
}

// x, out: bf16 [rows, SIZE, SIZE, CHANNELS]; weights: packed fragments of 2 * blocks convolutions;
// bias: [2 * blocks, CHANNELS]. Each block: conv, ReLU, conv, add the block's input, ReLU.
extern "C" __global__ void __launch_bounds__(WARPS * 32, 1)
    residual_stage(const uint4* x, uint4* out, const uint2* weights, const float* bias, int rows, int blocks) {
    extern __shared__ __align__(128) char memory[];
    char* kept = memory;
    char* inner = memory + BUFFER;
    const long long first = static_cast<long long>(blockIdx.x) * IMAGES;
    for (int i = threadIdx.x; i < 2 * BUFFER / 16; i += WARPS * 32)
        reinterpret_cast<uint4*>(memory)[i] = make_uint4(0, 0, 0, 0);
    __syncthreads();
    constexpr int IMAGE = SIZE * SIZE * CHUNKS;
    for (int i = threadIdx.x; i < IMAGES * IMAGE; i += WARPS * 32) {
        int image = i / IMAGE, y = i % IMAGE / (SIZE * CHUNKS), px = i % (SIZE * CHUNKS) / CHUNKS;
        int offset = chunk_offset((image * SIDE + y + 1) * SIDE + px + 1, i % CHUNKS);
        if (first + image < rows) *reinterpret_cast<uint4*>(kept + offset) = x[first * IMAGE + i];
    }
    __syncthreads();
    for (int block = 0; block < blocks; ++block) {
        const uint2* w = weights + static_cast<long long>(block) * 2 * 9 * KSTEPS * CHUNKS * 32;
        const float* b = bias + block * 2 * CHANNELS;
        convolve(kept, inner, nullptr, w, b);
        __syncthreads();
        // In place: a thread reads the residual at the entries that it alone overwrites.
        convolve(inner, kept, kept, w + 9 * KSTEPS * CHUNKS * 32, b + CHANNELS);
        __syncthreads();
    }
    for (int i = threadIdx.x; i < IMAGES * IMAGE; i += WARPS * 32) {
        int image = i / IMAGE, y = i % IMAGE / (SIZE * CHUNKS), px = i % (SIZE * CHUNKS) / CHUNKS;
        int offset = chunk_offset((image * SIDE + y + 1) * SIDE + px + 1, i % CHUNKS);
        if (first + image < rows) out[first * IMAGE + i] = *reinterpret_cast<uint4*>(kept + offset);
    }
}
