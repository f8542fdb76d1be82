/* Two normals of two words: the specification of dualsmooth.engine.noise, step by step. */
/* u = float32(w) * 2^-32 + 2^-33, each step rounded to float32 */
INLINE double uniform(uint32_t word)
{
    float u = (float)word * 0x1p-32f;
    return (double)(u + 0x1p-33f);
}

/* ln u for 2^-33 <= u <= 1: u = m 2^e with m in [sqrt(1/2), sqrt(2)), ln m = 2 artanh(s) */
INLINE double natural_log(double u)
{
    uint64_t bits;
    memcpy(&bits, &u, 8);
    int32_t high = (int32_t)(bits >> 32);
    int32_t exponent = (high - 0x3FE6A09E) >> 20;
    bits -= (uint64_t)(uint32_t)exponent << 52;
    double m;
    memcpy(&m, &bits, 8);
    double s = (m - 1.0) / (m + 1.0), t = s * s;
    double p = 2.0 / 17;
    p = p * t + 2.0 / 15;
    p = p * t + 2.0 / 13;
    p = p * t + 2.0 / 11;
    p = p * t + 2.0 / 9;
    p = p * t + 2.0 / 7;
    p = p * t + 2.0 / 5;
    p = p * t + 2.0 / 3;
    return (double)exponent * 0x1.62e42fefa39efp-1 + (2.0 * s + s * t * p);
}

/* cos and sin of 2 pi u: the nearest quarter turn exactly, the rest by Taylor up to pi / 4 */
INLINE void cos_sin(double u, double *cosine, double *sine)
{
    double turns = 4.0 * u;
    int32_t quarter = (int32_t)(turns + 0.5);
    double a = (turns - (double)quarter) * 0x1.921fb54442d18p0, t = a * a;
    double c = 1.0 / 20922789888000.0;
    c = c * t - 1.0 / 87178291200.0;
    c = c * t + 1.0 / 479001600.0;
    c = c * t - 1.0 / 3628800.0;
    c = c * t + 1.0 / 40320.0;
    c = c * t - 1.0 / 720.0;
    c = c * t + 1.0 / 24.0;
    c = c * t - 0.5;
    c = c * t + 1.0;
    double s = -1.0 / 1307674368000.0;
    s = s * t + 1.0 / 6227020800.0;
    s = s * t - 1.0 / 39916800.0;
    s = s * t + 1.0 / 362880.0;
    s = s * t - 1.0 / 5040.0;
    s = s * t + 1.0 / 120.0;
    s = s * t - 1.0 / 6.0;
    s = a + a * t * s;
    double x = quarter & 1 ? s : c, y = quarter & 1 ? c : s;
    *cosine = (quarter + 1) & 2 ? -x : x;
    *sine = quarter & 2 ? -y : y;
}

INLINE void box_muller(const uint32_t *w1, const uint32_t *w2, float *first, float *second)
{
    for (int i = 0; i < TILE; i++) {
        double radius = __builtin_sqrt(-2.0 * natural_log(uniform(w1[i]))), cosine, sine;
        cos_sin(uniform(w2[i]), &cosine, &sine);
        first[i] = (float)(radius * cosine);
        second[i] = (float)(radius * sine);
    }
}
