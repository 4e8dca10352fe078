/* Attention within documents and its gradients, in fp32, for training on a CPU.
 *
 * q, out [R, H, D] and k, v [R, K, D] are rows of tokens; token t of document s lies in row rows[starts[s] + t]. Documents
 * that begin alike share rows: the queries of the first begins[s] tokens are another document's. groups: [G + 1] the
 * documents that share rows are neighbours.
 *
 * Some queries at a time meet all keys up to the last of them, as products of matrices. One thread takes all of a
 * group's documents for one kv head, in order: their number changes no bit.
 */
#include <math.h>

#include "products.h"

#define MOST_ROWS (4 * HIGH) /* of scores at a time: the queries of all heads that share a kv head */

typedef struct {
    const int64_t *rows, *starts, *lengths, *begins, *groups;
    int64_t num_groups;
    int32_t heads, kv_heads, dim;
} documents;

/* Buffers of one thread; sizes as the comments say: L tokens of a document, M rows of scores, D' and L' padded. */
typedef struct {
    float *keys, *values;               /* [L, D] */
    float *key_columns, *value_columns; /* [L' / WIDTH, D, WIDTH] */
    float *key_rows, *value_rows;       /* [D' / WIDTH, L, WIDTH] */
    float *key_slopes, *value_slopes;   /* [L, D'] */
    float *queries, *grads;             /* [M, D] */
    float *query_rows, *grad_rows;      /* [D' / WIDTH, M, WIDTH] */
    float *scores, *slopes;             /* [M, L'] */
    float *mixed;                       /* [M, D'] */
    float *packed;                      /* [most of L, D and M, HIGH] */
} buffers;

INLINE int64_t padded(int64_t size, int64_t step) { return (size + step - 1) / step * step; }

static float *make_room(const documents *d, int64_t longest, buffers *b) {
    const int64_t dim = d->dim, wide = padded(dim, WIDTH), high = padded(longest, WIDTH) + HIGH;
    const int64_t group = d->heads / d->kv_heads, most = padded(group > MOST_ROWS ? group : MOST_ROWS, HIGH);
    const int64_t deepest = high + dim + most;
    float **places[] = {&b->keys,       &b->values,       &b->key_columns, &b->value_columns, &b->key_rows,
                        &b->value_rows, &b->key_slopes,   &b->value_slopes, &b->queries,      &b->grads,
                        &b->query_rows, &b->grad_rows,    &b->scores,       &b->slopes,       &b->mixed,
                        &b->packed};
    const int64_t sizes[] = {high * dim,  high * dim, high * dim, high * dim,  high * wide, high * wide,
                             high * wide, high * wide, most * dim, most * dim,  most * wide, most * wide,
                             most * high, most * high, most * wide, deepest * HIGH};
    int64_t total = 0;
    for (int i = 0; i < 16; i++) total += padded(sizes[i] + LANES, LANES);
    float *room = aligned_alloc(64, padded(total * sizeof(float), 64));
    if (!room) return 0;
    for (int64_t i = 0, place = 0; i < 16; place += padded(sizes[i] + LANES, LANES), i++) *places[i] = room + place;
    return room;
}

/* out [rows, columns] (+)= a times packed b [columns / WIDTH, b_depth, WIDTH]; rows are filled up to a multiple of HIGH. */
INLINE void product(const float *a, int64_t a_row, int64_t a_step, const float *b, int64_t b_depth, float *room,
                    float *out, int64_t rows, int64_t columns, int64_t depth, int adds) {
    for (int64_t r = 0; r < rows; r += HIGH) {
        pack_high(a + r * a_row, a_row, a_step, room, smaller(rows - r, HIGH), depth);
        for (int64_t c = 0; c < columns; c += WIDTH)
            multiply_tile(room, b + c * b_depth, 0, out + r * columns + c, columns, depth, adds);
    }
}

/* x [count, dim] as the columns that a product wants, or as its rows */
static void pack_columns(const float *x, float *out, int64_t count, int64_t dim) {
    for (int64_t c = 0; c < count; c += WIDTH) pack_wide(x + c * dim, dim, 1, out + c * dim, smaller(count - c, WIDTH), dim);
}

static void pack_rows(const float *x, float *out, int64_t count, int64_t dim) {
    for (int64_t c = 0; c < dim; c += WIDTH) pack_wide(x + c, 1, dim, out + c * count, smaller(dim - c, WIDTH), count);
}

