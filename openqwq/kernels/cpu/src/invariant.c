/* Kernels of the batch-invariant mode, in fp32: what a row becomes depends on that row alone.
 *
 * Every sum runs over the lanes of vectors in an order that the row's length decides, by the same instructions for
 * each row; how many rows there are, which neighbours they have and which thread takes them changes no bit.
 * Compiled without any permission to reorder sums. Products are those of products.c.
 *
 * rms_norm_rows:  out [M, I] = x / sqrt(mean(x^2) + eps) * weight.
 * rms_norm_slopes: the gradients of x, and of the weight in PARTS sums, from that of out.
 * swiglu_rows:    out [M, I] = gate * sigmoid(beta * gate) * up.
 * swiglu_slopes:  the gradients of gate and up from that of out.
 * turn_rows:      out [M, H, D]: the heads of each row turned by its own cosines and signed sines [M, D] (rope.py).
 * logprob_rows:   out [M] = x[target] - logsumexp(x) of x [M, V], and the logsumexp itself.
 *
 * Those of one row, norm_row, swiglu_row and turn_row, may be called by themselves.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "vectors.h"

#define PARTS 16 /* of the rows, summed in order: as many for any number of threads */

/* The factor of a row before its weights. */
static __attribute__((noinline)) float norm_factor(const float *x, int64_t size, float eps) {
    vec squares = {0};
    int64_t i = 0;
    for (; i + LANES <= size; i += LANES) squares += load(x + i) * load(x + i);
    if (i < size) {
        const vec rest = load_part(x + i, size - i);
        squares += rest * rest;
    }
    return 1 / sqrtf(sum_lanes(squares) / size + eps);
}

void norm_row(const float *restrict x, const float *restrict weight, float *restrict out, int64_t size, float eps) {
    const float factor = norm_factor(x, size, eps);
    for (int64_t i = 0; i < size; i++) out[i] = x[i] * factor * weight[i];
}

void rms_norm_rows(const float *x, const float *weight, float *out, int64_t num_rows, int64_t size, float eps,
                   int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1 && num_rows * size > 1 << 15)
    for (int64_t r = 0; r < num_rows; r++) norm_row(x + r * size, weight, out + r * size, size, eps);
}

/* With f = factor: d x = f (g w - x f^2 mean(g w x)), d weight = sum of g x f. */
static void norm_slope(const float *restrict x, const float *restrict weight, const float *restrict grad,
                       float *restrict x_grad, float *restrict weight_grad, int64_t size, float eps) {
    const float factor = norm_factor(x, size, eps);
    vec sum = {0};
    int64_t i = 0;
    for (; i + LANES <= size; i += LANES) sum += load(grad + i) * load(weight + i) * load(x + i);
    float mean = sum_lanes(sum);
    for (; i < size; i++) mean += grad[i] * weight[i] * x[i];
    mean = mean / size * factor * factor;
    for (i = 0; i < size; i++) {
        weight_grad[i] += grad[i] * x[i] * factor;
        x_grad[i] = factor * (grad[i] * weight[i] - x[i] * mean);
    }
}

/* weight_grad: [PARTS, I] */
void rms_norm_slopes(const float *x, const float *weight, const float *grad, float *x_grad, float *weight_grad,
                     int64_t num_rows, int64_t size, float eps, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1 && num_rows * size > 1 << 15)
    for (int64_t part = 0; part < PARTS; part++) {
        memset(weight_grad + part * size, 0, size * sizeof(float));
        for (int64_t r = num_rows * part / PARTS; r < num_rows * (part + 1) / PARTS; r++)
            norm_slope(x + r * size, weight, grad + r * size, x_grad + r * size, weight_grad + part * size, size, eps);
    }
}

/* sigmoid */
INLINE vec share_of(vec z) {
    const vec e = exponential_below_0(pick(z > 0, -z, z));
    return pick(z > 0, (vec){0} + 1, e) / (1 + e);
}

