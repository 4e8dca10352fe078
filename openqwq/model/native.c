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
 * linear_packed: out [N, O] = x [N, I] weight^T [O, I] for N <= 64; each weight is read once for all of the N rows, and
 * a row's sums are the same, bit for bit, whatever N is.
 * widen_packed: some panels' weights [O, I] in fp32.
 * codes   [O/8, I/128, 8, 128 weights]: eight outputs lie together, block by block of inputs, so that memory is read in
 *         order. bf16, int8, or int4: 16 words of 32 bits, word w with the weights w, 16 + w, ... from its low end.
 * scales  int8: [O]. int4: [O/8, I/128, 8, groups], where groups is 128 over the group's size.
 * zeros   int4: the code that stands for 0, laid out as the scales.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "exponential.h"

#define MAX_GROUP 32
#define MAX_HEAD_DIM 256
#define MAX_BLOCK 64

static inline __attribute__((always_inline)) void attend(const float *restrict q, const float *keys, const float *values, const int32_t *table,
                   int64_t last, float *restrict out, int group, int dim, int block_size, int64_t stride,
                   float scale) {
    float peak[MAX_GROUP], total[MAX_GROUP], score[MAX_BLOCK];
    for (int g = 0; g < group; g++) {
        peak[g] = -INFINITY;
        total[g] = 0;
        for (int d = 0; d < dim; d++) out[g * dim + d] = 0;
    }
    for (int64_t start = 0; start <= last; start += block_size) {
        const int64_t offset = (int64_t)table[start / block_size] * stride;
        const int size = last - start + 1 < block_size ? (int)(last - start + 1) : block_size;
        for (int g = 0; g < group; g++) {
            const float *restrict query = q + g * dim;
            float highest = peak[g];
            for (int t = 0; t < size; t++) {
                const float *restrict key = keys + offset + t * dim;
                float sum = 0;
                for (int d = 0; d < dim; d++) sum += query[d] * key[d];
                score[t] = sum * scale;
                highest = score[t] > highest ? score[t] : highest;
            }
            const float shrink = start ? exponential(peak[g] - highest) : 0;
            float *restrict mixed = out + g * dim;
            if (shrink != 1)
                for (int d = 0; d < dim; d++) mixed[d] *= shrink;
            for (int t = 0; t < size; t++) score[t] = exponential(score[t] - highest);
            total[g] *= shrink;
            peak[g] = highest;
            for (int t = 0; t < size; t++) {
                const float weight = score[t];
                const float *restrict value = values + offset + t * dim;
                total[g] += weight;
                for (int d = 0; d < dim; d++) mixed[d] += weight * value[d];
            }
        }
    }
    for (int g = 0; g < group; g++)
        for (int d = 0; d < dim; d++) out[g * dim + d] /= total[g];
}

void attend_paged(const float *q, const float *new_keys, const float *new_values, float *keys, float *values,
                  const int32_t *tables, const int64_t *positions, float *out, int64_t num_tokens, int64_t width,
                  int heads, int kv_heads, int dim, int block_size, int threads) {
    const int group = heads / kv_heads;
    const int64_t head = (int64_t)block_size * dim, stride = kv_heads * head;
    const float scale = 1 / sqrtf((float)dim);
    /* all of them before any is mixed: a token may see another one of the same call */
    for (int64_t n = 0; n < num_tokens; n++) {
        const int64_t block = tables[n * width + positions[n] / block_size];
        const int64_t place = block * stride + positions[n] % block_size * dim;
        for (int k = 0; k < kv_heads; k++) {
            memcpy(keys + place + k * head, new_keys + (n * kv_heads + k) * dim, dim * sizeof(float));
            memcpy(values + place + k * head, new_values + (n * kv_heads + k) * dim, dim * sizeof(float));
        }
    }
#pragma omp parallel for collapse(2) schedule(dynamic, 4) num_threads(threads) if (threads > 1)
    for (int64_t n = 0; n < num_tokens; n++)
        for (int k = 0; k < kv_heads; k++) {
            const int64_t first = (n * kv_heads + k) * group * dim;
            const int32_t *table = tables + n * width;
            /* a head size that the compiler knows unrolls the inner loops */
#define ATTEND(size)                                                                                                   \
    attend(q + first, keys + k * head, values + k * head, table, positions[n], out + first, group, size, block_size,   \
           stride, scale)
            if (dim == 32) ATTEND(32);
            else if (dim == 64) ATTEND(64);
            else if (dim == 128) ATTEND(128);
            else ATTEND(dim);
        }
}

/* From here on sums keep their order: that of one row is that of many. */
#ifdef __clang__
#pragma clang fp reassociate(off)
#else
#pragma GCC optimize("no-associative-math")
#endif

