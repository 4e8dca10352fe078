/* Kernels of the batch-invariant mode, in fp32: what a row becomes depends on that row alone.
 *
 * Every sum runs over the lanes of vectors in an order that the row's length decides, by the same instructions for
 * each row; how many rows there are, which neighbours they have and which thread takes them changes no bit.
 * Compiled without any permission to reorder sums.
 *
 * linear_rows:   out [M, O] = x [M, I] weight^T [O, I] + bias [O]; bias may be null.
 * rms_norm_rows: out [M, I] = x / sqrt(mean(x^2) + eps) * weight.
 * swiglu_rows:   out [M, I] = gate * sigmoid(beta * gate) * up.
 * swiglu_slopes: the gradients of gate and up from that of out.
 * logprob_rows:  out [M] = x[target] - logsumexp(x) of x [M, V], and the logsumexp itself.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

#ifdef __AVX512F__
#define LANES 16
#define ROWS 6 /* x OUTPUTS accumulators fill the vector registers */
#else
#define LANES 8
#define ROWS 3
#endif
#define OUTPUTS 4
#define ROW_BLOCK 96 /* rows whose inputs stay in the cache while the weights pass by; a multiple of ROWS */

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t ints __attribute__((vector_size(4 * LANES)));

static inline vec load(const float *x) { return *(const vec *)x; }

static inline vec load_part(const float *x, int64_t count) {
    vec v = {0};
    memcpy(&v, x, count * sizeof(float));
    return v;
}

/* a where the mask is set, b elsewhere */
static inline vec pick(ints mask, vec a, vec b) { return (vec)((mask & (ints)a) | (~mask & (ints)b)); }

static inline float sum_lanes(vec v) {
    float lane[LANES];
    memcpy(lane, &v, sizeof v);
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++) lane[i] += lane[i + half];
    return lane[0];
}

/* The sums of four vectors at once, by halves: lane n * LANES / 4 of the result is the sum of v[n]. */
static inline vec sum_four(const vec *v) {
#if LANES == 16
    const ints low_8 = {0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23};
    const ints low_4 = {0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27};
    const ints by_2 = {2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13};
    const ints by_1 = {1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14};
    const vec ab = __builtin_shuffle(v[0], v[1], low_8) + __builtin_shuffle(v[0], v[1], low_8 + 8);
    const vec cd = __builtin_shuffle(v[2], v[3], low_8) + __builtin_shuffle(v[2], v[3], low_8 + 8);
    vec all = __builtin_shuffle(ab, cd, low_4) + __builtin_shuffle(ab, cd, low_4 + 4);
    all += __builtin_shuffle(all, by_2);
#else
    const ints low_4 = {0, 1, 2, 3, 8, 9, 10, 11}, low_2 = {0, 1, 4, 5, 8, 9, 12, 13};
    const ints by_1 = {1, 0, 3, 2, 5, 4, 7, 6};
    const vec ab = __builtin_shuffle(v[0], v[1], low_4) + __builtin_shuffle(v[0], v[1], low_4 + 4);
    const vec cd = __builtin_shuffle(v[2], v[3], low_4) + __builtin_shuffle(v[2], v[3], low_4 + 4);
    vec all = __builtin_shuffle(ab, cd, low_2) + __builtin_shuffle(ab, cd, low_2 + 2);
#endif
    return all + __builtin_shuffle(all, by_1);
}

/* e^x for x <= 0 to 2e-7 relative. */
static inline vec exponential(vec x) {
    x = pick(x < -87.0f, (vec){0} - 87.0f, x);
    vec whole = x * 1.44269504f + 12582912.0f; /* 1.5 * 2^23: rounds to the nearest whole number */
    whole = whole - 12582912.0f;
    const vec rest = x - whole * 0.693359375f + whole * 2.12194440e-4f;
    vec sum = rest * 1.9875691500e-4f + 1.3981999507e-3f;
    sum = sum * rest + 8.3334519073e-3f;
    sum = sum * rest + 4.1665795894e-2f;
    sum = sum * rest + 1.6666665459e-1f;
    sum = sum * rest + 5.0000001201e-1f;
    sum = sum * rest * rest + rest + 1.0f;
    const ints bits = (__builtin_convertvector(whole, ints) + 127) << 23;
    return sum * (vec)bits;
}

/* `rows` x OUTPUTS products; rows is a constant wherever this is inlined. */
static inline __attribute__((always_inline)) void tile(const float *x, const float *weight, const float *bias,
                                                       float *out, int64_t inputs, int64_t outputs, int rows,
                                                       int columns) {
    vec sum[ROWS][OUTPUTS];
    for (int r = 0; r < rows; r++)
        for (int o = 0; o < OUTPUTS; o++) sum[r][o] = (vec){0};
    const int64_t whole = inputs - inputs % LANES;
    for (int64_t i = 0; i < whole; i += LANES) {
        vec w[OUTPUTS];
        for (int o = 0; o < OUTPUTS; o++) w[o] = load(weight + (o < columns ? o : 0) * inputs + i);
        for (int r = 0; r < rows; r++) {
            const vec input = load(x + r * inputs + i);
            for (int o = 0; o < OUTPUTS; o++) sum[r][o] += input * w[o];
        }
    }
    if (whole < inputs)
        for (int r = 0; r < rows; r++) {
            const vec input = load_part(x + r * inputs + whole, inputs - whole);
            for (int o = 0; o < OUTPUTS; o++)
                sum[r][o] += input * load_part(weight + (o < columns ? o : 0) * inputs + whole, inputs - whole);
        }
    for (int r = 0; r < rows; r++) {
        const vec sums = sum_four(sum[r]);
        for (int o = 0; o < columns; o++) out[r * outputs + o] = sums[o * (LANES / OUTPUTS)] + (bias ? bias[o] : 0);
    }
}

