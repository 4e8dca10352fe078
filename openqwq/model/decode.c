/* One pass of a whole Qwen2 decoder in fp32 for some tokens, each of its own row: embedding to logits in one call.
 *
 * Decoding a small model otherwise spends most of its time between operators. Nothing is allocated: all buffers are
 * the caller's. Attention of few tokens and their products with narrow weights are those of native.c, handed in as
 * functions; many tokens go by columns (decode_columns.h).
 */
#include <math.h>

#include "decode_columns.h"
#include "decoder.h"
#include "matmul.h"

#define BLOCK_BYTES (1 << 18) /* weights that all rows pass by before the next ones: they stay in a cache */
#define MAX_OUTPUTS 64
#define MANY_ROWS 16 /* from here on products by columns are the faster ones */

/* out [N, O] (+)= x [N, I] weight^T [O, I] + bias */
static void times(const decoder *d, const matrix *m, const float *x, float *out, int64_t num_rows, int adds) {
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
static void rms_norm(const float *x, const float *weight, float *out, int64_t num_rows, int64_t size, float eps) {
#pragma omp for schedule(static)
    for (int64_t n = 0; n < num_rows; n++) {
        const float *restrict row = x + n * size;
        float *restrict target = out + n * size;
        float sum = 0;
        for (int64_t i = 0; i < size; i++) sum += row[i] * row[i];
        const float factor = 1 / sqrtf(sum / size + eps);
        for (int64_t i = 0; i < size; i++) target[i] = row[i] * factor * weight[i];
    }
}

/* x [N, C] += attention(other [N, C]); ends with a barrier. */
static void attention(const decoder *d, const layer *l, const batch *b, const float *other, float *q, float *mixed,
                      float *x) {
    float *k = q + b->num_rows * d->heads * d->dim, *v = k + b->num_rows * d->kv_heads * d->dim;
    times(d, &l->q, other, q, b->num_rows, 0);
    times(d, &l->k, other, k, b->num_rows, 0);
    times(d, &l->v, other, v, b->num_rows, 0);
#pragma omp barrier
    place(d, l, b, q, k, v);
#pragma omp for collapse(2) schedule(dynamic, 4)
    for (int64_t n = 0; n < b->num_rows; n++)
        for (int k = 0; k < d->kv_heads; k++) see(d, l, b, q, mixed, n, n + 1, k);
    times(d, &l->o, mixed, x, b->num_rows, 1);
#pragma omp barrier
}

/* Logits [L, V] of the first L tokens, a token a row. */
static void decode_few(const decoder *d, const batch *b, int64_t num_logits) {
    const int64_t num_rows = b->num_rows, hidden = d->hidden, inner = d->intermediate;
    float *x = d->scratch, *other = x + num_rows * hidden, *q = other + num_rows * hidden;
    float *gate = q + num_rows * (d->heads + 2 * d->kv_heads) * d->dim;
    float *up = gate + num_rows * (inner > d->heads * d->dim ? inner : d->heads * d->dim);
#pragma omp for schedule(static)
    for (int64_t n = 0; n < num_rows; n++)
        memcpy(x + n * hidden, d->embedding + b->tokens[n] * hidden, hidden * sizeof(float));
    for (const layer *l = d->layers; l < d->layers + d->num_layers; l++) {
        rms_norm(x, l->input_norm, other, num_rows, hidden, d->eps);
        attention(d, l, b, other, q, gate, x);
        rms_norm(x, l->post_norm, other, num_rows, hidden, d->eps);
        times(d, &l->gate, other, gate, num_rows, 0);
        times(d, &l->up, other, up, num_rows, 0);
#pragma omp barrier
        swiglu(gate, up, num_rows * inner, d->beta);
        times(d, &l->down, gate, x, num_rows, 1);
#pragma omp barrier
    }
    rms_norm(x, d->norm, other, num_logits, hidden, d->eps);
    times(d, &d->head, other, d->logits, num_logits, 0);
}

/* scaled: [N] which of two settings of the angles is each token's; null: the first. Logits of the first tokens only. */
void decode_rows(const decoder *d, const int64_t *tokens, const int64_t *positions, const int32_t *tables,
                 const uint8_t *scaled, int64_t num_rows, int64_t num_logits, int64_t width, int threads) {
    const batch b = {tokens, positions, tables, scaled, num_rows, width};
#pragma omp parallel num_threads(threads)
    if (num_rows < MANY_ROWS) decode_few(d, &b, num_logits);
    else decode_many(d, &b, num_logits);
}
