/* A decoder's pass for many tokens, by columns (columns.h); queries, keys, values and what they mix to are a token a
 * row. Attention and what comes after it take a group of tokens at a time. The letters are decoder.h's.
 */
#pragma once
#include "attend_columns.h"
#include "columns.h"
#include "decoder.h"

#define MANY_TOKENS 6     /* of one sequence in a strip: from here on attention by columns is the faster one */
#define GROUP (4 * STRIP) /* tokens whose activations stay in a cache while a layer's weights pass by */
#define TOGETHER LANES    /* outputs whose sums are taken together: as many as a line of a cache holds */
#define DEPTH (4 * BLOCK) /* inputs that are taken at a time: a group's stay in a cache */

/* Weights [TOGETHER, depth] of the outputs from o on and the inputs from k on, in fp32; `room` is for narrow ones. */
static const float *find_weights(const matrix *m, int64_t o, int64_t k, int64_t depth, float *room) {
    if (m->kind == PLAIN) return (const float *)m->weight + o * m->inputs + k;
    const int kind = m->kind, groups = m->groups;
    for (int64_t p = 0; p < smaller(TOGETHER, m->outputs - o); p += PANEL) {
        const int64_t first = ((o + p) / PANEL * (m->inputs / BLOCK) + k / BLOCK) * PANEL;
        const uint8_t *codes = (const uint8_t *)m->weight + first * code_bytes(kind);
        const uint8_t *zeros = m->zeros + first * groups;
        const float *scales = m->scales + first * groups;
#define WIDEN(kind, groups) widen_panel(kind, groups, codes, scales, zeros, room + p * depth, depth / BLOCK)
        SPECIALISE(WIDEN);
#undef WIDEN
    }
    return room;
}

/* sums [count, vecs] of the outputs from o on, scaled, and with the bias where they are of the first inputs */
static void finish(const matrix *m, vec *sums, int64_t o, int count, int vecs, int first_part) {
    if (m->kind == INT8)
        for (int i = 0; i < count * vecs; i++) sums[i] *= m->scales[o + i / vecs];
    if (first_part && m->bias)
        for (int i = 0; i < count * vecs; i++) sums[i] += m->bias[o + i / vecs];
}

/* out (+)= x weight^T + bias for the N tokens of a group: x [N, I] by columns, out [N, O] likewise, or, where `rows` is
 * not 0, the first so many tokens a row each.
 */
static void times_columns(const matrix *m, const float *x, float *out, int64_t num_rows, int64_t rows, int adds) {
    for (int64_t k = 0; k < m->inputs; k += DEPTH) {
        const int64_t depth = smaller(m->inputs - k, DEPTH), stride = m->kind == PLAIN ? m->inputs : depth;
        const int64_t end = rows ? rows : num_rows;
        const int more = adds || k > 0;
#pragma omp for schedule(static) nowait
        for (int64_t o = 0; o < m->outputs; o += TOGETHER) {
            LINED float room[TOGETHER * DEPTH];
            const float *weights = find_weights(m, o, k, depth, room);
            const int count = (int)smaller(m->outputs - o, TOGETHER);
            for (int64_t first = 0; first < end; first += STRIP) {
                LINED vec sums[TOGETHER * VECS];
                const int vecs = strip_vecs(first, num_rows);
                const vec *strip = (const vec *)(x + first * m->inputs) + k * vecs;
                float *target = out + first * m->outputs;
                for (int r = 0; r < count; r += HIGH)
                    sum_some[vecs](weights + r * stride, stride, count - r, strip, sums + r * vecs, depth,
                                   first || m->kind != PLAIN ? 0 : HIGH * stride);
                finish(m, sums, o, count, vecs, k == 0);
                if (rows)
                    to_rows(sums, vecs, (int)smaller(end - first, STRIP), count, target + o, m->outputs, more);
                else
                    put_columns(sums, (vec *)target + o * vecs, count * vecs, more);
            }
        }
    }
}

/* The norm of the N tokens of a group; ends with a barrier. */
static void norm_group(const decoder *d, const float *x, const float *weight, float *out, int64_t num_rows) {
#pragma omp for schedule(static)
    for (int64_t first = 0; first < num_rows; first += STRIP)
        norm_columns((const vec *)(x + first * d->hidden), weight, (vec *)(out + first * d->hidden), d->hidden,
                     strip_vecs(first, num_rows), d->eps);
}

/* The batch of the tokens from `first` on, GROUP at most. */
static batch group_of(const batch *b, int64_t first) {
    return (batch){b->tokens + first, b->positions + first, b->tables + first * b->width,
                   b->scaled ? b->scaled + first : 0, smaller(b->num_rows - first, GROUP), b->width};
}