static void tile_rows(const float *x, const float *weight, const float *bias, float *out, int64_t inputs,
                      int64_t outputs, int64_t rows, int columns) {
    int64_t r = 0;
    for (; r + ROWS <= rows; r += ROWS)
        tile(x + r * inputs, weight, bias, out + r * outputs, inputs, outputs, ROWS, columns);
    for (; r < rows; r++) tile(x + r * inputs, weight, bias, out + r * outputs, inputs, outputs, 1, columns);
}

void linear_rows(const float *x, const float *weight, const float *bias, float *out, int64_t num_rows, int64_t inputs,
                 int64_t outputs, int threads) {
    const int64_t row_blocks = (num_rows + ROW_BLOCK - 1) / ROW_BLOCK, tiles = (outputs + OUTPUTS - 1) / OUTPUTS;
#pragma omp parallel for collapse(2) schedule(static) num_threads(threads) if (threads > 1 && num_rows * inputs * outputs > 1 << 18)
    for (int64_t b = 0; b < row_blocks; b++)
        for (int64_t t = 0; t < tiles; t++) {
            const int64_t row = b * ROW_BLOCK, o = t * OUTPUTS;
            const int64_t rows = num_rows - row < ROW_BLOCK ? num_rows - row : ROW_BLOCK;
            const float *own = weight + o * inputs, *own_bias = bias ? bias + o : 0;
            float *target = out + row * outputs + o;
            if (outputs - o >= OUTPUTS)
                tile_rows(x + row * inputs, own, own_bias, target, inputs, outputs, rows, OUTPUTS);
            else
                tile_rows(x + row * inputs, own, own_bias, target, inputs, outputs, rows, (int)(outputs - o));
        }
}

void rms_norm_rows(const float *x, const float *weight, float *out, int64_t num_rows, int64_t size, float eps,
                   int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1 && num_rows * size > 1 << 15)
    for (int64_t r = 0; r < num_rows; r++) {
        const float *restrict row = x + r * size;
        float *restrict target = out + r * size;
        vec squares = {0};
        int64_t i = 0;
        for (; i + LANES <= size; i += LANES) squares += load(row + i) * load(row + i);
        if (i < size) {
            const vec rest = load_part(row + i, size - i);
            squares += rest * rest;
        }
        const float scale = 1 / sqrtf(sum_lanes(squares) / size + eps);
        for (i = 0; i < size; i++) target[i] = row[i] * scale * weight[i];
    }
}

void swiglu_rows(const float *gate, const float *up, float *out, int64_t num_rows, int64_t size, float beta,
                 int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1 && num_rows * size > 1 << 14)
    for (int64_t r = 0; r < num_rows; r++)
        for (int64_t i = 0; i < size; i += LANES) {
            const int64_t at = r * size + i, count = size - i < LANES ? size - i : LANES;
            const vec g = load_part(gate + at, count), u = load_part(up + at, count), z = beta * g;
            const vec e = exponential(pick(z > 0, -z, z));
            const vec result = g * (pick(z > 0, (vec){0} + 1, e) / (1 + e)) * u;
            memcpy(out + at, &result, count * sizeof(float));
        }
}

void swiglu_slopes(const float *gate, const float *up, const float *grad, float *gate_grad, float *up_grad,
                   int64_t num_rows, int64_t size, float beta, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1 && num_rows * size > 1 << 14)
    for (int64_t r = 0; r < num_rows; r++)
        for (int64_t i = 0; i < size; i += LANES) {
            const int64_t at = r * size + i, count = size - i < LANES ? size - i : LANES;
            const vec g = load_part(gate + at, count), u = load_part(up + at, count), d = load_part(grad + at, count);
            const vec z = beta * g, e = exponential(pick(z > 0, -z, z));
            const vec share = pick(z > 0, (vec){0} + 1, e) / (1 + e);
            const vec gate_slope = d * u * share * (1 + z * (1 - share)), up_slope = d * g * share;
            memcpy(gate_grad + at, &gate_slope, count * sizeof(float));
            memcpy(up_grad + at, &up_slope, count * sizeof(float));
        }
}

void logprob_rows(const float *x, const int64_t *targets, float *logprobs, float *normalizers, int64_t num_rows,
                  int64_t size, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1 && num_rows * size > 1 << 15)
    for (int64_t r = 0; r < num_rows; r++) {
        const float *restrict row = x + r * size;
        float peak = row[0];
        for (int64_t i = 1; i < size; i++) peak = row[i] > peak ? row[i] : peak;
        double total = 0;
        int64_t i = 0;
        while (i + LANES <= size) {
            vec sum = {0};
            for (int n = 0; n < 16 && i + LANES <= size; n++, i += LANES) sum += exponential(load(row + i) - peak);
            total += sum_lanes(sum);
        }
        if (i < size) {
            const vec rest = exponential(load_part(row + i, size - i) - peak);
            float lane[LANES];
            memcpy(lane, &rest, sizeof rest);
            for (int n = 0; n < size - i; n++) total += lane[n];
        }
        const double normalizer = peak + log(total);
        normalizers[r] = (float)normalizer;
        logprobs[r] = (float)(row[targets[r]] - normalizer);
    }
}