/* The scores of `size` tokens become weights whose largest is 1, those beyond 0; the sum. */
INLINE float soften(float *scores, int64_t size, int64_t width) {
    vec peaks = (vec){0} - INFINITY, total = {0};
    for (int64_t i = 0; i < size; i += LANES) {
        const vec own = load(scores + i);
        peaks = larger(peaks, pick((ints){NUMBERS} < (int)smaller(size - i, LANES), own, peaks));
    }
    const float peak = largest_lane(peaks);
    for (int64_t i = 0; i < width; i += LANES) {
        const int left = (int)(size - i < 0 ? 0 : smaller(size - i, LANES));
        vec own = (vec){0};
        if (left) own = pick((ints){NUMBERS} < left, exponential_below_0(load(scores + i) - peak), own);
        total += own;
        *(vec *)(scores + i) = own;
    }
    return sum_lanes(total);
}

/* Weights w and the gradients g of mixed values become probabilities p = w / total and p (g - sum of p g). */
INLINE void slope(float *weights, float *grads, float total, int64_t width) {
    vec sum = {0};
    for (int64_t i = 0; i < width; i += LANES) sum += load(weights + i) * load(grads + i);
    const float inverse = 1 / total, mean = sum_lanes(sum) * inverse;
    for (int64_t i = 0; i < width; i += LANES) {
        const vec own = load(weights + i) * inverse;
        *(vec *)(weights + i) = own;
        *(vec *)(grads + i) = own * (load(grads + i) - mean);
    }
}

/* Numbers of one head of the tokens `first` to `last`, times a factor: [tokens * group, D] */
static void gather(const float *x, const int64_t *rows, int64_t first, int64_t last, int64_t stride, int64_t group,
                   int64_t dim, float factor, float *out) {
    const int64_t size = group * dim;
    for (int64_t t = first; t < last; t++, out += size)
        for (int64_t i = 0; i < size; i++) out[i] = x[rows[t] * stride + i] * factor;
}

/* The rows' numbers become [tokens * group, D], or are added to. */
static void scatter(const float *x, const int64_t *rows, int64_t first, int64_t last, int64_t stride, int64_t group,
                    int64_t dim, int64_t wide, float *out, int adds) {
    for (int64_t t = first; t < last; t++)
        for (int64_t g = 0; g < group; g++, x += wide) {
            float *restrict place = out + rows[t] * stride + g * dim;
            if (adds)
                for (int64_t i = 0; i < dim; i++) place[i] += x[i];
            else memcpy(place, x, dim * sizeof(float));
        }
}

/* Queries `first` to `last` of a document: the weights of all keys up to the last, and their sums. */
static int64_t weigh(const documents *d, const buffers *b, const float *q, const int64_t *rows, int64_t first,
                     int64_t last, float *totals) {
    const int64_t group = d->heads / d->kv_heads, dim = d->dim, count = (last - first) * group;
    const int64_t width = padded(last, WIDTH);
    gather(q, rows, first, last, d->heads * dim, group, dim, 1 / sqrtf((float)dim), b->queries);
    product(b->queries, dim, 1, b->key_columns, dim, b->packed, b->scores, count, width, dim, 0);
    for (int64_t m = 0; m < count; m++) totals[m] = soften(b->scores + m * width, first + m / group + 1, width);
    return width;
}

static int64_t queries_together(const documents *d) {
    const int64_t group = d->heads / d->kv_heads;
    return group > MOST_ROWS ? 1 : MOST_ROWS / group;
}

static void attend_document(const documents *d, const buffers *b, int64_t s, int kv_head, const float *q,
                            const float *k, const float *v, float *out) {
    const int64_t group = d->heads / d->kv_heads, dim = d->dim, wide = padded(dim, WIDTH), length = d->lengths[s];
    const int64_t *rows = d->rows + d->starts[s], head = kv_head * dim, step = queries_together(d);
    gather(k + head, rows, 0, length, d->kv_heads * dim, 1, dim, 1, b->keys);
    gather(v + head, rows, 0, length, d->kv_heads * dim, 1, dim, 1, b->values);
    pack_columns(b->keys, b->key_columns, length, dim);
    pack_rows(b->values, b->value_rows, length, dim);
    for (int64_t first = d->begins[s]; first < length; first += step) {
        const int64_t last = smaller(length, first + step), count = (last - first) * group;
        float totals[MOST_ROWS < 256 ? 256 : MOST_ROWS];
        const int64_t width = weigh(d, b, q + head * group, rows, first, last, totals);
        product(b->scores, width, 1, b->value_rows, length, b->packed, b->mixed, count, wide, last, 0);
        for (int64_t m = 0; m < count; m++)
            for (int64_t i = 0; i < dim; i++) b->mixed[m * wide + i] /= totals[m];
        scatter(b->mixed, rows, first, last, d->heads * dim, group, dim, wide, out + head * group, 0);
    }
}

