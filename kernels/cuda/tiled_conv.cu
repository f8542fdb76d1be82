// A 3x3 convolution of stride 1 with "same" padding, bias, shortcut and ReLU: a thread block goes down an image by
// tiles, each with its halo copied into shared memory once, and reads the taps there.
//
// Compiled with the definitions of `TiledConv`: HEIGHT, WIDTH (of images), CHANNELS, ADDS (a shortcut is added),
// RELU, TILE and SPAN (rows and columns of a tile), ROWS, TILES, WARPS and RESIDENT. The 16 pixels of a unit are 8 columns in both
// halves of a tile, so that rows of any multiple of 8 are tiled without rest. A lane's outputs of all its tiles lie
// side by side (`pack_taps`), so a warp writes whole sectors from registers.

constexpr int HALF = TILE / 2, LINES = TILE + 2;
constexpr int PITCH = SPAN + 2;  // pixels of a row with its halo
constexpr int LINE = PITCH * PIXEL;
constexpr int DOWN = (HEIGHT + TILE - 1) / TILE, ACROSS = (WIDTH + SPAN - 1) / SPAN;  // tiles of an image
constexpr int WARPS_N = CHUNKS / TILES, WARPS_M = WARPS / WARPS_N;
constexpr int COLUMNS = SPAN / 8, UNITS = COLUMNS * (HALF / ROWS);

static_assert(WARPS_N * TILES == CHUNKS && WARPS_M * WARPS_N == WARPS, "warps must tile the channels");
static_assert(TILES <= 2, "two words are one access");
static_assert(SPAN % 8 == 0 && HALF * 2 == TILE && HALF % ROWS == 0, "units must tile the outputs");

// A lane's words of a pixel: one access where there are two.
__device__ __forceinline__ void get(u32 (&word)[TILES], const u32* from) {
    if constexpr (TILES == 2) {
        const uint2 both = *reinterpret_cast<const uint2*>(from);
        word[0] = both.x;
        word[1] = both.y;
    } else {
        word[0] = *from;
    }
}
__device__ __forceinline__ void put(const u32 (&word)[TILES], u32* to) {
    if constexpr (TILES == 2)
        *reinterpret_cast<uint2*>(to) = make_uint2(word[0], word[1]);
    else
        *to = word[0];
}

// Copies the inputs of a tile, whose first output is (top, left), into shared memory; zeros outside of the image.
__device__ __forceinline__ void load_tile(u32 memory, const uint4* image, int top, int left) {
    for (int i = threadIdx.x; i < PITCH * CHUNKS; i += WARPS * 32) {
        const int column = i / CHUNKS, x = left + column - 1;
        const u32 target = memory + place(column, i % CHUNKS);
#pragma unroll
        for (int line = 0; line < LINES; ++line) {
            const int y = top + line - 1;
            const bool inside = y >= 0 && y < HEIGHT && x >= 0 && x < WIDTH;
            copy_async(target + line * LINE, image + (inside ? (y * WIDTH + x) * CHUNKS + i % CHUNKS : 0), inside);
        }
    }
    wait_copies();
}

// x, shortcut, out: bf16 [rows, HEIGHT, WIDTH, CHANNELS], an image per thread block; weights: fragments by
// `pack_taps`.
extern "C" __global__ void __launch_bounds__(WARPS * 32, RESIDENT)
    tiled_conv(const uint4* x, const u32* shortcut, u32* out, const uint2* weights, const float* bias) {
    extern __shared__ __align__(128) char memory[];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, first_tile = warp % WARPS_N * TILES;
    const int pair = first_tile * 4 + lane % 4 * TILES;  // of channels: a lane's first
    weights += first_tile * 32 + lane;
    bias += pair * 2;
    forget(weights, bias);  // else the compiler keeps an address per load
    u32 w[9][KSTEPS][TILES][2];
    load_taps(w, weights);
    float shift[TILES][2];
#pragma unroll
    for (int t = 0; t < TILES; ++t)
#pragma unroll
        for (int j = 0; j < 2; ++j) shift[t][j] = __ldg(bias + t * 2 + j);

    const u32 begin = static_cast<u32>(__cvta_generic_to_shared(memory));
    u32 in[3][KSTEPS];
#pragma unroll
    for (int kx = 0; kx < 3; ++kx)
#pragma unroll
        for (int k = 0; k < KSTEPS; ++k)
            in[kx][k] = begin + lane % 16 / 8 * (HALF * LINE) + place(lane % 8 + kx, 2 * k + lane / 16);

    const long long image = static_cast<long long>(blockIdx.x) * HEIGHT * WIDTH * CHUNKS;
    x += image;
    shortcut += image * 4 + pair;
    out += image * 4 + pair;
    int tiles = DOWN * ACROSS, units = UNITS;
    forget(tiles, units);  // else loops that run once are none, and what is read early spills
    u32 start = 0;  // of the unit; the addresses are kept there, as a second set of them would spill
#pragma unroll 1
    for (int tile = 0; tile < tiles; ++tile) {
        const int top = tile / ACROSS * TILE, left = tile % ACROSS * SPAN;
        load_tile(begin, x, top, left);
        __syncthreads();
#pragma unroll 1
        for (int unit = warp / WARPS_N; unit < units; unit += WARPS_M) {
            const int row = unit / COLUMNS * ROWS, column = unit % COLUMNS * 8;
            const u32 step = row * LINE + column * PIXEL - start;
            start += step;
#pragma unroll
            for (int kx = 0; kx < 3; ++kx)
#pragma unroll
                for (int k = 0; k < KSTEPS; ++k) in[kx][k] += step;
            const int y = top + row, x0 = left + column + lane / 4, first = (y * WIDTH + x0) * CHUNKS * 4;
            const bool across = WIDTH % SPAN == 0 || x0 < WIDTH;
            float acc[3][TILES][4] = {};
#pragma unroll
            for (int r = 0; r < ROWS + 2; ++r) {
                u32 word[2][TILES] = {};
                bool inside[2];
                int at[2];  // pixels of the two halves, below the first
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    const int below = r - 2 + half * HALF;
                    inside[half] = across && (HEIGHT % TILE == 0 || y + below < HEIGHT);
                    at[half] = below * WIDTH * CHUNKS * 4;
                    if (ADDS && r >= 2 && inside[half]) get(word[half], shortcut + first + at[half]);
                }
                add_row(acc, r, in, r * LINE, w);
                if (r < 2) continue;
                float(&sum)[TILES][4] = acc[(r - 2) % 3];
#pragma unroll
                for (int half = 0; half < 2; ++half) {
#pragma unroll
                    for (int t = 0; t < TILES; ++t) {
                        float low = sum[t][2 * half] + shift[t][0];
                        float high = sum[t][2 * half + 1] + shift[t][1];
                        if (ADDS) {
                            low += __uint_as_float(word[half][t] << 16);
                            high += __uint_as_float(word[half][t] & 0xffff0000u);
                        }
                        word[half][t] = RELU ? pack_relu(low, high) : pack(low, high);
                        sum[t][2 * half] = 0.0f;
                        sum[t][2 * half + 1] = 0.0f;
                    }
                    if (inside[half]) put(word[half], out + first + at[half]);
                }
            }
        }
        __syncthreads();
    }
}
