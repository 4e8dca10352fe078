/* Products of matrices in fp32 for training on a CPU, where both of them are large.
 *
 * multiply: out [M, N] (+)= a [M, K] b [K, N] + bias [N]; bias may be null. Entry (m, k) of a is
 * a[m * a_row + k * a_step], entry (k, n) of b is b[n * b_column + k * b_step]: a transposed matrix has other strides.
 *
 * Both are copied in the order in which a tile of sums reads them (Goto and van de Geijn, "Anatomy of high-performance
 * matrix multiplication", 2008): DEPTH entries of K at a time, b for all threads, a block of a's rows for each. One
 * thread takes each sum, along K in order: neither M, N nor the number of threads changes a bit.
 */
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
#define DEPTH 256      /* x WIDTH entries of b stay in the first cache */
#define BLOCK_ROWS 224 /* x DEPTH entries of a stay in the second; a multiple of HIGH */

INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

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

/* out [HIGH, WIDTH] (+)= a [depth, HIGH]^T b [depth, WIDTH] + bias */
static __attribute__((noinline)) void multiply_tile(const float *a, const float *b, const float *bias, float *out,
                                                    int64_t stride, int64_t depth, int adds) {
    vec sum[HIGH][WIDE];
    _Pragma("GCC unroll 16") for (int r = 0; r < HIGH; r++)
        _Pragma("GCC unroll 4") for (int v = 0; v < WIDE; v++) sum[r][v] = (vec){0};
    for (int64_t k = 0; k < depth; k++) {
        vec some[WIDE];
        _Pragma("GCC unroll 4") for (int v = 0; v < WIDE; v++) some[v] = load(b + k * WIDTH + v * LANES);
        _Pragma("GCC unroll 16") for (int r = 0; r < HIGH; r++) {
            const float one = a[k * HIGH + r];
            _Pragma("GCC unroll 4") for (int v = 0; v < WIDE; v++) sum[r][v] += some[v] * one;
        }
    }
    _Pragma("GCC unroll 16") for (int r = 0; r < HIGH; r++)
        _Pragma("GCC unroll 4") for (int v = 0; v < WIDE; v++) {
            vec *place = (vec *)(out + r * stride + v * LANES);
            if (bias) sum[r][v] += load(bias + v * LANES);
            if (adds) sum[r][v] += *place;
            *place = sum[r][v];
        }
}

/* The same where only `rows` x `columns` of the tile are there. */
static void multiply_edge(const float *a, const float *b, const float *bias, float *out, int64_t stride,
                          int64_t depth, int adds, int64_t rows, int64_t columns) {
    float tile[HIGH * WIDTH];
    multiply_tile(a, b, 0, tile, WIDTH, depth, 0);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < columns; c++) {
            float *place = out + r * stride + c;
            *place = tile[r * WIDTH + c] + (bias ? bias[c] : 0) + (adds ? *place : 0);
        }
}

/* out [rows, N] (+)= a [rows, depth] times packed b [N / WIDTH, depth, WIDTH] + bias; `room` is for a. */
static void multiply_block(const float *a, int64_t a_row, int64_t a_step, const float *b, const float *bias,
                           float *room, float *out, int64_t rows, int64_t columns, int64_t depth, int adds) {
    for (int64_t r = 0; r < rows; r += HIGH)
        pack_high(a + r * a_row, a_row, a_step, room + r * depth, smaller(rows - r, HIGH), depth);
    for (int64_t c = 0; c < columns; c += WIDTH)
        for (int64_t r = 0; r < rows; r += HIGH) {
            const float *own_bias = bias ? bias + c : 0;
            float *place = out + r * columns + c;
            if (rows - r >= HIGH && columns - c >= WIDTH)
                multiply_tile(room + r * depth, b + c * depth, own_bias, place, columns, depth, adds);
            else
                multiply_edge(room + r * depth, b + c * depth, own_bias, place, columns, depth, adds,
                              smaller(rows - r, HIGH), smaller(columns - c, WIDTH));
        }
}

/* 0 where there is no memory for the copies. */
int multiply(const float *a, int64_t a_row, int64_t a_step, const float *b, int64_t b_column, int64_t b_step,
             const float *bias, float *out, int64_t rows, int64_t columns, int64_t depth, int adds, int threads) {
    int64_t blocks = (rows + BLOCK_ROWS - 1) / BLOCK_ROWS; /* as many for each thread */
    blocks = (blocks + threads - 1) / threads * threads;
    const int64_t size = ((rows + blocks - 1) / blocks + HIGH - 1) / HIGH * HIGH;
    const int64_t panels = (columns + WIDTH - 1) / WIDTH, most = smaller(depth, DEPTH);
    const int64_t room = (size * most + 2 * LANES - 1) / LANES * LANES, all = panels * WIDTH * most;
    float *packed = aligned_alloc(64, (all + threads * room + 15) / 16 * 64);
    if (!packed) return 0;
    for (int64_t k = 0; k < depth; k += DEPTH) {
        const int64_t deep = smaller(depth - k, DEPTH);
        const int more = adds || k > 0;
#pragma omp parallel num_threads(threads) if (threads > 1)
        {
#pragma omp for schedule(static)
            for (int64_t c = 0; c < columns; c += WIDTH)
                pack_wide(b + c * b_column + k * b_step, b_column, b_step, packed + c * deep,
                          smaller(columns - c, WIDTH), deep);
#pragma omp for schedule(static)
            for (int64_t t = 0; t < threads; t++)
                for (int64_t r = t * (blocks / threads) * size; r < smaller(rows, (t + 1) * (blocks / threads) * size);
                     r += size)
                    multiply_block(a + r * a_row + k * a_step, a_row, a_step, packed, k ? 0 : bias,
                                   packed + all + t * room, out + r * columns, smaller(rows - r, size),
                                   columns, deep, more);
        }
    }
    free(packed);
    return 1;
}
