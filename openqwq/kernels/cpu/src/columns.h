/* Products for many tokens, whose activations lie by columns: a strip of up to STRIP tokens is [features, tokens], so
 * that a vector has one feature of LANES tokens, and a weight, read where it lies, is multiplied by all of them. Sums
 * run along the inputs in their order, RUN products at a time, with neither sums over lanes nor copies of weights.
 *
 * The strip that begins with token `first` begins at first * features: all strips before it are whole ones. What lies
 * behind the last token is 0 at first, and is never read for another token.
 */
#pragma once
#include <math.h>

#include "vectors.h"

#define LINED __attribute__((aligned(64))) /* a cache line holds a vector */
#define LINE 16                            /* floats of a cache line */
#define VECS 3
#define STRIP (VECS * LANES)
#if LANES == 16
#define HIGH 8 /* x VECS sums, and what they are made of, fill the vector registers */
#else
#define HIGH 4
#endif

/* Vectors of the strip that begins with token `first`. */
INLINE int strip_vecs(int64_t first, int64_t num_rows) {
    return (int)((smaller(num_rows - first, STRIP) + LANES - 1) / LANES);
}

/* sums [HIGH, vecs] = w [HIGH, depth] x [depth, vecs]; of w only `count` rows are there. vecs is a constant. Where
 * `ahead` is not 0, it is how far on those weights lie that are asked for early.
 */
INLINE void sum_lines(const float *w, int64_t stride, int count, const vec *x, vec *sums, int64_t depth, int64_t ahead,
                      int vecs) {
    const float *line[HIGH];
    _Pragma("GCC unroll 8") for (int r = 0; r < HIGH; r++) line[r] = w + (r < count ? r : 0) * stride;
    for (int64_t k = 0; k < depth;) {
        const int64_t begin = k, over = smaller(k + RUN, depth);
        vec sum[HIGH][VECS];
        _Pragma("GCC unroll 8") for (int r = 0; r < HIGH; r++)
            _Pragma("GCC unroll 3") for (int v = 0; v < vecs; v++) sum[r][v] = (vec){0};
        while (k < over) {
            if (ahead)
                _Pragma("GCC unroll 8") for (int r = 0; r < HIGH; r++) __builtin_prefetch(line[r] + k + ahead);
            for (const int64_t end = smaller(k + LINE, over); k < end; k++) {
                vec some[VECS];
                _Pragma("GCC unroll 3") for (int v = 0; v < vecs; v++) some[v] = x[k * vecs + v];
                _Pragma("GCC unroll 8") for (int r = 0; r < HIGH; r++) {
                    const float one = line[r][k];
                    _Pragma("GCC unroll 3") for (int v = 0; v < vecs; v++) sum[r][v] += some[v] * one;
                }
            }
        }
        _Pragma("GCC unroll 8") for (int r = 0; r < HIGH; r++)
            _Pragma("GCC unroll 3") for (int v = 0; v < vecs; v++)
                sums[r * vecs + v] = begin ? (vec)(sums[r * vecs + v] + sum[r][v]) : sum[r][v];
    }
}

#define SUM_LINES(vecs)                                                                                                \
    static __attribute__((noinline)) void sum_##vecs(const float *w, int64_t stride, int count, const vec *x,          \
                                                     vec *sums, int64_t depth, int64_t ahead) {                        \
        sum_lines(w, stride, count, x, sums, depth, ahead, vecs);                                                      \
    }
SUM_LINES(1)
SUM_LINES(2)
SUM_LINES(3)
static void (*const sum_some[])(const float *, int64_t, int, const vec *, vec *, int64_t, int64_t) = {0, sum_1, sum_2,
                                                                                                      sum_3};

/* out [size, vecs] = `count` lines of `size` numbers, one each column; 0 in the columns behind them */
static void to_columns(const float *const *lines, int count, int64_t size, vec *out, int vecs) {
    for (int v = 0; v < vecs; v++)
        for (int64_t i = 0; i < size; i += LANES) {
            const int64_t some = smaller(size - i, LANES);
            LINED vec part[LANES];
            for (int n = 0; n < LANES; n++) {
                const int column = v * LANES + n;
                part[n] = column >= count ? (vec){0} : some < LANES ? load_part(lines[column] + i, some)
                                                                     : load(lines[column] + i);
            }
            transpose(part);
            for (int64_t n = 0; n < some; n++) out[(i + n) * vecs + v] = part[n];
        }
}

/* `count` lines of at most LANES numbers, `stride` apart, or added to what is there */
INLINE void put_lines(vec *lines, int count, int64_t size, float *out, int64_t stride, int adds) {
    for (int n = 0; n < count; n++, out += stride) {
        if (adds) lines[n] += load_part(out, size);
        memcpy(out, &lines[n], size * sizeof(float));
    }
}

/* out [count, size] = x [size, vecs], or added to it; each column a line, `stride` from one to the next */
static void to_rows(const vec *x, int vecs, int count, int64_t size, float *out, int64_t stride, int adds) {
    for (int v = 0; v * LANES < count; v++)
        for (int64_t i = 0; i < size; i += LANES) {
            const int64_t some = smaller(size - i, LANES);
            const int lines = (int)smaller(count - v * LANES, LANES);
            float *place = out + v * LANES * stride + i;
            LINED vec part[LANES] = {0};
            for (int64_t n = 0; n < some; n++) part[n] = x[(i + n) * vecs + v];
            transpose(part);
            if (some == LANES) put_lines(part, lines, LANES, place, stride, adds); /* a constant: no calls */
            else put_lines(part, lines, some, place, stride, adds);
        }
}

INLINE void put_columns(const vec *x, vec *out, int count, int adds) {
    for (int i = 0; i < count; i++) out[i] = adds ? (vec)(x[i] + out[i]) : x[i];
}

/* x / rms(x) * weight of a strip [size, vecs] */
static void norm_columns(const vec *x, const float *weight, vec *out, int64_t size, int vecs, float eps) {
    vec factor[VECS];
    for (int v = 0; v < vecs; v++) {
        vec sum = {0};
        for (int64_t i = 0; i < size; i++) sum += x[i * vecs + v] * x[i * vecs + v];
        for (int n = 0; n < LANES; n++) factor[v][n] = 1 / sqrtf(sum[n] / size + eps);
    }
    for (int64_t i = 0; i < size; i++)
        for (int v = 0; v < vecs; v++) out[i * vecs + v] = x[i * vecs + v] * factor[v] * weight[i];
}
