/* What the passes of decode.c have in common.
 *
 * Letters: N tokens, C hidden, H heads, K kv heads, D head dim, I intermediate, V vocabulary, M positions.
 */
#pragma once
#include <math.h>

#include "exponential.h"
#include "packed.h"

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
    const float *input_norm, *post_norm, *q_norm, *k_norm; /* the last two: null where heads are not normalised */
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

/* The functions from here on are run by all threads, which share the work; those with a barrier at their end say so. */

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

/* Every head over its root mean square, times the weight [D], in place */
static void norm_heads(const decoder *d, float *x, const float *restrict weight, int heads) {
    for (int h = 0; h < heads; h++, x += d->dim) {
        if (d->exact_norm) {
            d->exact_norm(x, weight, x, d->dim, d->eps);
            continue;
        }
        float sum = 0;
        for (int i = 0; i < d->dim; i++) sum += x[i] * x[i];
        const float factor = 1 / sqrtf(sum / d->dim + d->eps);
        for (int i = 0; i < d->dim; i++) x[i] = x[i] * factor * weight[i];
    }
}

/* Keys and queries, if there are some, turned to their positions, keys and values put away; ends with a barrier. */
static void place(const decoder *d, const layer *l, const batch *b, float *q, float *k, const float *v) {
    const int64_t q_size = (int64_t)d->heads * d->dim, kv_size = (int64_t)d->kv_heads * d->dim;
#pragma omp for schedule(static)
    for (int64_t n = 0; n < b->num_rows; n++) {
        const int64_t place = (b->scaled && b->scaled[n] ? d->num_positions : 0) + b->positions[n];
        if (q && l->q_norm) norm_heads(d, q + n * q_size, l->q_norm, d->heads);
        if (l->k_norm) norm_heads(d, k + n * kv_size, l->k_norm, d->kv_heads);
        if (q) rotate(d, q + n * q_size, d->angles + place * 2 * d->dim, d->heads);
        rotate(d, k + n * kv_size, d->angles + place * 2 * d->dim, d->kv_heads);
        d->store(k, v, l->keys, l->values, b->tables, b->positions, n, b->width,
                 d->kv_heads, d->dim, d->block_size);
    }
}

/* What the heads of kv head k of the tokens `first` to `last` see. */
static void see(const decoder *d, const layer *l, const batch *b, const float *q, float *mixed, int64_t first,
                int64_t last, int k) {
    d->attend(q, l->keys, l->values, b->tables, b->positions, mixed, first, last, k, b->width, d->heads, d->kv_heads,
              d->dim, d->block_size);
}
