/* Kernels for a CPU, in fp32: attention over a paged cache, and linear layers with narrow weights.
 *
 * attend_paged: single tokens over a paged cache.
 * keys, values      [blocks, K, P, D]: a block holds P tokens of one sequence for each of K kv heads.
 * new_keys, -values [N, K, D] of the tokens, stored first.
 * tables            [N, W]: the blocks of each token's sequence in the order of its tokens.
 * q, out            [N, H, D]; token n sees its sequence's tokens 0..positions[n].
 *
 * One pass with the running maximum of online softmax (arXiv:1805.02867), a block at a time: nothing beyond a
 * sequence's own tokens is read, and nothing is copied.
 *
 * linear_packed: out [N, O] = x [N, I] weight^T [O, I]; each weight is read once for all of the N rows, and
 * a row's sums are the same, bit for bit, whatever N is.
 * widen_packed: some panels' weights [O, I] in fp32. Codes, scales and zeros lie as packed.h says.
 */
#include <float.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "exponential.h"
#include "vectors.h"

#define MAX_GROUP 32
#define MAX_HEAD_DIM 256
#define MAX_BLOCK 64
#define MAX_RUN 8      /* tokens of one sequence that pass by the blocks together */
#define MANY_TOKENS 64 /* fewer are taken one by one, so that threads share them evenly */

/* The largest score so far, and the sum of the weights that it makes, lane by lane. */
typedef struct {
    float peak;
    vec total;
} softmax;

/* LANES tokens more, of which `size` count: out = out * shrink + values weighted by the scores. Where `ahead` is not 0,
 * it is how far on those lie that are asked for early.
 */
INLINE void attend_lanes(const float *query, const float *keys, const float *values, float *out, softmax *state,
                         int size, int64_t ahead, int dim, float scale) {
    static const int token[LANES] = {REVERSED};
    vec sum[LANES];
    _Pragma("GCC unroll 16") for (int i = 0; i < LANES; i++) sum[i] = (vec){0};
    for (int d = 0; d < dim; d += LANES) {
        vec some = load(query + d);
        IN_REGISTER(some);
        _Pragma("GCC unroll 16") for (int i = 0; i < LANES; i++) sum[i] += some * load(keys + token[i] * dim + d);
        if (ahead) /* some at a time: together they would wait for each other */
            _Pragma("GCC unroll 16") for (int i = 0; i < LANES; i++)
                __builtin_prefetch(keys + ahead + i * dim + d);
    }
    const ints own = (ints){NUMBERS} < size;
    vec score = pick(own, sum_each(sum) * scale, (vec){0} - INFINITY);
    const float highest = largest_lane(score);
    float shrink = 1;
    if (highest > state->peak) { /* seldom: what comes after need not wait for it */
        shrink = exponential(state->peak - highest);
        state->total *= shrink;
        state->peak = highest;
    }
    score = pick(own, exponential_below_0(score - state->peak), (vec){0});
    state->total += score;
    float share[LANES];
    memcpy(share, &score, sizeof share);
    for (int first = 0; first < dim; first += 4 * LANES) {
        const int vecs = dim - first < 4 * LANES ? (dim - first) / LANES : 4;
        vec even[4], odd[4];
        for (int i = 0; i < vecs; i++) even[i] = load(out + first + i * LANES) * shrink, odd[i] = (vec){0};
        int t = 0;
        for (; t + 2 <= size; t += 2)
            for (int i = 0; i < vecs; i++) {
                const float *one = values + t * dim + first + i * LANES, *other = one + dim;
                if (ahead) __builtin_prefetch(one + ahead), __builtin_prefetch(other + ahead);
                even[i] += load(one) * share[t];
                odd[i] += load(other) * share[t + 1];
            }
        for (int i = 0; i < vecs && t < size; i++) even[i] += load(values + t * dim + first + i * LANES) * share[t];
        for (int i = 0; i < vecs; i++) *(vec *)(out + first + i * LANES) = even[i] + odd[i];
    }
}

/* Each head size by itself: inlined together, they would run out of registers. */
typedef void (*attend_function)(const float *, const float *, const float *, float *, softmax *, int, int64_t, int,
                                float);