enum { BF16, INT8, INT4 };
#define PANEL 8         /* outputs that lie together */
#define BLOCK 128       /* inputs that lie together */
#define CHUNK 8         /* blocks that are widened at a time: a panel of them fills most of a first-level cache */
#define MAX_ROWS 64
#ifdef __AVX2__
#include <immintrin.h>
#endif
#ifdef __AVX512F__
#define LANES 16
#define TILE_ROWS 4     /* rows by half a panel of sums: as many as there are registers for */
#else
#define LANES 8
#define TILE_ROWS 2
#endif
#define PARTS (BLOCK / LANES)
#define INLINE static inline __attribute__((always_inline))
#define LOOSE(size) __attribute__((vector_size(size), aligned(1), may_alias))
typedef float floats __attribute__((vector_size(4 * LANES)));
typedef int32_t words __attribute__((vector_size(4 * LANES)));
typedef float loose_floats LOOSE(4 * LANES);
typedef int32_t loose_words LOOSE(4 * LANES);
typedef uint16_t loose_halves LOOSE(2 * LANES);
typedef int8_t loose_bytes LOOSE(LANES);

INLINE int code_bytes(int kind) { return kind == BF16 ? 2 * BLOCK : kind == INT8 ? BLOCK : BLOCK / 2; }

/* (nibble - zero) * scale of the lowest nibble of each word; what lies above it is ignored. */
INLINE floats widen_nibbles(words nibbles, float scale, float zero) {
#ifdef __AVX512F__
    const floats codes = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return (floats)_mm512_permutexvar_ps((__m512i)nibbles, (__m512)((codes - zero) * scale));
#else
    return (__builtin_convertvector(nibbles & 15, floats) - zero) * scale;
#endif
}

/* A compiler may widen narrow integers one by one where no instruction is named. */
INLINE words widen_bytes(const uint8_t *code) {
#if defined(__AVX512F__)
    return (words)_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)code));
#elif defined(__AVX2__)
    return (words)_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)code));
#else
    return __builtin_convertvector(*(const loose_bytes *)code, words);
#endif
}

INLINE words widen_halves(const uint8_t *code) {
#if defined(__AVX512F__)
    return (words)_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)code));
#elif defined(__AVX2__)
    return (words)_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)code));
#else
    return __builtin_convertvector(*(const loose_halves *)code, words);
#endif
}

/* One part of a block of codes in floating point; int8 without its channel's scale. */
INLINE floats widen(int kind, const uint8_t *code, int part, float scale, float zero) {
    if (kind == BF16) return (floats)(widen_halves(code + part * 2 * LANES) << 16);
    if (kind == INT8) return __builtin_convertvector(widen_bytes(code + part * LANES), floats);
    const loose_words word = *(const loose_words *)(code + part * LANES % 16 * 4);
    return widen_nibbles((words)word >> part * LANES / 16 * 4, scale, zero);
}

/* The first of a group's parts sees the group's scale; kinds without groups have one group and no scale. */
#define EACH_PART(kind, groups, index, body)                                                                           \
    _Pragma("GCC unroll 8") for (int g = 0; g < groups; g++) {                                                         \
        const float scale = kind == INT4 ? scales[(index) * groups + g] : 1;                                           \
        const float zero = kind == INT4 ? zeros[(index) * groups + g] : 0;                                             \
        _Pragma("GCC unroll 16") for (int part = g * PARTS / groups; part < (g + 1) * PARTS / groups; part++) {        \
            const floats weight = widen(kind, codes + (index) * code_bytes(kind), part, scale, zero);                  \
            body;                                                                                                      \
        }                                                                                                              \
    }

INLINE float total(floats sums) {
    float sum = 0;
    for (int i = 0; i < LANES; i++) sum += sums[i];
    return sum;
}

/* One or two rows: weights go from codes into the sums without touching memory. */
INLINE void multiply_few(int kind, int groups, int rows, const float *x, const uint8_t *codes, const float *scales,
                         const uint8_t *zeros, int64_t blocks, float *sums) {
    floats sum[PANEL][2] = {0};
    for (int64_t b = 0; b < blocks; b++) {
        const float *input = x + b * BLOCK;
        _Pragma("GCC unroll 8") for (int o = 0; o < PANEL; o++)
            EACH_PART(kind, groups, b * PANEL + o,
                      for (int n = 0; n < rows; n++) sum[o][n] +=
                      weight * *(const loose_floats *)(input + n * blocks * BLOCK + part * LANES))
    }
    for (int n = 0; n < rows; n++)
        for (int o = 0; o < PANEL; o++) sums[n * PANEL + o] = total(sum[o][n]);
}

/* Sums of `rows` rows and half a panel of outputs, carried on over the inputs of a chunk. */
INLINE void multiply_tile(int rows, const float *x, int64_t stride, const float *weights, int64_t size,
                          floats (*carried)[PANEL]) {
    floats sum[TILE_ROWS][PANEL / 2];
    for (int n = 0; n < rows; n++)
        for (int o = 0; o < PANEL / 2; o++) sum[n][o] = carried[n][o];
    for (int64_t i = 0; i < size; i += LANES) {
        floats weight[PANEL / 2];
        for (int o = 0; o < PANEL / 2; o++) weight[o] = *(const loose_floats *)(weights + o * CHUNK * BLOCK + i);
        for (int n = 0; n < rows; n++) {
            const floats input = *(const loose_floats *)(x + n * stride + i);
            for (int o = 0; o < PANEL / 2; o++) sum[n][o] += weight[o] * input;
        }
    }
    for (int n = 0; n < rows; n++)
        for (int o = 0; o < PANEL / 2; o++) carried[n][o] = sum[n][o];
}

