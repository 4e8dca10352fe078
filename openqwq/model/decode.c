/* One pass of a whole Qwen2 decoder in fp32 for some tokens, each of its own row: embedding to logits in one call.
 *
 * Decoding a small model otherwise spends most of its time between operators. Nothing is allocated: all buffers are
 * the caller's. Attention and products with narrow weights are those of native.c, handed in as functions; in the
 * batch-invariant mode so is all that computes, as invariant.c and products.c do it.
 *
 * Letters: N tokens, C hidden, H heads, K kv heads, D head dim, I intermediate, V vocabulary, M positions.
 */
#include <math.h>
#include <omp.h>

#include "exponential.h"
#include "matmul.h"

#define BLOCK_BYTES (1 << 18) /* weights that all rows pass by before the next ones: they stay in a cache */
#define MAX_OUTPUTS 64
#define TOGETHER 8     /* tokens that attention takes at a time: those of one sequence share what they read */
#define MANY_TOKENS 64 /* fewer are taken one by one, so that threads share them evenly */

typedef void (*store_function)(const float *, const float *, float *, float *, const int32_t *, const int64_t *,
                               int64_t, int64_t, int, int, int);
typedef void (*attend_function)(const float *, const float *, const float *, const int32_t *, const int64_t *, float *,
                                int64_t, int64_t, int, int64_t, int, int, int, int);
typedef void (*panels_function)(int, int, const float *, const uint8_t *, const float *, const uint8_t *,
                                const float *, float *, int64_t, int64_t, int64_t, int64_t, int64_t, int);

typedef int (*some_function)(const float *, const float *, const float *, float *, int64_t, int64_t, int64_t, int64_t,
                             int64_t, int);
typedef void (*row_function)(const float *, const float *, float *, int64_t, float);
typedef void (*turn_function)(const float *, const float *, const float *, float *, int, int);

/* A linear layer: fp32 [outputs, inputs], or as linear_panels of native.c reads it. */
typedef struct {
    const void *weight;
    const float *bias, *scales;
    const uint8_t *zeros;
    int64_t inputs, outputs;
    int32_t kind, groups;
} matrix;

typedef struct {
    const float *input_norm, *post_norm;
    float *keys, *values;
    matrix q, k, v, o, gate, up, down;
} layer;

/* scratch: N * (2 C + (H + 2 K) D + 2 max(I, H D)) floats, or more. angles: [settings, M, 2, D]. */
typedef struct {
    const float *embedding, *norm, *angles;
    const layer *layers;
    matrix head;
    store_function store;
    attend_function attend;
    panels_function panels;
    some_function exact_times; /* null but in the batch-invariant mode, and then so are the next ones */
    row_function exact_norm, exact_gate;
    turn_function exact_turn;
    float *scratch, *logits;
    int64_t num_layers, hidden, intermediate, num_positions;
    int32_t heads, kv_heads, dim, block_size;
    float eps, beta;
} decoder;

#define PLAIN (-1) /* the kind of fp32 */
#define PANEL 8    /* native.c's */

/* The functions from here on are run by all threads, which share the work; those with a barrier at their end say so. */

/* out [N, O] (+)= x [N, I] weight^T [O, I] + bias */
static void times(const decoder *d, const matrix *m, const float *x, float *out, int64_t num_rows, int adds) {
    if (d->exact_times) {
        const int64_t threads = omp_get_num_threads(), own = (m->outputs + threads - 1) / threads;
        const int64_t first = omp_get_thread_num() * own, last = first + own < m->outputs ? first + own : m->outputs;
        if (!d->exact_times(x, m->weight, m->bias, out, m->inputs, m->outputs, num_rows, first, last, adds))
            for (int64_t o = first; o < last; o++) out[o] = NAN; /* no memory: the row cannot be sampled from */
        return;
    }
    const int64_t fits = BLOCK_BYTES / (m->inputs * (int64_t)sizeof(float)) / PANEL * PANEL;
    const int64_t step = fits < PANEL ? PANEL : fits > MAX_OUTPUTS ? MAX_OUTPUTS : fits;
#pragma omp for schedule(static) nowait
    for (int64_t first = 0; first < m->outputs; first += step) {
        const int64_t last = m->outputs - first < step ? m->outputs : first + step;
        if (m->kind == PLAIN)
            multiply_plain(x, m->weight, m->bias, out, m->inputs, m->outputs, num_rows, first, last, adds);
        else
            d->panels(m->kind, m->groups, x, m->weight, m->scales, m->zeros, m->bias, out, num_rows, m->inputs,
                      m->outputs, first / PANEL, (last + PANEL - 1) / PANEL, adds);
    }
}

/* Ends with a barrier. */
static void rms_norm(const decoder *d, const float *x, const float *weight, float *out, int64_t num_rows) {
    const int64_t size = d->hidden;
#pragma omp for schedule(static)
    for (int64_t n = 0; n < num_rows; n++) {
        if (d->exact_norm) {
            d->exact_norm(x + n * size, weight, out + n * size, size, d->eps);
            continue;
        }
        const float *restrict row = x + n * size;
        float *restrict target = out + n * size;
        float sum = 0;
        for (int64_t i = 0; i < size; i++) sum += row[i] * row[i];
        const float factor = 1 / sqrtf(sum / size + d->eps);
        for (int64_t i = 0; i < size; i++) target[i] = row[i] * factor * weight[i];
    }
}

