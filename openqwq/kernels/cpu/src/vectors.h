/* Vectors of floats as wide as the processor's, and their sums. */
#pragma once
#include <stdint.h>
#include <string.h>

#ifdef __AVX2__
#include <immintrin.h>
#endif

#ifdef __AVX512F__
#define LANES 16
#else
#define LANES 8
#endif
#define RUN 64 /* products that are summed before they go to the sum of all: rounding grows with a sum's length */
#define INLINE static inline __attribute__((always_inline))

INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t ints __attribute__((vector_size(4 * LANES)));

#ifdef __clang__
#define MERGE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define MERGE(a, b, ...) __builtin_shuffle(a, b, (ints){__VA_ARGS__})
#endif

#ifdef __AVX2__
#define IN_REGISTER(v) __asm__("" : "+v"(v)) /* a compiler may read it from memory again for each product */
#else
#define IN_REGISTER(v)
#endif

INLINE vec load(const float *x) { return *(const vec *)x; }

INLINE vec load_part(const float *x, int64_t count) {
    vec v = {0};
    memcpy(&v, x, count * sizeof(float));
    return v;
}

/* a where the mask is set, b elsewhere */
INLINE vec pick(ints mask, vec a, vec b) { return (vec)((mask & (ints)a) | (~mask & (ints)b)); }

#if LANES == 16
#define LOW_8 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23
#define HIGH_8 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31
#define LOW_4 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27
#define HIGH_4 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31
#define LOW_2 0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21, 24, 25, 28, 29
#define HIGH_2 2, 3, 6, 7, 10, 11, 14, 15, 18, 19, 22, 23, 26, 27, 30, 31
#define EVEN 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30
#define ODD 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31
#define OTHER_8 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7
#define OTHER_4 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11
#define OTHER_2 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13
#define OTHER_1 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14
#define NUMBERS 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
#define REVERSED 0, 8, 4, 12, 2, 10, 6, 14, 1, 9, 5, 13, 3, 11, 7, 15
#else
#define LOW_4 0, 1, 2, 3, 8, 9, 10, 11
#define HIGH_4 4, 5, 6, 7, 12, 13, 14, 15
#define LOW_2 0, 1, 4, 5, 8, 9, 12, 13
#define HIGH_2 2, 3, 6, 7, 10, 11, 14, 15
#define EVEN 0, 2, 4, 6, 8, 10, 12, 14
#define ODD 1, 3, 5, 7, 9, 11, 13, 15
#define OTHER_4 4, 5, 6, 7, 0, 1, 2, 3
#define OTHER_2 2, 3, 0, 1, 6, 7, 4, 5
#define OTHER_1 1, 0, 3, 2, 5, 4, 7, 6
#define NUMBERS 0, 1, 2, 3, 4, 5, 6, 7
#define REVERSED 0, 4, 2, 6, 1, 5, 3, 7
#endif
#define FOLD(a, b, size) (MERGE(a, b, LOW_##size) + MERGE(a, b, HIGH_##size))

/* By halves. */
INLINE float sum_lanes(vec v) {
#if LANES == 16
    v += MERGE(v, v, OTHER_8);
#endif
    v += MERGE(v, v, OTHER_4);
    v += MERGE(v, v, OTHER_2);
    v += MERGE(v, v, OTHER_1);
    return v[0];
}

/* The sums of four vectors, each that of `sum_lanes`. */
INLINE void sum_four(const vec *v, float *sums) {
#if LANES == 16
    vec all = FOLD(FOLD(v[0], v[1], 8), FOLD(v[2], v[3], 8), 4);
    all += MERGE(all, all, OTHER_2);
#else
    vec all = FOLD(FOLD(v[0], v[1], 4), FOLD(v[2], v[3], 4), 2);
#endif
    all += MERGE(all, all, OTHER_1);
    for (int i = 0; i < 4; i++) sums[i] = all[i * (LANES / 4)];
}

/* The sums of LANES vectors: lane i of the result is that of v[the bits of i REVERSED]. */
INLINE vec sum_each(vec *v) {
#if LANES == 16
    for (int i = 0; i < 8; i++) v[i] = FOLD(v[i], v[i + 8], 8);
#endif
    for (int i = 0; i < 4; i++) v[i] = FOLD(v[i], v[i + 4], 4);
    for (int i = 0; i < 2; i++) v[i] = FOLD(v[i], v[i + 2], 2);
    return MERGE(v[0], v[1], EVEN) + MERGE(v[0], v[1], ODD);
}

/* v[i][j] and v[j][i] change places: a stage moves the lowest bit of j into i, and one of i into the highest of j. */
INLINE void transpose(vec *v) {
    _Pragma("GCC unroll 4") for (int step = 1; step < LANES; step *= 2)
        _Pragma("GCC unroll 16") for (int i = 0; i < LANES; i++)
            if (!(i & step)) {
                const vec one = v[i], other = v[i + step];
                v[i] = MERGE(one, other, EVEN);
                v[i + step] = MERGE(one, other, ODD);
            }
}

INLINE vec larger(vec a, vec b) {
#if defined(__AVX512F__)
    return (vec)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
    return (vec)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return pick(a > b, a, b);
#endif
}

INLINE float largest_lane(vec v) {
#if LANES == 16
    v = larger(v, MERGE(v, v, OTHER_8));
#endif
    v = larger(v, MERGE(v, v, OTHER_4));
    v = larger(v, MERGE(v, v, OTHER_2));
    v = larger(v, MERGE(v, v, OTHER_1));
    return v[0];
}

/* e^x for x <= 0 to 2e-7 relative; what is not a number stays none */
INLINE vec exponential_below_0(vec x) {
    x = pick(x < -87.0f, (vec){0} - 87.0f, x);
    const ints whole = __builtin_convertvector(x * 1.44269504f - 0.5f, ints); /* towards 0: the nearest of x <= 0 */
    const vec steps = __builtin_convertvector(whole, vec);
    const vec rest = x - steps * 0.693359375f + steps * 2.12194440e-4f;
    vec sum = rest * 1.9875691500e-4f + 1.3981999507e-3f;
    sum = sum * rest + 8.3334519073e-3f;
    sum = sum * rest + 4.1665795894e-2f;
    sum = sum * rest + 1.6666665459e-1f;
    sum = sum * rest + 5.0000001201e-1f;
    sum = sum * rest * rest + rest + 1.0f;
    return sum * (vec)((whole + 127) << 23);
}

/* 2^x for x <= 0 to 2e-7 relative; what is not a number stays none */
INLINE vec power_of_2(vec x) {
    x = larger((vec){0} - 125.0f, x);
    const ints whole = __builtin_convertvector(x - 0.5f, ints); /* towards 0: the nearest of x <= 0 */
    const vec rest = x - __builtin_convertvector(whole, vec);
    vec sum = rest * 1.5403530e-4f + 1.3333558e-3f;
    sum = sum * rest + 9.6181291e-3f;
    sum = sum * rest + 5.5504109e-2f;
    sum = sum * rest + 2.4022651e-1f;
    sum = sum * rest + 6.9314718e-1f;
    sum = sum * rest + 1.0f;
    return (vec)((ints)sum + (whole << 23));
}
