// The block between two stages, from the first buffer to device memory: 3x3 convolution of stride 2 to
// twice the channels (into the second buffer), ReLU, 3x3 convolution plus the strided 1x1 shortcut, ReLU.
// The order of an output's sum is that of kernels/triton/conv.py: ky, kx, input channels, the shortcut.

constexpr int HALF = SIZE / 2;
constexpr int WIDE = 2 * CHUNKS;  // chunks of an output pixel
constexpr int HALF_SIDE = HALF + 2;
constexpr int HALF_LINE = (HALF + 8) * WIDE * 16;
constexpr int OUT_N = WIDE < WARPS ? WIDE : WARPS;  // warps over the output tiles, one tile each
constexpr int OUT_M = WARPS / OUT_N;
constexpr int OUT_STRIPS = IMAGES * HALF * HALF / 16;  // 16 pixels: a row, or two of 8

static_assert(SIZE == 32 || SIZE == 16, "16 pixels are a row or two");
static_assert(IMAGES * HALF_SIDE * HALF_LINE <= BUFFER, "the inner activations fit a buffer");
static_assert(OUT_M * OUT_N == WARPS && WIDE % OUT_N == 0, "warps must tile the outputs");

struct Pixel {
    int image, y, x;
};

// Pixel m of a strip; its column depends on m alone.
__device__ __forceinline__ Pixel strip_pixel(int strip, int m) {
    const int p = strip * 16 + m;
    return {p / (HALF * HALF), p / HALF % HALF, m % HALF};
}

template <int TAPS, int K>
__device__ __forceinline__ void load_weights(u32 (&w)[TAPS][K][2], const uint2* weights) {
#pragma unroll
    for (int tap = 0; tap < TAPS; ++tap)
#pragma unroll
        for (int k = 0; k < K; ++k) {
            const uint2 pair = __ldg(weights + (tap * K + k) * WIDE * 32);
            w[tap][k][0] = pair.x;
            w[tap][k][1] = pair.y;
        }
}

// Adds a 3x3 convolution of 16 outputs and 8 channels; N chunks, ROW bytes and SIDES rows of the input.
template <int N, int STRIDE, int ROW, int SIDES>
__device__ __forceinline__ void nine_taps(float (&acc)[4], u32 base, Pixel p, const u32 (&w)[9][N / 2][2]) {
    const int half = threadIdx.x % 32 / 16;
    base += (p.image * SIDES + p.y * STRIDE) * ROW;
#pragma unroll
    for (int tap = 0; tap < 9; ++tap)
#pragma unroll
        for (int k = 0; k < N / 2; ++k) {
            u32 a[4];
            load_matrix(a, base + tap / 3 * ROW + place<N>(p.x * STRIDE + tap % 3, 2 * k + half));
            multiply(acc, a, w[tap][k]);
        }
}

// weights: fragments of the first, the second and the 1x1 convolution; bias: [2, 2 * CHANNELS], the
// second with that of the shortcut; out: bf16 [rows, HALF, HALF, 2 * CHANNELS].
__device__ __forceinline__ void strided_block(char* memory, const uint2* weights, const float* bias, u32* out,
                                              long long first, int rows) {
    constexpr int FIRST = 9 * KSTEPS * WIDE * 32, SECOND = 2 * FIRST;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, channel = lane % 4 * 2;
    const u32 base = static_cast<u32>(__cvta_generic_to_shared(memory));
    clear(memory + BUFFER, BUFFER);
    __syncthreads();
#pragma unroll 1
    for (int tile = warp % OUT_N; tile < WIDE; tile += OUT_N) {
        u32 w[9][KSTEPS][2];
        load_weights(w, weights + tile * 32 + lane);
        const float low = __ldg(bias + tile * 8 + channel), high = __ldg(bias + tile * 8 + channel + 1);
#pragma unroll 1
        for (int strip = warp / OUT_N; strip < OUT_STRIPS; strip += OUT_M) {
            float acc[4] = {};
            nine_taps<CHUNKS, 2, LINE, SIDE>(acc, base, strip_pixel(strip, lane % 16), w);
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const Pixel p = strip_pixel(strip, lane / 4 + 8 * half);
                const int row = (p.image * HALF_SIDE + p.y + 1) * HALF_LINE;
                *reinterpret_cast<u32*>(memory + BUFFER + row + place<WIDE>(p.x + 1, tile) + lane % 4 * 4) =
                    pack_relu(acc[2 * half] + low, acc[2 * half + 1] + high);
            }
        }
    }
    __syncthreads();
#pragma unroll 1
    for (int tile = warp % OUT_N; tile < WIDE; tile += OUT_N) {
        u32 w[9][WIDE / 2][2], shortcut[1][KSTEPS][2];
        load_weights(w, weights + FIRST + tile * 32 + lane);
        load_weights(shortcut, weights + FIRST + SECOND + tile * 32 + lane);
        const float* shift = bias + WIDE * 8 + tile * 8 + channel;
        const float low = __ldg(shift), high = __ldg(shift + 1);
#pragma unroll 1
        for (int strip = warp / OUT_N; strip < OUT_STRIPS; strip += OUT_M) {
            float acc[4] = {};
            const Pixel from = strip_pixel(strip, lane % 16);
            nine_taps<WIDE, 1, HALF_LINE, HALF_SIDE>(acc, base + BUFFER, from, w);
            const u32 middle = base + (from.image * SIDE + 2 * from.y + 1) * LINE;
#pragma unroll
            for (int k = 0; k < KSTEPS; ++k) {
                u32 a[4];
                load_matrix(a, middle + place(2 * from.x + 1, 2 * k + lane / 16));
                multiply(acc, a, shortcut[0][k]);
            }
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const Pixel p = strip_pixel(strip, lane / 4 + 8 * half);
                if (first + p.image < rows)
                    out[(((first + p.image) * HALF + p.y) * HALF + p.x) * WIDE * 4 + tile * 4 + lane % 4] =
                        pack_relu(acc[2 * half] + low, acc[2 * half + 1] + high);
            }
        }
    }
}
