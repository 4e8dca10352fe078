/* One token for each row of logits in fp32, with its log-probability: what inference/sampling.py does, in one pass.
 *
 * Letters: R rows, V vocabulary.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#include "exponential.h"

#define CHUNK 256       /* tokens whose weights are summed together; a draw looks into one chunk only */
#define MAX_CHUNKS 4096 /* V / CHUNK */
#define MAX_TOP_K 1024

/* The settings of each row [R]; `positions` counts up with every token. Off: top_k V, top_p above 1, min_p 0. */
typedef struct {
    const int64_t *keys, *top_k;
    int64_t *positions;
    const uint8_t *greedy;
    const float *temperature, *late_temperature, *top_p, *min_p;
} settings;

/* SplitMix64: output number `position` of stream `key`, 24 bits of it as a number in [0, 1) */
static float draw(uint64_t key, uint64_t position) {
    uint64_t z = key + (position + 1) * 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return ((z ^ z >> 31) >> 40) * 0x1p-24f;
}

static int descending(const void *a, const void *b) {
    const float x = *(const float *)a, y = *(const float *)b;
    return (x < y) - (x > y);
}

/* Move the k largest of some numbers to the front (quickselect); the least of them. */
static float select_largest(float *x, int64_t size, int64_t k) {
    int64_t low = 0, high = size - 1;
    while (low < high) {
        const float pivot = x[(low + high) / 2];
        int64_t i = low, j = high;
        while (i <= j) {
            while (x[i] > pivot) i++;
            while (x[j] < pivot) j--;
            if (i <= j) {
                const float other = x[i];
                x[i++] = x[j], x[j--] = other;
            }
        }
        if (k - 1 <= j) high = j;
        else if (k - 1 >= i) low = i;
        else break;
    }
    return x[k - 1];
}

/* The k largest logits in order: those above a floor that rises are kept until there are too many. */
static void rank_largest(const float *logits, int64_t vocab, int64_t k, float *best) {
    const int64_t room = k < 16 ? 64 : 4 * k;
    int64_t count = 0;
    float floor = -INFINITY;
    for (int64_t first = 0; first < vocab; first += 64) {
        const int64_t last = vocab - first < 64 ? vocab : first + 64;
        float highest = -INFINITY;
        for (int64_t i = first; i < last; i++) highest = logits[i] > highest ? logits[i] : highest;
        if (count >= k && highest <= floor) continue;
        for (int64_t i = first; i < last; i++) {
            if (count >= k && logits[i] <= floor) continue;
            best[count++] = logits[i];
            if (count == room) floor = select_largest(best, count, k), count = k;
        }
    }
    select_largest(best, count, k);
    qsort(best, k, sizeof(float), descending);
}

/* The least logit that top-k, then top-p, then min-p keep. */
static float cut(const settings *s, const float *logits, int64_t row, int64_t vocab, float largest) {
    float threshold = -INFINITY;
    if (s->top_k[row] < vocab || s->top_p[row] < 1) {
        float best[4 * MAX_TOP_K];
        const int64_t k = s->top_k[row];
        rank_largest(logits, vocab, k, best);
        threshold = best[k - 1];
        if (s->top_p[row] < 1) {
            double total = 0, before = 0;
            for (int64_t i = 0; i < k; i++) total += expf((best[i] - largest) / s->temperature[row]);
            int64_t kept = 0;
            for (; kept < k && (kept == 0 || before < s->top_p[row] * total); kept++)
                before += expf((best[kept] - largest) / s->temperature[row]);
            threshold = best[kept - 1];
        }
    }
    if (s->min_p[row] > 0) threshold = fmaxf(threshold, largest + s->temperature[row] * logf(s->min_p[row]));
    return threshold;
}

static inline float weigh(float logit, float largest, float inverse, float threshold) {
    const float weight = exponential((logit - largest) * inverse);
    return logit >= threshold && logit > -INFINITY ? weight : 0;
}

/* Weights of all tokens by chunks; their sum. */
static double sum_chunks(const float *restrict logits, int64_t vocab, float largest, float inverse, float threshold,
                         float *chunks) {
    double total = 0;
    for (int64_t first = 0; first < vocab; first += CHUNK) {
        const int64_t last = vocab - first < CHUNK ? vocab : first + CHUNK;
        float sum = 0;
        for (int64_t i = first; i < last; i++) sum += weigh(logits[i], largest, inverse, threshold);
        total += chunks[first / CHUNK] = sum;
    }
    return total;
}

/* The first token up to which the weights sum to more than `target`; rounding must not carry it to one of none. */
static int64_t invert(const float *logits, int64_t vocab, float largest, float inverse, float threshold,
                      const float *chunks, double target) {
    const int64_t num_chunks = (vocab + CHUNK - 1) / CHUNK;
    int64_t chunk = 0, found = 0;
    double sum = 0;
    for (int64_t c = 0; c < num_chunks; c++) {
        if (chunks[c] == 0) continue;
        chunk = c;
        if (sum + chunks[c] > target) break;
        sum += chunks[c];
    }
    const int64_t last = vocab - chunk * CHUNK < CHUNK ? vocab : (chunk + 1) * CHUNK;
    for (int64_t i = chunk * CHUNK; i < last; i++) {
        const float weight = weigh(logits[i], largest, inverse, threshold);
        if (weight > 0) found = i;
        sum += weight;
        if (sum > target) break;
    }
    return found;
}

static void sample_row(const settings *s, const float *restrict logits, int64_t row, int64_t vocab, int64_t *token,
                       float *logprob) {
    float largest = -INFINITY;
    int32_t broken = 0;
    for (int64_t i = 0; i < vocab; i++) {
        largest = logits[i] > largest ? logits[i] : largest;
        broken |= logits[i] != logits[i];
    }
    *token = 0;
    *logprob = NAN;
    if (broken || largest == INFINITY || largest == -INFINITY) return;
    const float inverse = 1 / (s->temperature[row] * s->late_temperature[row]);
    const float threshold = s->greedy[row] ? -INFINITY : cut(s, logits, row, vocab, largest);
    float chunks[MAX_CHUNKS];
    const double total = sum_chunks(logits, vocab, largest, inverse, threshold, chunks);
    if (s->greedy[row])
        while (logits[*token] != largest) ++*token;
    else
        *token = invert(logits, vocab, largest, inverse, threshold, chunks,
                        total * draw(s->keys[row], s->positions[row]));
    *logprob = (logits[*token] - largest) * inverse - (float)log(total);
}

/* tokens, logprobs: [R]; positions of the settings, and `places` [R], go on by one. A row that is not finite: NaN. */
void sample_rows(const settings *s, const float *logits, int64_t num_rows, int64_t vocab, int64_t *tokens,
                 float *logprobs, int64_t *places, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1 && num_rows * vocab > 1 << 15)
    for (int64_t row = 0; row < num_rows; row++) {
        sample_row(s, logits + row * vocab, row, vocab, tokens + row, logprobs + row);
        s->positions[row]++;
        places[row]++;
    }
}