/* out may be gate itself */
void swiglu_row(const float *gate, const float *up, float *out, int64_t size, float beta) {
    int64_t i = 0;
    for (; i + LANES <= size; i += LANES) {
        const vec g = load(gate + i);
        *(vec *)(out + i) = g * share_of(beta * g) * load(up + i);
    }
    if (i < size) {
        const vec g = load_part(gate + i, size - i), result = g * share_of(beta * g) * load_part(up + i, size - i);
        memcpy(out + i, &result, (size - i) * sizeof(float));
    }
}

void swiglu_rows(const float *gate, const float *up, float *out, int64_t num_rows, int64_t size, float beta,
                 int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1 && num_rows * size > 1 << 14)
    for (int64_t r = 0; r < num_rows; r++) swiglu_row(gate + r * size, up + r * size, out + r * size, size, beta);
}

INLINE void swiglu_slope(vec g, vec u, vec grad, float beta, vec *gate_grad, vec *up_grad) {
    const vec z = beta * g, share = share_of(z);
    *gate_grad = grad * u * share * (1 + z * (1 - share));
    *up_grad = grad * g * share;
}

void swiglu_slopes(const float *gate, const float *up, const float *grad, float *gate_grad, float *up_grad,
                   int64_t num_rows, int64_t size, float beta, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1 && num_rows * size > 1 << 14)
    for (int64_t r = 0; r < num_rows; r++) {
        int64_t i = r * size;
        const int64_t end = i + size;
        vec slopes[2];
        for (; i + LANES <= end; i += LANES) {
            swiglu_slope(load(gate + i), load(up + i), load(grad + i), beta, slopes, slopes + 1);
            *(vec *)(gate_grad + i) = slopes[0];
            *(vec *)(up_grad + i) = slopes[1];
        }
        if (i < end) {
            const int64_t rest = end - i;
            swiglu_slope(load_part(gate + i, rest), load_part(up + i, rest), load_part(grad + i, rest), beta, slopes,
                         slopes + 1);
            memcpy(gate_grad + i, slopes, rest * sizeof(float));
            memcpy(up_grad + i, slopes + 1, rest * sizeof(float));
        }
    }
}

/* out = x cos + roll(x, D/2) sin for every head; out may be x itself. */
void turn_row(const float *x, const float *cosine, const float *sine, float *out, int heads, int dim) {
    const int half = dim / 2;
    for (int h = 0; h < heads; h++, x += dim, out += dim) {
        int i = 0;
        for (; i + LANES <= half; i += LANES) {
            const vec a = load(x + i), b = load(x + half + i);
            *(vec *)(out + i) = a * load(cosine + i) + b * load(sine + i);
            *(vec *)(out + half + i) = b * load(cosine + half + i) + a * load(sine + half + i);
        }
        for (; i < half; i++) {
            const float a = x[i], b = x[half + i];
            out[i] = a * cosine[i] + b * sine[i];
            out[half + i] = b * cosine[half + i] + a * sine[half + i];
        }
    }
}

void turn_rows(const float *x, const float *cosines, const float *sines, float *out, int64_t num_rows, int heads,
               int dim, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1 && num_rows * heads * dim > 1 << 15)
    for (int64_t r = 0; r < num_rows; r++)
        turn_row(x + r * heads * dim, cosines + r * dim, sines + r * dim, out + r * heads * dim, heads, dim);
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
            for (int n = 0; n < 16 && i + LANES <= size; n++, i += LANES)
                sum += exponential_below_0(load(row + i) - peak);
            total += sum_lanes(sum);
        }
        if (i < size) {
            const vec rest = exponential_below_0(load_part(row + i, size - i) - peak);
            float lane[LANES];
            memcpy(lane, &rest, sizeof rest);
            for (int n = 0; n < size - i; n++) total += lane[n];
        }
        const double normalizer = peak + log(total);
        normalizers[r] = (float)normalizer;
        logprobs[r] = (float)(row[targets[r]] - normalizer);
    }
}
