/* One pass of a whole Qwen2 decoder in fp32 for a few tokens, each of its own row: embedding to logits in one call.
 *
 * Single-stream decoding of a small model otherwise spends most of its time between operators. Nothing is allocated:
 * all buffers are the caller's. Attention is attend_paged of native.c, handed in as a function.
 *
 * Letters: N tokens, C hidden, H heads, K kv heads, D head dim, I intermediate, V vocabulary, M positions.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "exponential.h"

#define LANES 16
#define OUTPUTS 4
#define POINTERS 14 /* a layer: norm, q, qb, k, kb, v, vb, o, norm, gate, up, down, keys, values */

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

typedef void (*attend_function)(const float *, const float *, const float *, float *, float *, const int32_t *,
                                const int64_t *, float *, int64_t, int64_t, int, int, int, int, int);

/* scratch: N * (2 C + (H + 2 K) D + 2 I) floats, or more. angles: [settings, M, 2, D] cosines and signed sines. */
typedef struct {
    const void *embedding, *layers, *norm, *head, *angles;
    attend_function attend;
    float *scratch, *logits;
    int64_t num_layers, hidden, intermediate, vocab, num_positions;
    int32_t heads, kv_heads, dim, block_size;
    float eps, beta;
} decoder;

static inline float sum_lanes(vec v) {
    float lane[LANES];
    memcpy(lane, &v, sizeof v);
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++) lane[i] += lane[i + half];
    return lane[0];
}

/* rows x outs dot products; both are constants where it is called, so that the sums stay in registers */
static inline __attribute__((always_inline)) void products(const float *x, const float *w, const float *bias, float *out,
                                                           int64_t inputs, int64_t outputs, int rows, int outs) {
    vec sum[4][OUTPUTS];
    for (int n = 0; n < rows; n++)
        for (int o = 0; o < outs; o++) sum[n][o] = (vec){0};
    int64_t i = 0;
    for (; i + LANES <= inputs; i += LANES)
        for (int o = 0; o < outs; o++) {
            const vec weight = *(const vec *)(w + o * inputs + i);
            for (int n = 0; n < rows; n++) sum[n][o] += *(const vec *)(x + n * inputs + i) * weight;
        }
    for (int n = 0; n < rows; n++)
        for (int o = 0; o < outs; o++) {
            float total = sum_lanes(sum[n][o]);
            for (int64_t rest = i; rest < inputs; rest++) total += x[n * inputs + rest] * w[o * inputs + rest];
            out[n * outputs + o] = total + (bias ? bias[o] : 0);
        }
}

#define PRODUCTS(rows, outs)                                                                                           \
    products(x + n * inputs, w + o * inputs, bias ? bias + o : 0, out + n * outputs + o, inputs, outputs, rows, outs)

/* out [N, O] = x [N, I] weight^T [O, I] + bias */
static void linear(const float *x, const float *w, const float *bias, float *out, int64_t num_rows, int64_t inputs,
                   int64_t outputs, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1 && inputs * outputs > 1 << 15)
    for (int64_t o = 0; o < outputs; o += OUTPUTS) {
        int64_t n = 0;
        if (o + OUTPUTS <= outputs) {
            for (; n + 4 <= num_rows; n += 4) PRODUCTS(4, OUTPUTS);
            for (; n + 2 <= num_rows; n += 2) PRODUCTS(2, OUTPUTS);
            for (; n < num_rows; n++) PRODUCTS(1, OUTPUTS);
        } else {
            const int64_t first = o;
            for (; n < num_rows; n++)
                for (int64_t o = first; o < outputs; o++) PRODUCTS(1, 1);
        }
    }
}

static void rms_norm(const float *x, const float *weight, float *out, int64_t num_rows, int64_t size, float eps) {
    for (int64_t n = 0; n < num_rows; n++, x += size, out += size) {
        float sum = 0;
        for (int64_t i = 0; i < size; i++) sum += x[i] * x[i];
        const float factor = 1 / sqrtf(sum / size + eps);
        for (int64_t i = 0; i < size; i++) out[i] = x[i] * factor * weight[i];
    }
}