/* y = x cos + roll(x, D/2) sin for every head, in place */
static void rotate(const decoder *d, float *restrict x, const float *restrict angles, int heads) {
    const float *restrict cosine = angles, *restrict sine = angles + d->dim;
    const int dim = d->dim, half = dim / 2;
    if (d->exact_turn) {
        d->exact_turn(x, cosine, sine, x, heads, dim);
        return;
    }
    for (int h = 0; h < heads; h++, x += dim)
        for (int i = 0; i < half; i++) {
            const float a = x[i], b = x[i + half];
            x[i] = a * cosine[i] + b * sine[i];
            x[i + half] = b * cosine[i + half] + a * sine[i + half];
        }
}

/* Ends with a barrier. */
static void swiglu(const decoder *d, float *restrict gate, const float *restrict up, int64_t num_rows) {
    const float beta = d->beta;
    if (d->exact_gate) {
#pragma omp for schedule(static)
        for (int64_t n = 0; n < num_rows; n++) {
            float *own = gate + n * d->intermediate;
            d->exact_gate(own, up + n * d->intermediate, own, d->intermediate, beta);
        }
        return;
    }
#pragma omp for schedule(static)
    for (int64_t i = 0; i < num_rows * d->intermediate; i++) {
        const float value = gate[i] / (1 + exponential(-beta * gate[i])) * up[i];
        gate[i] = gate[i] == gate[i] ? value : gate[i]; /* what is not a number stays none */
    }
}

typedef struct {
    const int64_t *tokens, *positions;
    const int32_t *tables;
    const uint8_t *scaled;
    int64_t num_rows, width;
} batch;

/* x [N, C] += attention(other [N, C]); ends with a barrier. */
static void attention(const decoder *d, const layer *l, const batch *b, const float *other, float *q, float *mixed,
                      float *x) {
    const int64_t q_size = (int64_t)d->heads * d->dim, kv_size = (int64_t)d->kv_heads * d->dim;
    float *k = q + b->num_rows * q_size, *v = k + b->num_rows * kv_size;
    times(d, &l->q, other, q, b->num_rows, 0);
    times(d, &l->k, other, k, b->num_rows, 0);
    times(d, &l->v, other, v, b->num_rows, 0);
#pragma omp barrier
#pragma omp for schedule(static)
    for (int64_t n = 0; n < b->num_rows; n++) {
        const int64_t place = (b->scaled && b->scaled[n] ? d->num_positions : 0) + b->positions[n];
        rotate(d, q + n * q_size, d->angles + place * 2 * d->dim, d->heads);
        rotate(d, k + n * kv_size, d->angles + place * 2 * d->dim, d->kv_heads);
        d->store(k, v, l->keys, l->values, b->tables, b->positions, n, b->width,
                 d->kv_heads, d->dim, d->block_size);
    }
    const int64_t step = b->num_rows < MANY_TOKENS ? 1 : TOGETHER;
#pragma omp for collapse(2) schedule(dynamic, 4)
    for (int64_t first = 0; first < b->num_rows; first += step)
        for (int k = 0; k < d->kv_heads; k++)
            d->attend(q, l->keys, l->values, b->tables, b->positions, mixed, first,
                      first + step < b->num_rows ? first + step : b->num_rows, k, b->width, d->heads, d->kv_heads,
                      d->dim, d->block_size);
    times(d, &l->o, mixed, x, b->num_rows, 1);
#pragma omp barrier
}

/* scaled: [N] which of two settings of the angles is each token's; null: the first. Logits of the first tokens only. */
void decode_rows(const decoder *d, const int64_t *tokens, const int64_t *positions, const int32_t *tables,
                 const uint8_t *scaled, int64_t num_rows, int64_t num_logits, int64_t width, int threads) {
    const batch b = {tokens, positions, tables, scaled, num_rows, width};
    const int64_t hidden = d->hidden, inner = d->intermediate;
    float *x = d->scratch, *other = x + num_rows * hidden, *q = other + num_rows * hidden;
    float *gate = q + num_rows * (d->heads + 2 * d->kv_heads) * d->dim;
    float *up = gate + num_rows * (inner > d->heads * d->dim ? inner : d->heads * d->dim);
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(static)
        for (int64_t n = 0; n < num_rows; n++)
            memcpy(x + n * hidden, d->embedding + tokens[n] * hidden, hidden * sizeof(float));
        for (const layer *l = d->layers; l < d->layers + d->num_layers; l++) {
            rms_norm(d, x, l->input_norm, other, num_rows);
            attention(d, l, &b, other, q, gate, x);
            rms_norm(d, x, l->post_norm, other, num_rows);
            times(d, &l->gate, other, gate, num_rows, 0);
            times(d, &l->up, other, up, num_rows, 0);
#pragma omp barrier
            swiglu(d, gate, up, num_rows);
            times(d, &l->down, gate, x, num_rows, 1);
#pragma omp barrier
        }
        rms_norm(d, x, d->norm, other, num_logits);
        times(d, &d->head, other, d->logits, num_logits, 0);
    }
}
