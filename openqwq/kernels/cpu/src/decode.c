/* One pass of a whole decoder in fp32 for some tokens, each of its own row: embedding to logits in one call.
 *
 * Decoding a small model otherwise spends most of its time between operators. Nothing is allocated: all buffers are
 * the caller's. Attention of few tokens and their products with narrow weights are those of native.c, handed in as
 * functions; many tokens go by columns (decode_columns.h). In the batch-invariant mode all that computes is handed in.
 */
#include <math.h>
#include <omp.h>

#include "decode_columns.h"
#include "decoder.h"
#include "matmul.h"

#define BLOCK_BYTES (1 << 18) /* weights that all rows pass by before the next ones: they stay in a cache */
#define MAX_OUTPUTS 64
#define MANY_ROWS 16 /* from here on products by columns are the faster ones */

/* out [N, O] (+)= x [N, I] weight^T [O, I] + bias */
static void times(const decoder *d, const matrix *m, const float *x, float *out, int64_t num_rows, int adds) {
    if (d->exact_times) {
        const int64_t threads = omp_get_num_threads(), own = (m->outputs + threads - 1) / threads;
        const int64_t first = omp_get_thread_num() * own, last = first + own < m->outputs ? first + own : m->outputs;
        if (!d->exact_times(x, m->weight, m->bias, out, m->inputs, m->outputs, num_rows, first, last, adds))
            for (int64_t i = 0; i < num_rows * m->outputs; i++) /* no memory: no row can be sampled from */
                if (i % m->outputs >= first && i % m->outputs < last) out[i] = NAN;
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

/* x [N, C] += attention(other [N, C]); ends with a barrier. */
static void attention(const decoder *d, const layer *l, const batch *b, const float *other, float *q, float *mixed,
                      float *x) {
    float *k = q + b->num_rows * d->heads * d->dim, *v = k + b->num_rows * d->kv_heads * d->dim;
    times(d, &l->q, other, q, b->num_rows, 0);
    times(d, &l->k, other, k, b->num_rows, 0);
    times(d, &l->v, other, v, b->num_rows, 0);
#pragma omp barrier
    place(d, l, b, q, k, v);
    const int64_t step = b->num_rows < MANY_ROWS ? 1 : 8; /* tokens of one sequence share what they read */
#pragma omp for collapse(2) schedule(dynamic, 4)
    for (int64_t n = 0; n < b->num_rows; n += step)
        for (int k = 0; k < d->kv_heads; k++) see(d, l, b, q, mixed, n, smaller(b->num_rows, n + step), k);
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
        rms_norm(d, x, l->input_norm, other, num_rows);
        attention(d, l, b, other, q, gate, x);
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

/* scaled: [N] which of two settings of the angles is each token's; null: the first. Logits of the first tokens only. */
void decode_rows(const decoder *d, const int64_t *tokens, const int64_t *positions, const int32_t *tables,
                 const uint8_t *scaled, int64_t num_rows, int64_t num_logits, int64_t width, int threads) {
    const batch b = {tokens, positions, tables, scaled, num_rows, width};
#pragma omp parallel num_threads(threads)
    if (num_rows < MANY_ROWS || d->exact_times) decode_few(d, &b, num_logits);
    else decode_many(d, &b, num_logits);
}
