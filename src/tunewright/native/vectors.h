/* What a CPU does between the matrix products of a packed batch, and those products of bfloat16.

   Compiled at first use by build.py and called through ctypes (models/layers/native_attention.py
   and its neighbours); every function has a counterpart in plain torch, against which it is tested.
   It is written with the vector extension of GCC and clang, so that one text serves AVX-512, AVX2 and
   NEON; intrinsics stand only where the extension has no word for it.

   Tensors are float32, or bfloat16 where `narrow` is set; sums are float32 throughout. Work is
   handed to the threads item by item, and no item's result depends on the thread that computes it
   nor on their number.

   Letters: N tokens, S queries and T keys of a sequence, D width of a head, W lanes of a vector. */

#pragma once
#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define W 16
#define TALL 8 /* rows of a tile whose sums stay in registers */
#define ZIP_LOW 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define ZIP_HIGH 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#define LANES 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
#elif defined(__AVX2__)
#define W 8
#define TALL 4
#define ZIP_LOW 0, 8, 1, 9, 2, 10, 3, 11
#define ZIP_HIGH 4, 12, 5, 13, 6, 14, 7, 15
#define LANES 0, 1, 2, 3, 4, 5, 6, 7
#else
#define W 4
#define TALL 4
#define ZIP_LOW 0, 4, 1, 5
#define ZIP_HIGH 2, 6, 3, 7
#define LANES 0, 1, 2, 3
#endif

#ifdef __AVX512BF16__
#define HAS_PAIRS 1
#else
#define HAS_PAIRS 0
#endif

#define WIDE (2 * W) /* queries that go through attention together: two vectors */
#define INLINE inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

typedef float vec __attribute__((vector_size(4 * W)));
typedef int32_t ivec __attribute__((vector_size(4 * W)));
typedef uint32_t uvec __attribute__((vector_size(4 * W)));
typedef float loose_vec __attribute__((vector_size(4 * W), may_alias, aligned(4)));
typedef uint32_t word __attribute__((may_alias));
typedef int64_t count;

static INLINE count up(count number, count unit) { return (number + unit - 1) / unit * unit; }
static INLINE count half(count number, int pairs) { return pairs ? (number + 1) / 2 : number; }
static INLINE count fewer(count a, count b) { return a < b ? a : b; }

/* Vectors ---------------------------------------------------------------------------------- */

static INLINE vec load(const float *from) { return *(const loose_vec *)from; }
static INLINE void store(float *to, vec values) { *(loose_vec *)to = values; }
static INLINE vec all(float value) { return value - (vec){0}; }
static INLINE vec chosen(ivec where, vec yes, vec no) {
    return (vec)((where & (ivec)yes) | (~where & (ivec)no));
}
static INLINE vec larger(vec a, vec b) {
#if defined(__AVX512F__)
    return (vec)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
    return (vec)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return chosen(a > b, a, b);
#endif
}

static INLINE int any(ivec where) {
#if defined(__AVX512F__)
    return _mm512_test_epi32_mask((__m512i)where, (__m512i)where) != 0;
#elif defined(__AVX2__)
    return _mm256_movemask_ps((__m256)where) != 0;
#else
    int found = 0;
    for (int i = 0; i < W; i++) found |= where[i];
    return found;
#endif
}

/* e to the power of x, which is between -0.35 and 0.35: Cephes' polynomial. */
static INLINE vec power_series(vec x) {
    vec sum = x * 1.9875691500e-4f + 1.3981999507e-3f;
    sum = sum * x + 8.3334519073e-3f;
    sum = sum * x + 4.1665795894e-2f;
    sum = sum * x + 1.6666665459e-1f;
    sum = sum * x + 5.0000001201e-1f;
    return sum * x * x + x + 1.0f;
}

/* e to the power of x, to 2 units in the last place; 0 below -87, where float32 ends. What is not
   a number stays so, or a failed training would not be seen. */
