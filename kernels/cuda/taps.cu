// What 3x3 convolutions of CHANNELS channels in shared memory have in common. A warp makes TILES tiles of 8 output
// channels; its unit of work is a column of 16 pixels, ROWS output rows high. An output is the sum over ky, kx and
// input channels in this order.

constexpr int CHUNKS = CHANNELS / 8;  // 16-byte chunks of a pixel
constexpr int KSTEPS = CHANNELS / 16;
constexpr int PIXEL = CHUNKS * 16;  // bytes

// Byte offset of a chunk in a row. The swizzle makes the 8 rows of an ldmatrix, 8 pixels side by side,
// fall into 8 different 16-byte columns of the banks. It depends on the column alone, so an address is a
// constant of the lane, plus the start of the unit, plus an immediate for the row.
template <int N = CHUNKS>  // chunks of a pixel
__device__ __forceinline__ int place(int column, int chunk) {
    constexpr int SPREAD = N < 8 ? N : 8;  // chunks that the swizzle exchanges
    int swizzle = column / (8 / SPREAD) % SPREAD;
    return (column * N + (chunk ^ swizzle)) * 16;
}

// The weights of a warp's tiles, as fragments, into registers.
__device__ __forceinline__ void load_taps(u32 (&w)[9][KSTEPS][TILES][2], const uint2* weights) {
#pragma unroll
    for (int tap = 0; tap < 9; ++tap)
#pragma unroll
        for (int k = 0; k < KSTEPS; ++k)
#pragma unroll
            for (int t = 0; t < TILES; ++t) {
                const uint2 pair = __ldg(weights + ((tap * KSTEPS + k) * CHUNKS + t) * 32);
                w[tap][k][t][0] = pair.x;
                w[tap][k][t][1] = pair.y;
            }
}

// Row r (0 .. ROWS + 1) of a unit's inputs, read once per column shift, feeds the three output rows that need it;
// output row i is acc[i % 3]. `offset`: of the row, from the lane's addresses.
__device__ __forceinline__ void add_row(float (&acc)[3][TILES][4], int r, const u32 (&in)[3][KSTEPS], u32 offset,
                                        const u32 (&w)[9][KSTEPS][TILES][2]) {
#pragma unroll
    for (int kx = 0; kx < 3; ++kx)
#pragma unroll
        for (int k = 0; k < KSTEPS; ++k) {
            u32 a[4];
            load_matrix(a, in[kx][k] + offset);
#pragma unroll
            for (int ky = 0; ky < 3; ++ky) {
                if (r - ky < 0 || r - ky >= ROWS) continue;
#pragma unroll
                for (int t = 0; t < TILES; ++t) multiply(acc[(r - ky) % 3][t], a, w[ky * 3 + kx][k][t]);
            }
        }
}
