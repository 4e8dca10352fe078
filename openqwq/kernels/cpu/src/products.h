/* Products of matrices in fp32, tile by tile: both are copied in the order in which a tile of sums reads them (Goto and
 * van de Geijn, "Anatomy of high-performance matrix multiplication", 2008), DEPTH entries of K at a time. Each sum runs
 * along K in order, RUN products at a time, whatever tile it stands in.
 */
#pragma once
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "vectors.h"

#if LANES == 16
#define HIGH 14 /* x WIDE sums, and what they are made of, fill the vector registers */
#else
#define HIGH 6
#endif
#define WIDE 2
#define WIDTH (WIDE * LANES)
#define DEPTH 256 /* x WIDTH entries of b stay in the first cache */

/* out [depth, width]: entry k of line n is x[n * across + k * along], 0 from line `count` on; writes a vector more. */
INLINE void pack(const float *x, int64_t across, int64_t along, float *out, int64_t count, int64_t depth, int width) {
    int64_t k = 0;
    if (across == 1 && count == width)
        for (; k < depth; k++) memcpy(out + k * width, x + k * along, width * sizeof(float));
    for (; along == 1 && k + LANES <= depth; k += LANES)
        for (int first = 0; first < width; first += LANES) {
            vec v[LANES];
            _Pragma("GCC unroll 16") for (int n = 0; n < LANES; n++)
                v[n] = first + n < count ? load(x + (first + n) * across + k) : (vec){0};
            transpose(v);
            _Pragma("GCC unroll 16") for (int n = 0; n < LANES; n++)
                memcpy(out + (k + n) * width + first, &v[n], sizeof(vec));
        }
    for (; k < depth; k++)
        for (int n = 0; n < width; n++) out[k * width + n] = n < count ? x[n * across + k * along] : 0;
}

static __attribute__((noinline)) void pack_high(const float *x, int64_t across, int64_t along, float *out,
                                                int64_t count, int64_t depth) {
    pack(x, across, along, out, count, depth, HIGH);
}

static __attribute__((noinline)) void pack_wide(const float *x, int64_t across, int64_t along, float *out,
                                                int64_t count, int64_t depth) {
    pack(x, across, along, out, count, depth, WIDTH);
}

/* out [HIGH, wide * LANES] (+)= a [depth, HIGH]^T b [depth, WIDTH] + bias; wide is a constant where it is called. */
INLINE void sum_tile(const float *a, const float *b, const float *bias, float *out, int64_t stride, int64_t depth,
                     int adds, int wide) {
    for (int64_t first = 0; first < depth; first += RUN) {
        const int64_t last = smaller(depth, first + RUN);
        vec sum[HIGH][WIDE];
        _Pragma("GCC unroll 16") for (int r = 0; r < HIGH; r++)
            _Pragma("GCC unroll 4") for (int v = 0; v < wide; v++) sum[r][v] = (vec){0};
        for (int64_t k = first; k < last; k++) {
            vec some[WIDE];
            _Pragma("GCC unroll 4") for (int v = 0; v < wide; v++) some[v] = load(b + k * WIDTH + v * LANES);
            _Pragma("GCC unroll 16") for (int r = 0; r < HIGH; r++) {
                const float one = a[k * HIGH + r];
                _Pragma("GCC unroll 4") for (int v = 0; v < wide; v++) sum[r][v] += some[v] * one;
            }
        }
        _Pragma("GCC unroll 16") for (int r = 0; r < HIGH; r++)
            _Pragma("GCC unroll 4") for (int v = 0; v < wide; v++) {
                vec *place = (vec *)(out + r * stride + v * LANES);
                if (bias) sum[r][v] += load(bias + v * LANES);
                if (adds) sum[r][v] += *place;
                *place = sum[r][v];
            }
        bias = 0, adds = 1;
    }
}

static __attribute__((noinline)) void multiply_tile(const float *a, const float *b, const float *bias, float *out,
                                                    int64_t stride, int64_t depth, int adds) {
    sum_tile(a, b, bias, out, stride, depth, adds, WIDE);
}
