// The last stage, pooling, the linear layer, the argmax and the count. x: bf16 [rows, SIZE, SIZE, CHANNELS];
// head: float32 [CHANNELS, classes] that holds bf16 values; logits: float32 [rows, classes]; counts: int64
// [segments, classes + 1], the last for rows with a logit that is not finite; rows of other segments vote
// nowhere. Means are rounded to bf16, as in kernels/triton/vote.py.

__device__ __forceinline__ void pool(float* means, const char* memory) {
    const u32 base = static_cast<u32>(__cvta_generic_to_shared(memory));
    for (int i = 2 * threadIdx.x; i < IMAGES * CHANNELS; i += WARPS * 64) {
        const int image = i / CHANNELS, channel = i % CHANNELS;
        float low = 0.0f, high = 0.0f;
        for (int y = 0; y < SIZE; ++y)
#pragma unroll
            for (int x = 0; x < SIZE; ++x) {
                const int row = (image * SIDE + y + 1) * LINE;
                const u32 pair = load_word(base + row + place(x + 1, channel / 8) + channel % 8 * 2);
                low += __uint_as_float(pair << 16);
                high += __uint_as_float(pair & 0xffff0000u);
            }
        const u32 pair = pack(low * (1.0f / (SIZE * SIZE)), high * (1.0f / (SIZE * SIZE)));
        means[i] = __uint_as_float(pair << 16);
        means[i + 1] = __uint_as_float(pair & 0xffff0000u);
    }
}

// A warp per image; ties go to the lowest class.
__device__ __forceinline__ void vote(const float* means, const float* head, const float* bias, float* logits,
                                     const int* segment, unsigned long long* counts, long long first, int rows,
                                     int segments, int classes) {
    const int lane = threadIdx.x % 32;
    for (int image = threadIdx.x / 32; image < IMAGES; image += WARPS) {
        const long long row = first + image;
        if (row >= rows) break;
        float best = -__int_as_float(0x7f800000);
        int kind = classes;
        bool finite = true;
        for (int c = lane; c < classes; c += 32) {
            float score = 0.0f;
            for (int channel = 0; channel < CHANNELS; ++channel)
                score = __fmaf_rn(means[image * CHANNELS + channel], __ldg(head + channel * classes + c), score);
            score += __ldg(bias + c);
            logits[row * classes + c] = score;
            finite = finite && fabsf(score) < __int_as_float(0x7f800000);
            if (score > best) {
                best = score;
                kind = c;
            }
        }
#pragma unroll
        for (int step = 16; step; step /= 2) {
            const float other = __shfl_xor_sync(0xffffffffu, best, step);
            const int rival = __shfl_xor_sync(0xffffffffu, kind, step);
            if (other > best || (other == best && rival < kind)) {
                best = other;
                kind = rival;
            }
        }
        if (!__all_sync(0xffffffffu, finite)) kind = classes;
        const int where = segment[row];
        if (lane == 0 && where >= 0 && where < segments)
            atomicAdd(counts + static_cast<long long>(where) * (classes + 1) + kind, 1ull);
    }
}

extern "C" __global__ void __launch_bounds__(WARPS * 32, RESIDENT)
    voting_stage(const uint4* x, const uint2* weights, const float* bias, const float* head, const float* head_bias,
                 float* logits, const int* segment, unsigned long long* counts, int rows, int blocks, int segments,
                 int classes) {
    extern __shared__ __align__(128) char memory[];
    const long long first = static_cast<long long>(blockIdx.x) * IMAGES;
    load_images(memory, x, first, rows);
    run_blocks(memory, weights, bias, blocks);
    float* means = reinterpret_cast<float*>(memory + BUFFER);
    pool(means, memory);
    __syncthreads();
    vote(means, head, head_bias, logits, segment, counts, first, rows, segments, classes);
}