/* Up to MAX_ROWS rows: a chunk of the panel is widened once for all of them. The same sums, bit for bit. */
INLINE void multiply_many(int kind, int groups, int rows, const float *x, const uint8_t *codes, const float *scales,
                          const uint8_t *zeros, int64_t blocks, float *sums) {
    floats sum[MAX_ROWS][PANEL];
    float weights[PANEL][CHUNK * BLOCK];
    const int64_t stride = blocks * BLOCK;
    memset(sum, 0, rows * sizeof(sum[0]));
    for (int64_t start = 0; start < blocks; start += CHUNK) {
        const int64_t count = blocks - start < CHUNK ? blocks - start : CHUNK;
        for (int64_t b = 0; b < count; b++)
            for (int o = 0; o < PANEL; o++)
                EACH_PART(kind, groups, (start + b) * PANEL + o,
                          *(loose_floats *)(weights[o] + b * BLOCK + part * LANES) = weight)
        for (int n = 0; n < rows; n += TILE_ROWS)
            for (int o = 0; o < PANEL; o += PANEL / 2) {
                const float *input = x + n * stride + start * BLOCK;
                floats (*carried)[PANEL] = (floats (*)[PANEL])&sum[n][o];
#define TILE(rows) multiply_tile(rows, input, stride, weights[o], count * BLOCK, carried)
                if (rows - n >= TILE_ROWS) TILE(TILE_ROWS);
                else if (rows - n == 3) TILE(3);
                else if (rows - n == 2) TILE(2);
                else TILE(1);
            }
    }
    for (int n = 0; n < rows; n++)
        for (int o = 0; o < PANEL; o++) sums[n * PANEL + o] = total(sum[n][o]);
}

INLINE void multiply(int kind, int groups, int rows, const float *x, const uint8_t *codes, const float *scales,
                     const uint8_t *zeros, int64_t blocks, float *sums) {
    if (rows == 1) multiply_few(kind, groups, 1, x, codes, scales, zeros, blocks, sums);
    else if (rows == 2 && LANES == 16) multiply_few(kind, groups, 2, x, codes, scales, zeros, blocks, sums);
    else multiply_many(kind, groups, rows, x, codes, scales, zeros, blocks, sums);
}

/* `call` with the kind and the groups of a block as constants. */
#define SPECIALISE(call)                                                                                               \
    if (kind == BF16) call(BF16, 1);                                                                                   \
    else if (kind == INT8) call(INT8, 1);                                                                              \
    else if (groups == 1) call(INT4, 1);                                                                               \
    else if (groups == 2) call(INT4, 2);                                                                               \
    else call(INT4, 4)

void linear_packed(int kind, int groups, const float *x, const uint8_t *codes, const float *scales,
                   const uint8_t *zeros, float *out, int64_t rows, int64_t outputs, int64_t blocks, int threads) {
    const int64_t panels = (outputs + PANEL - 1) / PANEL;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1 && panels * blocks > 64)
    for (int64_t p = 0; p < panels; p++) {
        float sums[MAX_ROWS * PANEL];
        const int64_t first = p * blocks * PANEL;
#define MULTIPLY(kind, groups)                                                                                         \
    multiply(kind, groups, rows, x, codes + first * code_bytes(kind), scales + first * groups, zeros + first * groups, \
             blocks, sums)
        SPECIALISE(MULTIPLY);
        const int64_t count = outputs - p * PANEL < PANEL ? outputs - p * PANEL : PANEL;
        for (int64_t n = 0; n < rows; n++)
            for (int64_t o = 0; o < count; o++)
                out[n * outputs + p * PANEL + o] =
                    sums[n * PANEL + o] * (kind == INT8 ? scales[p * PANEL + o] : 1);
    }
}

INLINE void widen_panel(int kind, int groups, const uint8_t *codes, const float *scales, const uint8_t *zeros,
                        float *out, int64_t blocks) {
    for (int64_t b = 0; b < blocks; b++)
        for (int o = 0; o < PANEL; o++) {
            const float channel = kind == INT8 ? scales[o] : 1;
            float *place = out + (o * blocks + b) * BLOCK;
            EACH_PART(kind, groups, b * PANEL + o, *(loose_floats *)(place + part * LANES) = weight * channel)
        }
}

void widen_packed(int kind, int groups, const uint8_t *codes, const float *scales, const uint8_t *zeros, float *out,
                  int64_t panels, int64_t blocks, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1 && panels * blocks > 64)
    for (int64_t p = 0; p < panels; p++) {
        const int64_t first = p * blocks * PANEL;
        const float *scale = scales + (kind == INT8 ? p * PANEL : first * groups);
#define WIDEN(kind, groups)                                                                                            \
    widen_panel(kind, groups, codes + first * code_bytes(kind), scale, zeros + first * groups, out + first * BLOCK,    \
                blocks)
        SPECIALISE(WIDEN);
    }
}