#define ATTEND_LANES(name, fixed)                                                                                      \
    static __attribute__((noinline)) void name(const float *query, const float *keys, const float *values, float *out, \
                                               softmax *state, int size, int64_t ahead, int dim, float scale) {        \
        attend_lanes(query, keys, values, out, state, size, ahead, fixed, scale);                                      \
    }
ATTEND_LANES(attend_32, 32)
ATTEND_LANES(attend_64, 64)
ATTEND_LANES(attend_128, 128)
ATTEND_LANES(attend_lines, dim)

/* The same for any size of block and head. */
static void attend_any(const float *restrict query, const float *keys, const float *values, float *restrict out,
                       softmax *state, int size, int64_t ahead, int dim, float scale) {
    (void)ahead;
    float score[MAX_BLOCK], highest = state->peak;
    for (int t = 0; t < size; t++) {
        float sum = 0;
        for (int d = 0; d < dim; d++) sum += query[d] * keys[t * dim + d];
        score[t] = sum * scale;
        highest = score[t] > highest ? score[t] : highest;
    }
    const float shrink = exponential(state->peak - highest);
    for (int d = 0; d < dim; d++) out[d] *= shrink;
    state->total *= shrink;
    state->peak = highest;
    for (int t = 0; t < size; t++) {
        const float weight = exponential(score[t] - highest);
        state->total[0] += weight;
        for (int d = 0; d < dim; d++) out[d] += weight * values[t * dim + d];
    }
}

/* Tokens of one sequence pass by the blocks together; the result of one does not depend on the others. */
static void attend(const float *q, const float *keys, const float *values, const int32_t *table,
                   const int64_t *positions, float *out, int num_tokens, int64_t token_stride, int group, int dim,
                   int block_size, int64_t stride, float scale) {
    const int by_lanes = dim % LANES == 0 && block_size % LANES == 0, step = by_lanes ? LANES : block_size;
    const attend_function attend_part = !by_lanes    ? attend_any
                                        : dim == 32  ? attend_32
                                        : dim == 64  ? attend_64
                                        : dim == 128 ? attend_128
                                                     : attend_lines;
    softmax state[MAX_RUN][MAX_GROUP];
    int64_t longest = 0;
    for (int n = 0; n < num_tokens; n++) {
        longest = positions[n] > longest ? positions[n] : longest;
        for (int g = 0; g < group; g++) state[n][g] = (softmax){-FLT_MAX, {0}};
        for (int i = 0; i < group * dim; i++) out[n * token_stride + i] = 0;
    }
    for (int64_t start = 0; start <= longest; start += block_size) {
        const int64_t offset = (int64_t)table[start / block_size] * stride;
        const int64_t next = start + block_size <= longest ? (int64_t)table[start / block_size + 1] * stride : offset;
        for (int n = 0; n < num_tokens; n++) {
            const int64_t left = positions[n] - start + 1;
            const int size = left < block_size ? (int)left : block_size;
            for (int g = 0; g < group; g++)
                for (int t = 0; t < size; t += step) {
                    const int64_t place = n * token_stride + g * dim, first = offset + t * dim;
                    attend_part(q + place, keys + first, values + first, out + place, &state[n][g],
                                size - t < step ? size - t : step, n == 0 && g == 0 ? next - offset : 0, dim, scale);
                }
        }
    }
    for (int n = 0; n < num_tokens; n++)
        for (int g = 0; g < group; g++) {
            const float total = sum_lanes(state[n][g].total);
            for (int d = 0; d < dim; d++) out[n * token_stride + g * dim + d] /= total;
        }
}

/* Token n's keys and values into its place. */
void store_row(const float *new_keys, const float *new_values, float *keys, float *values, const int32_t *tables,
               const int64_t *positions, int64_t n, int64_t width, int kv_heads, int dim, int block_size) {
    const int64_t head = (int64_t)block_size * dim, block = tables[n * width + positions[n] / block_size];
    const int64_t place = block * kv_heads * head + positions[n] % block_size * dim;
    for (int k = 0; k < kv_heads; k++) {
        memcpy(keys + place + k * head, new_keys + (n * kv_heads + k) * dim, dim * sizeof(float));
        memcpy(values + place + k * head, new_values + (n * kv_heads + k) * dim, dim * sizeof(float));
    }
}

