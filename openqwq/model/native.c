/* Kernels for decoding on a CPU, in fp32: attention over a paged cache, and linear layers with int8 weights.
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
 * linear_int8: out [N, O] = x [N, I] weight^T [O, I] * scale [O]; each weight is read once for all of the N rows.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

#define MAX_GROUP 32
#define MAX_HEAD_DIM 256
#define MAX_BLOCK 64

/* e^x for x <= 0 to 2e-7 relative, without branches or calls, so that loops over it become vector code. */
static inline float exponential(float x) {
    x = x < -87.0f ? -87.0f : x;
    const float whole = rintf(x * 1.44269504f);
    const float rest = x - whole * 0.693359375f + whole * 2.12194440e-4f;
    float sum = 1.9875691500e-4f;
    sum = sum * rest + 1.3981999507e-3f;
    sum = sum * rest + 8.3334519073e-3f;
    sum = sum * rest + 4.1665795894e-2f;
    sum = sum * rest + 1.6666665459e-1f;
    sum = sum * rest + 5.0000001201e-1f;
    sum = sum * rest * rest + rest + 1.0f;
    union { int32_t bits; float value; } scale = {((int32_t)whole + 127) << 23};
    return sum * scale.value;
}

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

void linear_int8(const float *x, const int8_t *weight, const float *scale, float *out, int64_t num_rows, int64_t outputs,
                 int64_t inputs, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1 && outputs * inputs > 1 << 16)
    for (int64_t o = 0; o < outputs; o++) {
        const int8_t *restrict row = weight + o * inputs;
        for (int64_t n = 0; n < num_rows; n++) {
            const float *restrict input = x + n * inputs;
            float sum = 0;
            for (int64_t i = 0; i < inputs; i++) sum += input[i] * row[i];
            out[n * outputs + o] = sum * scale[o];
        }
    }
}