typedef struct {
    float *q, *k, *v;
} gradients;

static void slope_document(const documents *d, const buffers *b, int64_t s, int kv_head, const float *q,
                           const float *k, const float *v, const float *grad, const gradients *to) {
    const int64_t group = d->heads / d->kv_heads, dim = d->dim, wide = padded(dim, WIDTH), length = d->lengths[s];
    const int64_t *rows = d->rows + d->starts[s], head = kv_head * dim, step = queries_together(d);
    const float scale = 1 / sqrtf((float)dim);
    gather(k + head, rows, 0, length, d->kv_heads * dim, 1, dim, 1, b->keys);
    gather(v + head, rows, 0, length, d->kv_heads * dim, 1, dim, 1, b->values);
    pack_columns(b->keys, b->key_columns, length, dim);
    pack_columns(b->values, b->value_columns, length, dim);
    pack_rows(b->keys, b->key_rows, length, dim);
    memset(b->key_slopes, 0, length * wide * sizeof(float));
    memset(b->value_slopes, 0, length * wide * sizeof(float));
    for (int64_t first = d->begins[s]; first < length; first += step) {
        const int64_t last = smaller(length, first + step), count = (last - first) * group;
        float totals[MOST_ROWS < 256 ? 256 : MOST_ROWS];
        const int64_t width = weigh(d, b, q + head * group, rows, first, last, totals);
        gather(grad + head * group, rows, first, last, d->heads * dim, group, dim, 1, b->grads);
        product(b->grads, dim, 1, b->value_columns, dim, b->packed, b->slopes, count, width, dim, 0);
        for (int64_t m = 0; m < count; m++) slope(b->scores + m * width, b->slopes + m * width, totals[m], width);
        product(b->slopes, width, 1, b->key_rows, length, b->packed, b->mixed, count, wide, last, 0);
        for (int64_t i = 0; i < count * wide; i++) b->mixed[i] *= scale;
        scatter(b->mixed, rows, first, last, d->heads * dim, group, dim, wide, to->q + head * group, 0);
        pack_rows(b->queries, b->query_rows, count, dim);
        pack_rows(b->grads, b->grad_rows, count, dim);
        product(b->slopes, 1, width, b->query_rows, count, b->packed, b->key_slopes, last, wide, count, 1);
        product(b->scores, 1, width, b->grad_rows, count, b->packed, b->value_slopes, last, wide, count, 1);
    }
    scatter(b->key_slopes, rows, 0, length, d->kv_heads * dim, 1, dim, wide, to->k + head, 1);
    scatter(b->value_slopes, rows, 0, length, d->kv_heads * dim, 1, dim, wide, to->v + head, 1);
}

/* Without `grad`: what the tokens see, into to->q. With it: the gradients; those of k and v are added to what is there.
 * 0 where there is no memory.
 */
static int attend_or_slope(const documents *d, const float *q, const float *k, const float *v, const float *grad,
                           gradients to, int threads) {
    int64_t longest = 0;
    for (int64_t s = 0; s < d->groups[d->num_groups]; s++) longest = d->lengths[s] > longest ? d->lengths[s] : longest;
    int whole = 1;
#pragma omp parallel num_threads(threads) reduction(&& : whole) if (threads > 1)
    {
        buffers b;
        float *room = make_room(d, longest, &b);
        whole = room != 0;
#pragma omp for collapse(2) schedule(dynamic)
        for (int64_t g = 0; g < d->num_groups; g++)
            for (int h = 0; h < d->kv_heads; h++)
                for (int64_t s = d->groups[g]; room && s < d->groups[g + 1]; s++)
                    if (grad) slope_document(d, &b, s, h, q, k, v, grad, &to);
                    else attend_document(d, &b, s, h, q, k, v, to.q);
        free(room);
    }
    return whole;
}

int attend_documents(const documents *d, const float *q, const float *k, const float *v, float *out, int threads) {
    return attend_or_slope(d, q, k, v, 0, (gradients){out, 0, 0}, threads);
}

/* k_grad, v_grad: zeros before. */
int document_slopes(const documents *d, const float *q, const float *k, const float *v, const float *grad,
                    float *q_grad, float *k_grad, float *v_grad, int threads) {
    return attend_or_slope(d, q, k, v, grad, (gradients){q_grad, k_grad, v_grad}, threads);
}