static INLINE vec exponential(vec x) {
#if defined(__AVX512F__)
    __mmask16 there = _mm512_cmp_ps_mask((__m512)x, _mm512_set1_ps(-87.0f), _CMP_NLT_UQ);
    vec shifted = x * 1.44269504088896f;
    vec whole = (vec)_mm512_roundscale_ps((__m512)shifted, _MM_FROUND_TO_NEAREST_INT);
    vec rest = x - whole * 0.693359375f + whole * 2.12194440e-4f;
    return (vec)_mm512_maskz_scalef_ps(there, (__m512)power_series(rest), (__m512)whole);
#else
    const float rounds = 12582912.0f; /* adding 1.5 * 2^23 leaves the nearest whole number */
    ivec gone = x < all(-87.0f), odd = x != x;
    x = chosen(x > all(88.0f), all(88.0f), x);
    x = chosen(gone, all(0.0f), x);
    vec shifted = x * 1.44269504088896f + rounds, whole = shifted - rounds;
    vec rest = x - whole * 0.693359375f + whole * 2.12194440e-4f;
    ivec power = ((ivec)shifted - (ivec)all(rounds)) << 23;
    return (vec)((((ivec)power_series(rest) + power) & ~gone) | odd);
#endif
}

#if HAS_PAIRS
/* 2 to the power of x, to 3e-6 of itself: enough for what becomes bfloat16. A minimax polynomial for
   what x is above a whole number; 0 below -126, and what is not a number stays so. */
