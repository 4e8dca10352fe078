/* Products of matrices in fp32 for training on a CPU, where both of them are large.
 *
 * multiply: out [M, N] (+)= a [M, K] b [K, N] + bias [N]; bias may be null. Entry (m, k) of a is
 * a[m * a_row + k * a_step], entry (k, n) of b is b[n * b_column + k * b_step]: a transposed matrix has other strides.
 *
 * b is copied for all threads, a block of a's rows for each. One thread takes each sum, along K in order: neither M, N
 * nor the number of threads changes a bit.
 *
 * multiply_rows: out [M, O] = x [M, I] weight^T [O, I] + bias [O], bit for bit what `multiply` makes of it, but for few
 * rows: vectors run over the rows, so that only some of the weights are copied at a time. The results are turned.
 */
#include "products.h"

#define BLOCK_ROWS 224    /* x DEPTH entries of a stay in the second cache; a multiple of HIGH */
#define ROWS_TOGETHER 256 /* x I entries of x are copied at a time; a multiple of WIDTH */

/* The same for the first half of a tile's columns. */
static __attribute__((noinline)) void multiply_narrow(const float *a, const float *b, float *out, int64_t depth,
                                                      int adds) {
    sum_tile(a, b, 0, out, WIDTH, depth, adds, 1);
}

/* The same where only `rows` x `columns` of the tile are there. */
static void multiply_edge(const float *a, const float *b, const float *bias, float *out, int64_t stride,
                          int64_t depth, int adds, int64_t rows, int64_t columns) {
    float tile[HIGH * WIDTH] = {0};
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < columns; c++) tile[r * WIDTH + c] = bias ? bias[c] : adds ? out[r * stride + c] : 0;
    multiply_tile(a, b, 0, tile, WIDTH, depth, 1);
    for (int64_t r = 0; r < rows; r++) memcpy(out + r * stride, tile + r * WIDTH, columns * sizeof(float));
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

/* Room of this thread's own; it stays for the next call. Null where there is no memory. */
static float *own_room(int64_t size) {
    static _Thread_local float *room;
    static _Thread_local int64_t held;
    if (held < size) {
        free(room);
        room = aligned_alloc(64, (size + 15) / 16 * 64);
        held = room ? size : 0;
    }
    return room;
}

/* Columns of a tile [LANES, WIDTH] as rows of out: `rows` of them, each of `count` numbers. */
INLINE void turn_tile(const float *tile, float *out, int64_t stride, int64_t rows, int64_t count, int adds) {
    for (int64_t first = 0; first < rows; first += LANES) {
        vec v[LANES];
        _Pragma("GCC unroll 16") for (int n = 0; n < LANES; n++) v[n] = load(tile + n * WIDTH + first);
        transpose(v);
        for (int64_t r = first; r < smaller(rows, first + LANES); r++) {
            float *place = out + r * stride;
            if (adds) v[r - first] += load_part(place, count);
            memcpy(place, &v[r - first], count * sizeof(float));
        }
    }
}

/* tile [LANES, WIDTH] = bias + weights [I, HIGH]^T x [I, WIDTH] */
INLINE void sum_outputs(const float *weights, const float *x, const float *bias, float *tile, int64_t inputs,
                        int64_t rows, int64_t count) {
    for (int64_t o = 0; o < HIGH; o++)
        for (int v = 0; v < WIDE; v++)
            *(vec *)(tile + o * WIDTH + v * LANES) = (vec){0} + (bias && o < count ? bias[o] : 0);
    for (int64_t k = 0; k < inputs; k += DEPTH) {
        const float *own = weights + k * HIGH, *some = x + k * WIDTH;
        if (rows > LANES) multiply_tile(own, some, 0, tile, WIDTH, smaller(inputs - k, DEPTH), 1);
        else multiply_narrow(own, some, tile, smaller(inputs - k, DEPTH), 1);
    }
}

/* The outputs `first` to `last`, by one thread; 0 where there is no memory. adds: to what is in out. */
int multiply_some(const float *x, const float *weight, const float *bias, float *out, int64_t inputs, int64_t outputs,
                  int64_t num_rows, int64_t first, int64_t last, int adds) {
    const int64_t most = (smaller(num_rows, ROWS_TOGETHER) + WIDTH - 1) / WIDTH * WIDTH;
    float *columns = own_room((most + HIGH) * inputs + 2 * LANES), *weights = columns + most * inputs;
    if (!columns) return 0;
    float tile[LANES * WIDTH] = {0};
    for (int64_t n = 0; n < num_rows; n += ROWS_TOGETHER) {
        const int64_t end = smaller(num_rows, n + ROWS_TOGETHER);
        for (int64_t r = n; r < end; r += WIDTH)
            pack_wide(x + r * inputs, inputs, 1, columns + (r - n) * inputs, smaller(end - r, WIDTH), inputs);
        for (int64_t o = first; o < last; o += HIGH) {
            const int64_t count = smaller(last - o, HIGH);
            pack_high(weight + o * inputs, inputs, 1, weights, count, inputs);
            for (int64_t r = n; r < end; r += WIDTH) {
                const int64_t rows = smaller(end - r, WIDTH);
                sum_outputs(weights, columns + (r - n) * inputs, bias ? bias + o : 0, tile, inputs, rows, count);
                float *place = out + r * outputs + o;
                if (count == HIGH) turn_tile(tile, place, outputs, rows, HIGH, adds);
                else turn_tile(tile, place, outputs, rows, count, adds);
            }
        }
    }
    return 1;
}

/* 0 where there is no memory. */
int multiply_rows(const float *x, const float *weight, const float *bias, float *out, int64_t inputs, int64_t outputs,
                  int64_t num_rows, int threads) {
    int whole = 1;
    const int64_t tiles = (outputs + HIGH - 1) / HIGH, step = (tiles + threads - 1) / threads * HIGH;
#pragma omp parallel for schedule(static) num_threads(threads) reduction(&& : whole) if (threads > 1)
    for (int64_t o = 0; o < outputs; o += step)
        whole = multiply_some(x, weight, bias, out, inputs, outputs, num_rows, o, smaller(outputs, o + step), 0) && whole;
    return whole;
}