/* What the query heads of kv head k of the tokens `first` to `last` see. */
void attend_some(const float *q, const float *keys, const float *values, const int32_t *tables,
                 const int64_t *positions, float *out, int64_t first, int64_t last, int k, int64_t width, int heads,
                 int kv_heads, int dim, int block_size) {
    const int group = heads / kv_heads;
    const int64_t head = (int64_t)block_size * dim;
    const float scale = 1 / sqrtf((float)dim);
    for (int64_t n = first, end; n < last; n = end) {
        const int32_t *table = tables + n * width;
        for (end = n + 1; end < last && end < n + MAX_RUN; end++)
            if (memcmp(table, tables + end * width, width * sizeof(int32_t))) break;
        const int64_t place = (n * heads + k * group) * dim;
        attend(q + place, keys + k * head, values + k * head, table, positions + n, out + place, (int)(end - n),
               heads * dim, group, dim, block_size, kv_heads * head, scale);
    }
}

void attend_paged(const float *q, const float *new_keys, const float *new_values, float *keys, float *values,
                  const int32_t *tables, const int64_t *positions, float *out, int64_t num_tokens, int64_t width,
                  int heads, int kv_heads, int dim, int block_size, int threads) {
    /* all of them before any is mixed: a token may see another one of the same call */
    for (int64_t n = 0; n < num_tokens; n++)
        store_row(new_keys, new_values, keys, values, tables, positions, n, width, kv_heads, dim, block_size);
    const int64_t step = num_tokens < MANY_TOKENS ? 1 : MAX_RUN;
#pragma omp parallel for collapse(2) schedule(dynamic, 4) num_threads(threads) if (threads > 1)
    for (int64_t first = 0; first < num_tokens; first += step)
        for (int k = 0; k < kv_heads; k++)
            attend_some(q, keys, values, tables, positions, out, first,
                        first + step < num_tokens ? first + step : num_tokens, k, width, heads, kv_heads, dim,
                        block_size);
}

/* From here on sums keep their order: that of one row is that of many. */
#ifdef __clang__
#pragma clang fp reassociate(off)
#else
#pragma GCC optimize("no-associative-math")
#endif

#define AHEAD_BYTES(kind) (kind == BF16 ? 4096 : 8192) /* codes that are asked for early */
#define SOME_ROWS 96    /* rows whose sums are taken together: a multiple of matmul.h's */
#if LANES == 16
#define FEW_ROWS 2 /* as many as there are registers for */
#else
#define FEW_ROWS 1
#endif
#include "matmul.h"
#include "packed.h"

/* One or two rows: weights go from codes into the sums without touching memory. */
INLINE void multiply_few(int kind, int groups, int rows, const float *x, const uint8_t *codes, const float *scales,
                         const uint8_t *zeros, int64_t blocks, float *sums) {
    floats sum[2][PANEL] = {0};
    for (int64_t b = 0; b < blocks; b++) {
        const float *input = x + b * BLOCK;
        float wide_zeros[PANEL * MAX_GROUPS];
        widen_zeros(kind, groups, zeros + b * PANEL * groups, wide_zeros);
        _Pragma("GCC unroll 8") for (int o = 0; o < PANEL; o++) {
            for (int line = 0; line < code_bytes(kind); line += 64)
                __builtin_prefetch(codes + (b * PANEL + o) * code_bytes(kind) + AHEAD_BYTES(kind) + line);
            EACH_PART(kind, groups, b, o,
                      for (int n = 0; n < rows; n++) sum[n][o] +=
                      weight * *(const loose_floats *)(input + n * blocks * BLOCK + part * LANES))
        }
    }
    for (int n = 0; n < rows; n++)
        for (int o = 0; o < PANEL; o += 4) sum_four((const vec *)sum[n] + o, sums + n * PANEL + o);
}

/* Room of this thread's own for widened weights; it stays for the next call. */
static float *own_room(int64_t size) {
    static _Thread_local float *room;
    static _Thread_local int64_t has;
    if (has < size) {
        free(room);
        room = malloc(size * sizeof(float));
        has = size;
    }
    return room;
}