/* y = x cos + roll(x, D/2) sin for every head, in place */
static void rotate(float *x, const float *angles, int heads, int dim) {
    const float *cosine = angles, *sine = angles + dim;
    const int half = dim / 2;
    for (int h = 0; h < heads; h++, x += dim)
        for (int i = 0; i < half; i++) {
            const float a = x[i], b = x[i + half];
            x[i] = a * cosine[i] + b * sine[i];
            x[i + half] = b * cosine[i + half] + a * sine[i + half];
        }
}

static void swiglu(float *restrict gate, const float *restrict up, int64_t size, float beta) {
    for (int64_t i = 0; i < size; i++) {
        const float value = gate[i] / (1 + exponential(-beta * gate[i])) * up[i];
        gate[i] = gate[i] == gate[i] ? value : gate[i]; /* what is not a number stays none */
    }
}

static void add(float *restrict x, const float *restrict y, int64_t size) {
    for (int64_t i = 0; i < size; i++) x[i] += y[i];
}

/* scaled: [N] which of two settings of the angles is each token's; null: the first. */
void decode_rows(const decoder *d, const int64_t *tokens, const int64_t *positions, const int32_t *tables,
                 const uint8_t *scaled, int64_t num_rows, int64_t width, int threads) {
    const int64_t hidden = d->hidden, inner = d->intermediate, q_size = (int64_t)d->heads * d->dim;
    const int64_t kv_size = (int64_t)d->kv_heads * d->dim;
    float *x = d->scratch, *other = x + num_rows * hidden, *q = other + num_rows * hidden;
    float *k = q + num_rows * q_size, *v = k + num_rows * kv_size, *gate = v + num_rows * kv_size;
    float *up = gate + num_rows * inner;
    for (int64_t n = 0; n < num_rows; n++)
        memcpy(x + n * hidden, (const float *)d->embedding + tokens[n] * hidden, hidden * sizeof(float));
    for (int64_t layer = 0; layer < d->num_layers; layer++) {
        float *const *p = (float *const *)d->layers + layer * POINTERS;
        rms_norm(x, p[0], other, num_rows, hidden, d->eps);
        linear(other, p[1], p[2], q, num_rows, hidden, q_size, threads);
        linear(other, p[3], p[4], k, num_rows, hidden, kv_size, threads);
        linear(other, p[5], p[6], v, num_rows, hidden, kv_size, threads);
        for (int64_t n = 0; n < num_rows; n++) {
            const int64_t place = (scaled && scaled[n] ? d->num_positions : 0) + positions[n];
            const float *angles = (const float *)d->angles + place * 2 * d->dim;
            rotate(q + n * q_size, angles, d->heads, d->dim);
            rotate(k + n * kv_size, angles, d->kv_heads, d->dim);
        }
        d->attend(q, k, v, p[12], p[13], tables, positions, gate, num_rows, width, d->heads, d->kv_heads, d->dim,
                  d->block_size, threads);
        linear(gate, p[7], 0, other, num_rows, q_size, hidden, threads);
        add(x, other, num_rows * hidden);
        rms_norm(x, p[8], other, num_rows, hidden, d->eps);
        linear(other, p[9], 0, gate, num_rows, hidden, inner, threads);
        linear(other, p[10], 0, up, num_rows, hidden, inner, threads);
        swiglu(gate, up, num_rows * inner, d->beta);
        linear(gate, p[11], 0, other, num_rows, inner, hidden, threads);
        add(x, other, num_rows * hidden);
    }
    rms_norm(x, d->norm, other, num_rows, hidden, d->eps);
    linear(other, d->head, 0, d->logits, num_rows, hidden, d->vocab, threads);
}
