// A stage and the block behind it. x: bf16 [rows, SIZE, SIZE, CHANNELS]; the rest as in `run_blocks` and
// `strided_block`.
extern "C" __global__ void __launch_bounds__(WARPS * 32, RESIDENT)
    inner_stage(const uint4* x, const uint2* weights, const float* bias, const uint2* strided,
                const float* strided_bias, u32* out, int rows, int blocks) {
    extern __shared__ __align__(128) char memory[];
    const long long first = static_cast<long long>(blockIdx.x) * IMAGES;
    load_images(memory, x, first, rows);
    run_blocks(memory, weights, bias, blocks);
    strided_block(memory, strided, strided_bias, out, first, rows);
}