static INLINE vec power_of_two(vec x) {
    __mmask16 there = _mm512_cmp_ps_mask((__m512)x, _mm512_set1_ps(-126.0f), _CMP_NLT_UQ);
    vec part = (vec)_mm512_reduce_ps((__m512)x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    vec sum = part * 1.353416778e-2f + 5.201146007e-2f;
    sum = sum * part + 2.414427549e-1f;
    sum = sum * part + 6.930038333e-1f;
    return (vec)_mm512_maskz_scalef_ps(there, (__m512)(sum * part + 1.000002623f), (__m512)x);
}
#endif

/* The upper halves of float32 numbers, rounded to the nearest bfloat16, ties to even. */
static INLINE uvec rounded(vec values) {
    uvec bits = (uvec)values, nan = (uvec)(values != values);
    uvec up = bits + 0x7fff + ((bits >> 16) & 1);
    return ((up & ~nan) | ((bits | 0x400000) & nan)) & 0xffff0000;
}

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define SHUFFLED(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#endif
#endif
#ifndef SHUFFLED
#define SHUFFLED(a, b, ...) __builtin_shuffle(a, b, (ivec){__VA_ARGS__})
#endif

#if HAS_PAIRS
static INLINE __m512i bfloat16s(vec first, vec second) { /* 32 numbers, one after another */
    return (__m512i)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first);
}
#endif

static INLINE vec zip_low(vec a, vec b) { return SHUFFLED(a, b, ZIP_LOW); }
static INLINE vec zip_high(vec a, vec b) { return SHUFFLED(a, b, ZIP_HIGH); }

/* Numbers of a tensor ---------------------------------------------------------------------- */

static INLINE void widen(float *to, const void *from, count number, int narrow) {
    if (!narrow) {
        memcpy(to, from, number * 4);
        return;
    }
    for (count i = 0; i < number; i++) ((word *)to)[i] = (uint32_t)((const uint16_t *)from)[i] << 16;
}

static INLINE uint16_t narrowed(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    if (value != value) return (bits >> 16) | 64;
    return (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}

#if HAS_PAIRS
/* Which of the next 32 numbers there are, of those that are left. */
static INLINE uint32_t these(count left) { return left < 32 ? (1u << left) - 1 : 0xffffffffu; }
#endif

/* Writes `number` floats times `scale` as the tensor has them. */
static INLINE void put(void *to, const float *from, count number, float scale, int narrow) {
#if HAS_PAIRS
    for (count i = 0; narrow && i < number; i += 32) {
        uint32_t there = these(number - i);
        vec low = (vec)_mm512_maskz_loadu_ps(there, from + i);
        vec high = (vec)_mm512_maskz_loadu_ps(there >> 16, from + i + W);
        _mm512_mask_storeu_epi16((uint16_t *)to + i, there, bfloat16s(low * scale, high * scale));
    }
    if (narrow) return;
#endif
    if (!narrow)
        for (count i = 0; i < number; i++) ((float *)to)[i] = from[i] * scale;
    else
        for (count i = 0; i < number; i++) ((uint16_t *)to)[i] = narrowed(from[i] * scale);
}

static INLINE const void *at(const void *tensor, count place, int narrow) {
    return (const char *)tensor + place * (narrow ? 2 : 4);
}

static INLINE float read_one(const void *from, count place, int narrow) {
    float value;
    if (!narrow) return ((const float *)from)[place];
    uint32_t bits = (uint32_t)((const uint16_t *)from)[place] << 16;
    memcpy(&value, &bits, 4);
    return value;
}

static INLINE vec load_wide(const void *from, count place, int narrow) {
    typedef uint16_t halves __attribute__((vector_size(2 * W), may_alias, aligned(2)));
    if (!narrow) return load((const float *)from + place);
    const halves *found = (const halves *)((const uint16_t *)from + place);
    return (vec)(__builtin_convertvector(*found, uvec) << 16);
}

/* The sum of the products of two rows of a tensor. */
static INLINE float dot(const void *a, const void *b, count number, int narrow) {
    vec sums = all(0.0f);
    count i = 0;
    for (; i + W <= number; i += W) sums += load_wide(a, i, narrow) * load_wide(b, i, narrow);
#if defined(__AVX512F__)
    float sum = _mm512_reduce_add_ps((__m512)sums);
#else
    float sum = 0;
    for (int lane = 0; lane < W; lane++) sum += sums[lane];
#endif
    for (; i < number; i++) sum += read_one(a, i, narrow) * read_one(b, i, narrow);
    return sum;
}

/* Work and memory -------------------------------------------------------------------------- */

/* A part of a tensor that one thread takes at a time. It is of one size on every machine, and what
   is summed is summed by parts, in their order: so threads change no bit. */
#define PART 16384
#define MANY 8192 /* a pass over fewer numbers is over before a second thread has begun */

/* Takes floats off the scratch memory that is free. */
static INLINE float *claim(float **free, count number) {
    float *mine = *free;
    *free += number;
    return mine;
}

/* Matrices of words ------------------------------------------------------------------------ */

/* A word is a float, or, where `pairs` is set, two bfloat16 numbers that stand next to one another
   along the dimension that a product sums over: one instruction multiplies and adds both. */

/* to (columns, rows) = from (rows, columns), words; both are multiples of W. */
static void transpose(float *to, count to_step, const float *from, count from_step, count rows,
                      count columns) {
    for (count r = 0; r < rows; r += W)
        for (count c = 0; c < columns; c += W) {
            vec x[W], y[W];
            UNROLL for (int i = 0; i < W; i++) x[i] = load(from + (r + i) * from_step + c);
            UNROLL for (int turn = 1; turn < W; turn *= 2) { /* W = 2^n rounds of a shuffle */
                UNROLL for (int i = 0; i < W / 2; i++) {
                    y[2 * i] = zip_low(x[i], x[i + W / 2]);
                    y[2 * i + 1] = zip_high(x[i], x[i + W / 2]);
                }
                UNROLL for (int i = 0; i < W; i++) x[i] = y[i];
            }
            UNROLL for (int i = 0; i < W; i++) store(to + (c + i) * to_step + r, x[i]);
        }
}

/* Two rows of numbers as one row of words that pair them, from words that pair neighbours. */
static INLINE void pair_rows(float *to, const float *upper, const float *lower, count words) {
#if HAS_PAIRS
    const __m512i low = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40,
                                         8, 39, 7, 38, 6, 37, 5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
    const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
    for (count i = 0; i < words; i += W) {
        __m512i a = (__m512i)load(upper + i), b = (__m512i)load(lower + i);
        store(to + 2 * i, (vec)_mm512_permutex2var_epi16(a, low, b));
        store(to + 2 * i + W, (vec)_mm512_permutex2var_epi16(a, high, b));
    }
#endif
}
