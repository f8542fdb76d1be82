/* Linear layers of few inputs, for `direct_conv.c`: two vectors of outputs of some rows. */

typedef struct {
    int64_t inputs, outputs, weights, bias, relu; /* weights: [blocks of two vectors][input][output] */
} linear;

/* A block of outputs of neighbouring rows: each is one chain of fused multiply-adds, then the bias. */
INLINE void linear_tile(const linear *l, const float *in, const float *weights, const float *bias,
                        float *out, int64_t outputs, const int rows)
{
    const vec floor = all(l->relu ? 0.0f : -__builtin_inff());
    const lanes some[2] = {first_of(outputs), first_of(outputs < LANES ? 0 : outputs - LANES)};
    vec sums[2 * PAIRS];
#pragma GCC unroll 24
    for (int i = 0; i < 2 * rows; i++) sums[i] = all(0.0f);
#pragma GCC unroll 2
    for (int64_t k = 0; k < l->inputs; k++, weights += 2 * LANES) {
        const vec near = load(weights), far = load(weights + LANES);
#pragma GCC unroll 12
        for (int row = 0; row < rows; row++) {
            const vec value = all(in[row * l->inputs + k]);
            sums[2 * row] = multiply_add(near, value, sums[2 * row]);
            sums[2 * row + 1] = multiply_add(far, value, sums[2 * row + 1]);
        }
    }
#pragma GCC unroll 24
    for (int i = 0; i < 2 * rows; i++) {
        const int64_t far = i % 2 * LANES;
        const vec sum = sums[i] + load(bias + far);
        store_some(out + i / 2 * l->outputs + far, at_least(floor, sum), some[i % 2]);
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
            step = left < FEWER ? 1 : left < PAIRS || left == 2 * FEWER ? FEWER : PAIRS;
            if (step == PAIRS) linear_tile(l, from, weights, bias, to, outputs, PAIRS);
            else if (step == FEWER) linear_tile(l, from, weights, bias, to, outputs, FEWER);
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
