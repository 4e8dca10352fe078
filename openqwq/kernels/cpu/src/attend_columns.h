/* Attention of many tokens of one sequence over a paged cache, by columns (columns.h): what a query head of a strip of
 * tokens sees. A vector has the scores of LANES tokens for one key, so that softmax needs no sums over lanes, and keys
 * and values are read where they lie. As in native.c, one pass with a running maximum (arXiv:1805.02867).
 */
#pragma once
#include <float.h>

#include "columns.h"

#define MAX_DIM 256
#define KEYS 64 /* keys that are taken at a time: some blocks of them */
#define LOG2_E 1.44269504f

/* out [HIGH, vecs] = out * shrink + values [size, HIGH]^T shares [size, vecs]; the values lie in blocks. */
INLINE void mix_lines(const float *const *blocks, int block_size, int64_t offset, int dim, const vec *shares,
                      const vec *shrink, vec *out, int size, int vecs) {
    vec sum[HIGH][VECS];
    _Pragma("GCC unroll 8") for (int r = 0; r < HIGH; r++)
        _Pragma("GCC unroll 3") for (int v = 0; v < vecs; v++) sum[r][v] = out[r * vecs + v] * shrink[v];
    for (int k = 0; k < size;) {
        const float *x = *blocks++ + offset;
        for (const int end = (int)smaller(k + block_size, size); k < end; k++, x += dim) {
            vec some[VECS];
            _Pragma("GCC unroll 3") for (int v = 0; v < vecs; v++) some[v] = shares[k * vecs + v];
            _Pragma("GCC unroll 8") for (int r = 0; r < HIGH; r++) {
                const float one = x[r];
                _Pragma("GCC unroll 3") for (int v = 0; v < vecs; v++) sum[r][v] += some[v] * one;
            }
        }
    }
    _Pragma("GCC unroll 8") for (int r = 0; r < HIGH; r++)
        _Pragma("GCC unroll 3") for (int v = 0; v < vecs; v++) out[r * vecs + v] = sum[r][v];
}

/* The scores [size, vecs] become weights, the largest of them so far 1; keys that a token does not see weigh 0. */
INLINE void weigh(vec *scores, int64_t start, int size, const ints *places, int64_t least, vec *peak, vec *total,
                  vec *shrink, int vecs) {
    if (start + size - 1 > least)
        for (int k = 0; k < size; k++)
            for (int v = 0; v < vecs; v++)
                scores[k * vecs + v] = pick(places[v] < (int32_t)(start + k), (vec){0} - FLT_MAX, scores[k * vecs + v]);
    for (int v = 0; v < vecs; v++) shrink[v] = peak[v];
    for (int k = 0; k < size; k++)
        for (int v = 0; v < vecs; v++) peak[v] = larger(scores[k * vecs + v], peak[v]);
    for (int v = 0; v < vecs; v++) total[v] *= shrink[v] = power_of_2(shrink[v] - peak[v]);
    for (int k = 0; k < size; k++)
        for (int v = 0; v < vecs; v++) total[v] += scores[k * vecs + v] = power_of_2(scores[k * vecs + v] - peak[v]);
}

typedef struct {
    const float *keys, *values; /* of this head in block 0 */
    const int32_t *table;
    const int64_t *positions; /* of the tokens */
    int64_t stride;           /* from a block to the next */
    int count, dim, block_size;
} sight;

INLINE void attend_lines(const sight *s, const vec *query, vec *out, int vecs) {
    LINED vec scores[KEYS * VECS];
    vec peak[VECS], total[VECS], shrink[VECS];
    ints places[VECS];
    int64_t least = s->positions[0], longest = least;
    for (int v = 0; v < vecs; v++) {
        peak[v] = (vec){0} - FLT_MAX, total[v] = (vec){0};
        for (int n = 0; n < LANES; n++) {
            const int64_t place = s->positions[smaller(v * LANES + n, s->count - 1)];
            places[v][n] = (int32_t)place;
            least = smaller(least, place);
            longest = place > longest ? place : longest;
        }
    }
    for (int i = 0; i < s->dim * vecs; i++) out[i] = (vec){0};
    for (int64_t start = 0; start <= longest; start += KEYS) {
        const int size = (int)smaller(longest + 1 - start, KEYS);
        const float *values[KEYS / HIGH];
        for (int k = 0, block = 0; k < size; block++) {
            const int64_t place = (int64_t)s->table[start / s->block_size + block] * s->stride;
            const float *keys = s->keys + place;
            values[block] = s->values + place;
            for (const int end = (int)smaller(k + s->block_size, size); k < end; k += HIGH, keys += HIGH * s->dim)
                sum_lines(keys, s->dim, (int)smaller(end - k, HIGH), query, scores + k * vecs, s->dim, 0, vecs);
        }
        weigh(scores, start, size, places, least, peak, total, shrink, vecs);
        for (int d = 0; d < s->dim; d += HIGH)
            mix_lines(values, s->block_size, d, s->dim, scores, shrink, out + d * vecs, size, vecs);
    }
    for (int i = 0; i < s->dim; i++)
        for (int v = 0; v < vecs; v++) out[i * vecs + v] /= total[v];
}
#define ATTEND_LINES(vecs)                                                                                             \
    static __attribute__((noinline)) void attend_##vecs(const sight *s, const vec *query, vec *out) {                  \
        attend_lines(s, query, out, vecs);                                                                             \
    }
ATTEND_LINES(1)
ATTEND_LINES(2)
ATTEND_LINES(3)

/* One head of the tokens of `s`, at most STRIP; their queries and what they see lie `stride` apart. */
static void attend_strip(const sight *s, const float *q, float *out, int64_t stride) {
    static void (*const attend_some[])(const sight *, const vec *, vec *) = {0, attend_1, attend_2, attend_3};
    const int vecs = strip_vecs(0, s->count);
    const float *lines[STRIP];
    LINED vec query[MAX_DIM * VECS], mixed[MAX_DIM * VECS];
    for (int n = 0; n < s->count; n++) lines[n] = q + n * stride;
    to_columns(lines, s->count, s->dim, query, vecs);
    for (int i = 0; i < s->dim * vecs; i++) query[i] *= LOG2_E / sqrtf((float)s->dim);
    attend_some[vecs](s, query, mixed);
    to_rows(mixed, vecs, s->count, s->dim, out, stride, 0);
}
