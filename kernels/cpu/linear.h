/* Linear layers of few inputs, for `direct_conv.c`: two vectors of outputs of up to twelve rows. */

typedef struct {
    int64_t inputs, outputs, weights, bias, relu; /* weights: [blocks of 32 outputs][input][output] */
} linear;

/* A block of outputs of neighbouring rows: each is one chain of fused multiply-adds, then the bias. */
INLINE void linear_tile(const linear *l, const float *in, const float *weights, const float *bias,
                        float *out, int64_t outputs, const int rows)
{
    const __m512 floor = _mm512_set1_ps(l->relu ? 0.0f : -__builtin_inff());
    const __mmask16 masks[2] = {first_of(outputs), first_of(outputs < LANES ? 0 : outputs - LANES)};
    __m512 sums[24];
#pragma GCC unroll 24
    for (int i = 0; i < 2 * rows; i++) sums[i] = _mm512_setzero_ps();
#pragma GCC unroll 2
    for (int64_t k = 0; k < l->inputs; k++, weights += 2 * LANES) {
        const __m512 near = _mm512_loadu_ps(weights), far = _mm512_loadu_ps(weights + LANES);
#pragma GCC unroll 12
        for (int row = 0; row < rows; row++) {
            const __m512 value = _mm512_set1_ps(in[row * l->inputs + k]);
            sums[2 * row] = _mm512_fmadd_ps(near, value, sums[2 * row]);
            sums[2 * row + 1] = _mm512_fmadd_ps(far, value, sums[2 * row + 1]);
        }
    }
#pragma GCC unroll 24
    for (int i = 0; i < 2 * rows; i++) {
        const int64_t far = i % 2 * LANES;
        const __m512 sum = _mm512_add_ps(sums[i], _mm512_loadu_ps(bias + far));
        _mm512_mask_storeu_ps(out + i / 2 * l->outputs + far, masks[i % 2],
                              _mm512_max_ps(floor, sum)); /* NaN stays */
    }
}

FAST static void linear_layer(const linear *l, int64_t rows, const float *constants,
                              const float *in, float *out)
{
    for (int64_t first = 0; first < l->outputs; first += 2 * LANES)
        for (int64_t row = 0, step; row < rows; row += step) {
            const int64_t left = rows - row, outputs = l->outputs - first;
            const float *from = in + row * l->inputs, *bias = constants + l->bias + first;
            const float *weights = constants + l->weights + first * l->inputs;
            float *to = out + row * l->outputs + first;
            step = left < 8 ? 1 : left < 12 || left == 16 ? 8 : 12;
            if (step == 12) linear_tile(l, from, weights, bias, to, outputs, 12);
            else if (step == 8) linear_tile(l, from, weights, bias, to, outputs, 8);
            else linear_tile(l, from, weights, bias, to, outputs, 1);
        }
}

/* Layers each of which reads the one before. scratch: room for all results but the last. */
void dualsmooth_linear_chain(const linear *layers, int64_t count, int64_t rows,
                             const float *constants, const float *in, float *scratch, float *out)
{
    for (const linear *l = layers, *last = l + count - 1; l <= last; l++) {
        float *to = l == last ? out : scratch;
        linear_layer(l, rows, constants, in, to);
        scratch += rows * l->outputs;
        in = to;
    }
}
