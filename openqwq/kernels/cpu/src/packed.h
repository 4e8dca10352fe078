/* Narrow weights, from codes to fp32.
 *
 * codes   [O/8, I/128, 8, 128 weights]: eight outputs lie together, block by block of inputs, so that memory is read in
 *         order. int8, or words of 32 bits, 16 of them with the weights w, 16 + w, ... in word w from its low end: two
 *         of bf16, eight of int4.
 * scales  int8: [O]. int4: [O/8, I/128, 8, groups], where groups is 128 over the group's size.
 * zeros   int4: the code that stands for 0, laid out as the scales.
 */
#pragma once
#include "vectors.h"

enum { BF16, INT8, INT4 };
#define PANEL 8      /* outputs that lie together */
#define BLOCK 128    /* inputs that lie together */
#define MAX_GROUPS 4 /* of a block */
#define PARTS (BLOCK / LANES)
#define LOOSE(size) __attribute__((vector_size(size), aligned(1), may_alias))
typedef float floats __attribute__((vector_size(4 * LANES)));
typedef ints words;
typedef float loose_floats LOOSE(4 * LANES);
typedef int32_t loose_words LOOSE(4 * LANES);
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

/* One part of a block of codes in floating point; int8 without its channel's scale. */
INLINE floats widen(int kind, const uint8_t *code, int part, float scale, float zero) {
    if (kind == INT8) return __builtin_convertvector(widen_bytes(code + part * LANES), floats);
    const int turn = part * LANES / 16, first = kind == BF16 ? turn / 2 * 16 : 0;
    const words word = (words)*(const loose_words *)(code + (first + part * LANES % 16) * 4);
    if (kind == BF16) return (floats)(turn % 2 ? word & -65536 : word << 16);
    return widen_nibbles(word >> turn * 4, scale, zero);
}

/* The zeros of a block's outputs in floating point, all at once. */
INLINE void widen_zeros(int kind, int groups, const uint8_t *zeros, float *out) {
    for (int i = 0; i < PANEL * groups && kind == INT4; i++) out[i] = zeros[i];
}

/* Each part of output o of block b. The first of a group's parts sees the group's scale and zero (wide_zeros: the
 * block's); kinds without groups have one group and no scale.
 */
#define EACH_PART(kind, groups, b, o, body)                                                                            \
    _Pragma("GCC unroll 8") for (int g = 0; g < groups; g++) {                                                         \
        const float scale = kind == INT4 ? scales[((b) * PANEL + (o)) * groups + g] : 1;                               \
        const float zero = kind == INT4 ? wide_zeros[(o) * groups + g] : 0;                                            \
        const uint8_t *code = codes + ((b) * PANEL + (o)) * code_bytes(kind);                                          \
        _Pragma("GCC unroll 16") for (int part = g * PARTS / groups; part < (g + 1) * PARTS / groups; part++) {        \
            const floats weight = widen(kind, code, part, scale, zero);                                                \
            body;                                                                                                      \
        }                                                                                                              \
    }

/* `call` with the kind and the groups of a block as constants. */
#define SPECIALISE(call)                                                                                               \
    if (kind == BF16) call(BF16, 1);                                                                                   \
    else if (kind == INT8) call(INT8, 1);                                                                              \
    else if (groups == 1) call(INT4, 1);                                                                               \
    else if (groups == 2) call(INT4, 2);                                                                               \
    else call(INT4, 4)

INLINE void widen_panel(int kind, int groups, const uint8_t *codes, const float *scales, const uint8_t *zeros,
                        float *out, int64_t blocks) {
    for (int64_t b = 0; b < blocks; b++) {
        float wide_zeros[PANEL * MAX_GROUPS];
        widen_zeros(kind, groups, zeros + b * PANEL * groups, wide_zeros);
        for (int o = 0; o < PANEL; o++) {
            float *place = out + (o * blocks + b) * BLOCK;
            EACH_PART(kind, groups, b, o, *(loose_floats *)(place + part * LANES) = weight)
        }
    }
}