/* What head h of the tokens of a group from `first` on, a strip of them, sees. */
static void see_strip(const decoder *d, const layer *l, const batch *b, const float *q, float *mixed, int64_t first,
                      int h) {
    const int k = h * d->kv_heads / d->heads;
    const int64_t head = (int64_t)d->block_size * d->dim, line = (int64_t)d->heads * d->dim;
    const int fits = d->dim % HIGH == 0 && d->block_size % HIGH == 0 && KEYS % d->block_size == 0;
    const int64_t last = smaller(first + STRIP, b->num_rows);
    for (int64_t n = first, end; n < last; n = end) {
        const int32_t *table = b->tables + n * b->width;
        for (end = n + 1; end < last; end++)
            if (memcmp(table, table + (end - n) * b->width, b->width * sizeof(int32_t))) break;
        if (end - n >= MANY_TOKENS && fits) {
            const sight s = {l->keys + k * head, l->values + k * head, table, b->positions + n, d->kv_heads * head,
                             (int)(end - n), d->dim, d->block_size};
            attend_strip(&s, q + n * line + h * d->dim, mixed + n * line + h * d->dim, line);
        } else if (h % (d->heads / d->kv_heads) == 0)
            see(d, l, b, q, mixed, n, end, k);
    }
}

/* x [N, C] += attention(q [N, H, D]), a group's; mixed is by rows, other and x by columns. Ends with a barrier. */
static void attend_group(const decoder *d, const layer *l, const batch *b, const float *q, float *mixed, float *other,
                         float *x) {
    const int64_t line = (int64_t)d->heads * d->dim;
#pragma omp for collapse(2) schedule(dynamic)
    for (int64_t first = 0; first < b->num_rows; first += STRIP)
        for (int h = 0; h < d->heads; h++) see_strip(d, l, b, q, mixed, first, h);
#pragma omp for schedule(static)
    for (int64_t first = 0; first < b->num_rows; first += STRIP) {
        const float *lines[STRIP];
        const int tokens = (int)smaller(b->num_rows - first, STRIP);
        for (int n = 0; n < tokens; n++) lines[n] = mixed + (first + n) * line;
        to_columns(lines, tokens, line, (vec *)(other + first * line), strip_vecs(first, b->num_rows));
    }
    times_columns(&l->o, other, x, b->num_rows, 0, 1);
#pragma omp barrier
}

/* Logits [L, V] of the first L tokens; without any, nothing is computed that only they need. */
static void decode_many(const decoder *d, const batch *b, int64_t num_logits) {
    const int64_t num_rows = b->num_rows, hidden = d->hidden, q_size = (int64_t)d->heads * d->dim;
    const int64_t padded = (num_rows + LANES - 1) / LANES * LANES, most = smaller(padded, GROUP);
    float *x = d->scratch, *q = x + padded * hidden, *other = q + padded * q_size, *k = other + most * hidden;
    float *v = k + most * d->kv_heads * d->dim, *gate = v + most * d->kv_heads * d->dim;
    float *up = gate + most * (d->intermediate > q_size ? d->intermediate : q_size);
#pragma omp for schedule(static)
    for (int64_t first = 0; first < num_rows; first += STRIP) {
        const float *lines[STRIP];
        const int tokens = (int)smaller(num_rows - first, STRIP);
        for (int n = 0; n < tokens; n++) lines[n] = d->embedding + b->tokens[first + n] * hidden;
        to_columns(lines, tokens, hidden, (vec *)(x + first * hidden), strip_vecs(first, num_rows));
    }
    for (const layer *l = d->layers; l < d->layers + d->num_layers; l++) {
        const int done = l == d->layers + d->num_layers - 1 && !num_logits;
        for (int64_t first = 0; first < num_rows; first += GROUP) {
            const batch group = group_of(b, first);
            norm_group(d, x + first * hidden, l->input_norm, other, group.num_rows);
            if (!done) times_columns(&l->q, other, q + first * q_size, group.num_rows, group.num_rows, 0);
            times_columns(&l->k, other, k, group.num_rows, group.num_rows, 0);
            times_columns(&l->v, other, v, group.num_rows, group.num_rows, 0);
#pragma omp barrier
            place(d, l, &group, done ? 0 : q + first * q_size, k, v);
        }
        if (done) break;
        for (int64_t first = 0; first < num_rows; first += GROUP) {
            const batch group = group_of(b, first);
            const int64_t tokens = group.num_rows, whole = (tokens + LANES - 1) / LANES * LANES;
            float *own = x + first * hidden;
            attend_group(d, l, &group, q + first * q_size, gate, up, own);
            norm_group(d, own, l->post_norm, other, tokens);
            times_columns(&l->gate, other, gate, tokens, 0, 0);
            times_columns(&l->up, other, up, tokens, 0, 0);
#pragma omp barrier
            swiglu(d, gate, up, whole);
            times_columns(&l->down, gate, own, tokens, 0, 1);
#pragma omp barrier
        }
    }
    for (int64_t first = 0; first < num_logits; first += GROUP) {
        const int64_t tokens = smaller(num_rows - first, GROUP), wanted = smaller(num_logits - first, GROUP);
        norm_group(d, x + first * hidden, d->norm, other, tokens);
        times_columns(&d->head, other, d->logits + first * d->head.outputs, tokens, wanted, 0);
#pragma omp barrier
    }
}
