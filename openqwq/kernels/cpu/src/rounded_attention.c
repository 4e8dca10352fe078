/* Attention of single tokens over a paged cache that keeps bfloat16, or int8 with one scale a token and head.
 *
 * As attend_paged of native.c (the same arguments and shapes), with keys and values [blocks, K, P, D] rounded and, for
 * int8, scales [blocks, K, P]; without scales (NULL) it is bfloat16. New keys and values come as floats and are rounded
 * as they are stored. One block at a time is widened, into a buffer on the stack. Keys may be kept without an offset
 * [K, D] (NULL: none), which is turned by a token's position (angles [positions, 2, D]: cosines, signed sines) and added.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

#define MAX_GROUP 32
#define MAX_HEAD_DIM 256
#define MAX_BLOCK 64

static inline uint16_t to_bfloat16(float x) {
    union { float value; uint32_t bits; } u = {x};
    if (x != x) return 0x7fc0;
    return (uint16_t)((u.bits + 0x7fff + ((u.bits >> 16) & 1)) >> 16); /* to nearest, ties to even */
}

static void store(const float *x, void *rounded, float *scale, int64_t token, int dim) {
    if (scale) {
        int8_t *out = (int8_t *)rounded + token * dim;
        float largest = 0x1p-100f;
        int finite = 1;
        for (int d = 0; d < dim; d++) {
            largest = fmaxf(largest, fabsf(x[d]));
            finite &= fabsf(x[d]) <= 3.402823466e38f;
        }
        const float unit = largest * (float)(1.0 / 127), inverse = 1 / unit;
        scale[token] = finite ? unit : NAN;
        for (int d = 0; d < dim; d++) out[d] = finite ? (int8_t)rintf(x[d] * inverse) : 0;
    } else {
        uint16_t *out = (uint16_t *)rounded + token * dim;
        for (int d = 0; d < dim; d++) out[d] = to_bfloat16(x[d]);
    }
}

/* `size` tokens from number `token` on, without their scales. */
static inline void widen(const void *rounded, int is_int8, int64_t token, int size, int dim, float *restrict out) {
    if (is_int8) {
        const int8_t *restrict x = (const int8_t *)rounded + token * dim;
        for (int i = 0; i < size * dim; i++) out[i] = x[i];
    } else {
        const uint16_t *restrict x = (const uint16_t *)rounded + token * dim;
        for (int i = 0; i < size * dim; i++) {
            union { uint32_t bits; float value; } u = {(uint32_t)x[i] << 16};
            out[i] = u.value;
        }
    }
}

/* An offset turned by a position's angles: as rotate-half does. */
static inline void turn(const float *restrict offset, const float *restrict angles, int dim, float *restrict out) {
    const int half = dim / 2;
    for (int d = 0; d < half; d++) out[d] = offset[d] * angles[d] + offset[d + half] * angles[dim + d];
    for (int d = half; d < dim; d++) out[d] = offset[d] * angles[d] + offset[d - half] * angles[dim + d];
}

static void attend(const float *restrict q, const void *keys, const void *values, const float *key_scales,
                   const float *value_scales, const int32_t *table, int64_t last, float *restrict out, int group,
                   int dim, int block_size, int kv_heads, int head, float scale, const float *offset,
                   const float *angles) {
    float peak[MAX_GROUP], total[MAX_GROUP], score[MAX_BLOCK];
    float key[MAX_BLOCK * MAX_HEAD_DIM], value[MAX_BLOCK * MAX_HEAD_DIM];
    int pairs[MAX_HEAD_DIM / 2], num_pairs = 0; /* that have an offset */
    for (int d = 0; offset && d < dim / 2; d++)
        if (offset[d] != 0 || offset[d + dim / 2] != 0) pairs[num_pairs++] = d;
    for (int g = 0; g < group; g++) peak[g] = -INFINITY, total[g] = 0;
    memset(out, 0, (size_t)group * dim * sizeof(float));
    for (int64_t start = 0; start <= last; start += block_size) {
        const int64_t token = ((int64_t)table[start / block_size] * kv_heads + head) * block_size;
        const int size = last - start + 1 < block_size ? (int)(last - start + 1) : block_size;
        widen(keys, key_scales != NULL, token, size, dim, key);
        widen(values, value_scales != NULL, token, size, dim, value);
        for (int t = 0; t < size && num_pairs; t++) {
            const float *restrict cosine = angles + (start + t) * 2 * dim, *restrict sine = cosine + dim;
            const float inverse = key_scales ? 1 / key_scales[token + t] : 1; /* a key's scale comes with its score */
            for (int i = 0; i < num_pairs; i++) {
                const int d = pairs[i], e = d + dim / 2;
                key[t * dim + d] += (offset[d] * cosine[d] + offset[e] * sine[d]) * inverse;
                key[t * dim + e] += (offset[e] * cosine[e] + offset[d] * sine[e]) * inverse;
            }
        }
        for (int g = 0; g < group; g++) {
            const float *restrict query = q + g * dim;
            float *restrict mixed = out + g * dim;
            float highest = peak[g];
            for (int t = 0; t < size; t++) {
                float sum = 0;
                for (int d = 0; d < dim; d++) sum += query[d] * key[t * dim + d];
                score[t] = sum * scale * (key_scales ? key_scales[token + t] : 1);
                highest = score[t] > highest ? score[t] : highest;
            }
            const float shrink = start ? expf(peak[g] - highest) : 0;
            for (int d = 0; d < dim; d++) mixed[d] *= shrink;
            total[g] *= shrink;
            peak[g] = highest;
            for (int t = 0; t < size; t++) {
                const float weight = expf(score[t] - highest);
                const float share = weight * (value_scales ? value_scales[token + t] : 1);
                total[g] += weight;
                for (int d = 0; d < dim; d++) mixed[d] += share * value[t * dim + d];
            }
        }
    }
    for (int g = 0; g < group; g++)
        for (int d = 0; d < dim; d++) out[g * dim + d] /= total[g];
}

void attend_rounded(const float *q, const float *new_keys, const float *new_values, void *keys, void *values,
                    const int32_t *tables, const int64_t *positions, float *out, float *key_scales,
                    float *value_scales, const float *offsets, const float *angles, int64_t num_tokens, int64_t width, int heads, int kv_heads, int dim,
                    int block_size, int threads) {
    const int group = heads / kv_heads;
    const float scale = 1 / sqrtf((float)dim);
    for (int64_t n = 0; n < num_tokens; n++)
        for (int k = 0; k < kv_heads; k++) {
            const int64_t block = tables[n * width + positions[n] / block_size];
            const int64_t token = (block * kv_heads + k) * block_size + positions[n] % block_size;
            const float *own = new_keys + (n * kv_heads + k) * dim;
            float kept[MAX_HEAD_DIM];
            if (offsets) {
                turn(offsets + k * dim, angles + positions[n] * 2 * dim, dim, kept);
                for (int d = 0; d < dim; d++) kept[d] = own[d] - kept[d];
            }
            store(offsets ? kept : own, keys, key_scales, token, dim);
            store(new_values + (n * kv_heads + k) * dim, values, value_scales, token, dim);
        }
#pragma omp parallel for collapse(2) schedule(dynamic, 4) num_threads(threads) if (threads > 1)
    for (int64_t n = 0; n < num_tokens; n++)
        for (int k = 0; k < kv_heads; k++) {
            const int64_t first = (n * kv_heads + k) * group * dim;
            attend(q + first, keys, values, key_scales, value_scales, tables + n * width, positions[n], out + first,
                   group, dim, block_size, kv_heads, k, scale, offsets ? offsets + k * dim : NULL, angles);
        }
}
