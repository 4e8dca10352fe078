/* Products of some rows with a matrix in fp32 whose rows are its outputs: each is read where it lies. A row's sums are
 * the same, bit for bit, whatever other rows there are, where sums may not be reordered.
 */
#pragma once
#include "vectors.h"

#define OUTPUTS 4 /* x ROWS sums fill the vector registers */
#define AHEAD 2   /* tiles: weights that are asked for early; one row alone reads them in order, as processors expect */
#if LANES == 16
#define ROWS 6
#else
#define ROWS 3
#endif

/* rows x outs dot products of x [rows, I] and w [outs, I]; both are constants where it is called. */
INLINE void multiply_tile(const float *x, const float *w, const float *bias, float *out, int64_t inputs,
                          int64_t outputs, int rows, int outs, int adds) {
    vec sum[ROWS][OUTPUTS];
    for (int n = 0; n < rows; n++)
        for (int o = 0; o < outs; o++) sum[n][o] = (vec){0};
    int64_t i = 0;
    for (; i + LANES <= inputs; i += LANES) {
        vec weight[OUTPUTS];
        for (int o = 0; o < outs; o++) {
            weight[o] = load(w + o * inputs + i);
            if (rows > 1) __builtin_prefetch(w + (o + AHEAD * OUTPUTS) * inputs + i, 0, 2);
        }
        for (int n = 0; n < rows; n++) {
            vec input = load(x + n * inputs + i);
            IN_REGISTER(input);
            for (int o = 0; o < outs; o++) sum[n][o] += input * weight[o];
        }
    }
    if (i < inputs)
        _Pragma("GCC unroll 8") for (int n = 0; n < rows; n++) {
            const vec input = load_part(x + n * inputs + i, inputs - i);
            _Pragma("GCC unroll 4") for (int o = 0; o < outs; o++) sum[n][o] +=
                input * load_part(w + o * inputs + i, inputs - i);
        }
    _Pragma("GCC unroll 8") for (int n = 0; n < rows; n++) {
        float total[OUTPUTS];
        if (outs == OUTPUTS) sum_four(sum[n], total);
        else
            for (int o = 0; o < outs; o++) total[o] = sum_lanes(sum[n][o]);
        for (int o = 0; o < outs; o++) {
            float *place = out + n * outputs + o;
            *place = total[o] + (bias ? bias[o] : 0) + (adds ? *place : 0);
        }
    }
}

/* out [rows, O] (+)= x w^T + bias for `count` outputs: a function for each number of rows */
#define MULTIPLY_ROWS(rows)                                                                                            \
    static __attribute__((noinline)) void multiply_##rows(const float *x, const float *w, const float *bias,           \
                                                          float *out, int64_t inputs, int64_t outputs, int64_t count,  \
                                                          int adds) {                                                  \
        int64_t o = 0;                                                                                                 \
        for (; o + OUTPUTS <= count; o += OUTPUTS)                                                                     \
            multiply_tile(x, w + o * inputs, bias ? bias + o : 0, out + o, inputs, outputs, rows, OUTPUTS, adds);      \
        for (; o < count; o++)                                                                                         \
            multiply_tile(x, w + o * inputs, bias ? bias + o : 0, out + o, inputs, outputs, rows, 1, adds);            \
    }
MULTIPLY_ROWS(1)
MULTIPLY_ROWS(2)
MULTIPLY_ROWS(3)
#if ROWS == 6
MULTIPLY_ROWS(4)
MULTIPLY_ROWS(5)
MULTIPLY_ROWS(6)
#endif

/* out [N, O] (+)= x [N, I] w^T [O, I] + bias, for outputs `first` to `last` only. */
static void multiply_plain(const float *x, const float *w, const float *bias, float *out, int64_t inputs,
                           int64_t outputs, int64_t num_rows, int64_t first, int64_t last, int adds) {
    for (int64_t n = 0; n < num_rows; n += ROWS) {
#define CASE(rows)                                                                                                     \
    case rows:                                                                                                         \
        multiply_##rows(x + n * inputs, w + first * inputs, bias ? bias + first : 0, out + n * outputs + first,        \
                        inputs, outputs, last - first, adds);                                                          \
        break
        switch (num_rows - n < ROWS ? num_rows - n : ROWS) {
            CASE(1);
            CASE(2);
            CASE(3);
#if ROWS == 6
            CASE(4);
            CASE(5);
            CASE(6);
#endif
        }
#undef CASE
    }
}