/* out [N, outputs] (+)= sums [N, stride] times each output's scale, if there are some, + bias, if there is one */
INLINE void finish_panel(const float *sums, const float *scales, const float *bias, float *out, int64_t rows,
                         int64_t outputs, int64_t count, int adds) {
    for (int64_t n = 0; n < rows; n++)
        for (int64_t o = 0; o < count; o++) {
            float *place = out + n * outputs + o;
            const float sum = sums[n * PANEL + o] * (scales ? scales[o] : 1);
            *place = sum + (bias ? bias[o] : 0) + (adds ? *place : 0);
        }
}

/* Outputs of the panels `first` to `last`: out [N, O] (+)= their share of x weight^T + bias, which may be null. */
void linear_panels(int kind, int groups, const float *x, const uint8_t *codes, const float *scales,
                   const uint8_t *zeros, const float *bias, float *out, int64_t rows, int64_t inputs, int64_t outputs,
                   int64_t first, int64_t last, int adds) {
    const int64_t blocks = (inputs + BLOCK - 1) / BLOCK, width = blocks * BLOCK;
    for (int64_t p = first; p < last; p++) {
        float sums[SOME_ROWS * PANEL];
        const int64_t begin = p * blocks * PANEL, o = p * PANEL;
        const int64_t count = outputs - o < PANEL ? outputs - o : PANEL;
        const uint8_t *own_codes = codes + begin * code_bytes(kind), *own_zeros = zeros + begin * groups;
        const float *grid = scales + begin * groups, *channels = kind == INT8 ? scales + o : 0;
        const float *own_bias = bias ? bias + o : 0;
        if (rows <= FEW_ROWS) {
#define MULTIPLY(kind, groups)                                                                                         \
    if (rows == 1) multiply_few(kind, groups, 1, x, own_codes, grid, own_zeros, blocks, sums);                         \
    else multiply_few(kind, groups, FEW_ROWS, x, own_codes, grid, own_zeros, blocks, sums)
            SPECIALISE(MULTIPLY);
            finish_panel(sums, channels, own_bias, out + o, rows, outputs, count, adds);
            continue;
        }
        float *weights = own_room(PANEL * width);
#define WIDEN(kind, groups) widen_panel(kind, groups, own_codes, grid, own_zeros, weights, blocks)
        SPECIALISE(WIDEN);
        for (int64_t n = 0; n < rows; n += SOME_ROWS) {
            const int64_t some = rows - n < SOME_ROWS ? rows - n : SOME_ROWS;
            multiply_plain(x + n * width, weights, 0, sums, width, PANEL, some, 0, PANEL, 0);
            finish_panel(sums, channels, own_bias, out + n * outputs + o, some, outputs, count, adds);
        }
    }
}

void linear_packed(int kind, int groups, const float *x, const uint8_t *codes, const float *scales,
                   const uint8_t *zeros, float *out, int64_t rows, int64_t outputs, int64_t blocks, int threads) {
    const int64_t panels = (outputs + PANEL - 1) / PANEL;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1 && panels * blocks > 64)
    for (int64_t p = 0; p < panels; p++)
        linear_panels(kind, groups, x, codes, scales, zeros, 0, out, rows, blocks * BLOCK, outputs, p, p + 1, 0);
}

void widen_packed(int kind, int groups, const uint8_t *codes, const float *scales, const uint8_t *zeros, float *out,
                  int64_t panels, int64_t blocks, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1 && panels * blocks > 64)
    for (int64_t p = 0; p < panels; p++) {
        const int64_t first = p * blocks * PANEL;
        const float *grid = scales + (kind == INT4 ? first * groups : 0);
#undef WIDEN
#define WIDEN(kind, groups)                                                                                            \
    widen_panel(kind, groups, codes + first * code_bytes(kind), grid, zeros + first * groups, out + first * BLOCK,     \
                blocks)
        SPECIALISE(WIDEN);
        for (int64_t i = 0; kind == INT8 && i < PANEL * blocks * BLOCK; i++)
            out[first * BLOCK + i] *= scales[p * PANEL + i / (blocks * BLOCK)];
    }
}
