// The identity blocks of a stage. x, out: bf16 [rows, SIZE, SIZE, CHANNELS]; weights and bias as in
// `run_blocks`.
extern "C" __global__ void __launch_bounds__(WARPS * 32, RESIDENT)
    residual_stage(const uint4* x, uint4* out, const uint2* weights, const float* bias, int rows, int blocks) {
    extern __shared__ __align__(128) char memory[];
    const long long first = static_cast<long long>(blockIdx.x) * IMAGES;
    load_images(memory, x, first, rows);
    run_blocks(memory, weights, bias, blocks);
    for (int i = threadIdx.x; i < IMAGES * IMAGE; i += WARPS * 32)
        if (first + i / IMAGE < rows)
            out[first * IMAGE + i] = *reinterpret_cast<uint4*>(memory + image_chunk(i));
}
