/* Convolutions of grey images with few outputs, for `direct_conv.c`: a vector is pixels. */

/* A line of a grey image: neighbouring pixels are two vectors, and every output channel has
 * sums of its own. `line` holds one channel after another. */
INLINE void grey_line(const geometry *g, const float *corner, const float *weights,
                      const float *bias, float *line, const int outputs)
{
    for (int64_t x = 0; x < g->padded_out; x += 2 * LANES) {
        vec sums[2 * GREY];
        const float *weight = weights;
        for (int i = 0; i < 2 * outputs; i++) sums[i] = all(bias[i / 2]);
        for (int64_t ky = 0; ky < g->kernel_height; ky++)
            for (int64_t kx = 0; kx < g->kernel_width; kx++, weight += GREY) {
                const float *pixels = corner + ky * g->padded_width + x + kx;
                const vec near = load(pixels), far = load(pixels + LANES);
                for (int k = 0; k < outputs; k++) {
                    const vec factor = all(weight[k]);
                    sums[2 * k] = multiply_add(near, factor, sums[2 * k]);
                    sums[2 * k + 1] = multiply_add(far, factor, sums[2 * k + 1]);
                }
            }
        for (int k = 0; k < outputs; k++) {
            store(line + k * g->padded_out + x, sums[2 * k]);
            store(line + k * g->padded_out + x + LANES, sums[2 * k + 1]);
        }
    }
}

/* Pooling and ReLU in place; then channels last. */
INLINE void finish_grey(const geometry *g, float *line, float *out)
{
    const int64_t width = g->pool ? g->out_width / 2 : g->out_width;
    for (int64_t k = 0; k < g->outputs; k++) {
        float *pixels = line + k * g->padded_out, *under = pixels + GREY * g->padded_out;
        for (int64_t x = 0; x < width; x += LANES) {
            vec value = load(pixels + x);
            if (g->pool) {
                const float *above = pixels + 2 * x, *below = under + 2 * x;
                const vec a = larger(load(above), load(below));
                above += LANES, below += LANES;
                const vec b = larger(load(above), load(below));
                value = larger(evens(a, b), odds(a, b));
            }
            store(pixels + x, at_least(least(g), value));
        }
    }
    for (int64_t x = 0; x < width; x++)
        for (int64_t k = 0; k < g->outputs; k++) *out++ = line[k * g->padded_out + x];
}

FAST static void grey_image(const image *m)
{
    const geometry *g = m->shape;
    const int64_t lines = g->pool ? 2 : 1, height = g->out_height / lines;
    for (int64_t y = 0; y < height; y++) {
        for (int64_t i = 0; i < lines; i++) {
            const float *corner = m->padded + (y * lines + i) * g->padded_width;
            float *to = m->sums + i * GREY * g->padded_out;
            if (g->outputs <= 4)
                grey_line(g, corner, m->weights, m->bias, to, 4);
            else if (g->outputs <= 6)
                grey_line(g, corner, m->weights, m->bias, to, 6);
            else
                grey_line(g, corner, m->weights, m->bias, to, GREY);
        }
        finish_grey(g, m->sums, m->out + y * m->out_line);
    }
}
