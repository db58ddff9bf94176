/* What a CPU does between the matrix products of a packed batch.

   Compiled at first use by build.py and called through ctypes (models/native_attention.py and its
   neighbours); every function has a counterpart in plain torch, against which it is tested. It is
   written with the vector extension of GCC and clang, so that one text serves AVX-512, AVX2 and
   NEON; intrinsics stand only where the extension has no word for it.

   Tensors are float32, or bfloat16 where `narrow` is set; sums are float32 throughout. Work is
   handed to the threads item by item, and no item's result depends on the thread that computes it
   nor on their number.

   Letters: N tokens, S queries and T keys of a sequence, D width of a head, W lanes of a vector. */

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

/* e to the power of x, to 2 units in the last place; 0 below -87, where float32 ends. What is not
   a number stays so, or a failed training would not be seen. */
static INLINE vec exponential(vec x) {
    const float rounds = 12582912.0f; /* adding 1.5 * 2^23 leaves the nearest whole number */
    ivec gone = x < all(-87.0f), odd = x != x;
    x = chosen(x > all(88.0f), all(88.0f), x);
    x = chosen(gone, all(0.0f), x);
    vec shifted = x * 1.44269504088896f + rounds, whole = shifted - rounds;
    vec rest = x - whole * 0.693359375f + whole * 2.12194440e-4f;
    vec sum = rest * 1.9875691500e-4f + 1.3981999507e-3f; /* Cephes' polynomial */
    sum = sum * rest + 8.3334519073e-3f;
    sum = sum * rest + 4.1665795894e-2f;
    sum = sum * rest + 1.6666665459e-1f;
    sum = sum * rest + 5.0000001201e-1f;
    sum = sum * rest * rest + rest + 1.0f;
    ivec power = ((ivec)shifted - (ivec)all(rounds)) << 23;
    return (vec)(((ivec)sum + power & ~gone) | odd);
}

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

/* Writes `number` floats times `scale` as the tensor has them. */
static INLINE void put(void *to, const float *from, count number, float scale, int narrow) {
    if (!narrow)
        for (count i = 0; i < number; i++) ((float *)to)[i] = from[i] * scale;
    else
        for (count i = 0; i < number; i++) ((uint16_t *)to)[i] = narrowed(from[i] * scale);
}

/* Products of small matrices --------------------------------------------------------------- */

/* The matrices in scratch memory are of words. A word is a float, or, where `pairs` is set, two
   bfloat16 numbers that stand next to one another along the dimension that a product sums over:
   one instruction multiplies and adds both. So one text serves both precisions. */

static INLINE vec add_product(vec sum, float left, vec right, int pairs) {
#if HAS_PAIRS
    if (pairs) {
        uint32_t bits;
        memcpy(&bits, &left, 4);
        return (vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32((int)bits),
                                     (__m512bh)right);
    }
#endif
    return sum + left * right;
}

static INLINE void tile(int vectors, count depth, const float *left, count left_step,
                        const float *right, count right_step, float *out, count out_step,
                        int more, int pairs) {
    vec sums[TALL][2];
    UNROLL for (int r = 0; r < TALL; r++)
        UNROLL for (int v = 0; v < vectors; v++)
            sums[r][v] = more ? load(out + r * out_step + v * W) : all(0.0f);
    for (count k = 0; k < depth; k++) {
        vec row[2];
        UNROLL for (int v = 0; v < vectors; v++) row[v] = load(right + k * right_step + v * W);
        UNROLL for (int r = 0; r < TALL; r++)
            UNROLL for (int v = 0; v < vectors; v++)
                sums[r][v] = add_product(sums[r][v], left[r * left_step + k], row[v], pairs);
    }
    UNROLL for (int r = 0; r < TALL; r++)
        UNROLL for (int v = 0; v < vectors; v++) store(out + r * out_step + v * W, sums[r][v]);
}

/* out (rows, vectors * W) = left (rows, depth) right (depth, vectors * W), or += with `more`.
   Rows are computed by TALL at a time; `left` and `out` have room for that. */
static INLINE void product(count rows, count vectors, count depth, const float *left,
                           count left_step, const float *right, count right_step, float *out,
                           count out_step, int more, int pairs) {
    for (count v = 0; v < vectors; v += 2)
        for (count r = 0; r < rows; r += TALL) {
            const float *l = left + r * left_step, *x = right + v * W;
            float *o = out + r * out_step + v * W;
            if (vectors - v >= 2)
                tile(2, depth, l, left_step, x, right_step, o, out_step, more, pairs);
            else
                tile(1, depth, l, left_step, x, right_step, o, out_step, more, pairs);
        }
}

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
    for (count i = 0; i < words; i += W) {
        uvec a = (uvec)load(upper + i), b = (uvec)load(lower + i);
        vec even = (vec)((a & 0xffff) | (b << 16)), odd = (vec)((a >> 16) | (b & 0xffff0000));
        store(to + 2 * i, zip_low(even, odd));
        store(to + 2 * i + W, zip_high(even, odd));
    }
}

/* Attention -------------------------------------------------------------------------------- */

/* One call's tensors. `queries` and `keys` are boundaries of the sequences, `order` says which
   comes first. Steps are in elements, from one token or head to the next; the outputs are
   contiguous (N, H, D). `num_shared` are the heads of keys and values. A query sees the keys at
   most `behind` before and `ahead` after its own place. `bias` and `d_bias` are float32
   (H, bias_rows, bias_step), key by query. `scratch` has `scratch_floats` for each thread. */
struct attention {
    count num_sequences, num_heads, num_shared, width, num_queries;
    const count *queries, *keys, *order;
    const void *query, *key, *value, *gradient;
    count query_token, query_head, key_token, key_head, value_token, value_head, gradient_token,
        gradient_head;
    count behind, ahead, narrow, num_threads, scratch_floats, bias_rows, bias_step;
    double scale;
    const float *bias;
    float *log_sums; /* (H, N): logarithm of the sum of the exponentials of a query's scores */
    void *output, *d_query, *d_key, *d_value;
    float *d_bias, *scratch;
};

static INLINE count up(count number, count unit) { return (number + unit - 1) / unit * unit; }
static INLINE count half(count number, int pairs) { return pairs ? (number + 1) / 2 : number; }
static INLINE count fewer(count a, count b) { return a < b ? a : b; }

/* The sizes of an item's matrices: a head's tokens are rows of `step` words, and `wide` is that
   row with a word for each number. Heights are padded to whole vectors, with zeros. */
struct sizes {
    count q0, S, Sp, k0, T, Tp, D, words, step, wide;
};

static INLINE struct sizes sizes_of(const struct attention *a, count sequence, int pairs) {
    struct sizes z = {.q0 = a->queries[sequence], .k0 = a->keys[sequence], .D = a->width};
    z.S = a->queries[sequence + 1] - z.q0, z.Sp = up(z.S, WIDE);
    z.T = a->keys[sequence + 1] - z.k0, z.Tp = up(z.T, WIDE);
    z.words = half(z.D, pairs), z.step = up(z.words, W), z.wide = pairs ? 2 * z.step : z.step;
    return z;
}

/* Returns the floats of scratch memory that a thread needs for sequences up to S and T. */
count attention_scratch(count S, count T, count D) {
    count step = up(D, WIDE), tokens = 6 * up(S, WIDE) + 8 * (up(T, WIDE) + TALL);
    return up(tokens * step + 5 * (up(T, WIDE) + TALL) * WIDE + 2 * step * WIDE + 8 * WIDE, 1024);
}

static INLINE float *claim(float **free, count number) {
    float *mine = *free;
    *free += number;
    return mine;
}

static INLINE const void *at(const void *tensor, count place, int narrow) {
    return (const char *)tensor + place * (narrow ? 2 : 4);
}

/* One head's tokens as rows of words; what is missing, to the right and below, is zero. */
static INLINE void take(float *to, count step, const void *from, count token, count number,
                        count height, count width, int narrow, int pairs) {
    count floats = half(width, pairs);
    for (count i = 0; i < number; i++) {
        const void *row = at(from, i * token, narrow);
        if (pairs) {
            to[i * step + floats - 1] = 0;
            memcpy(to + i * step, row, width * 2);
        } else
            widen(to + i * step, row, width, narrow);
        for (count j = floats; j < step; j++) to[i * step + j] = 0;
    }
    memset(to + number * step, 0, (height - number) * step * 4);
}

/* The same numbers as words that run over tokens: (height / 2, wide), or the rows themselves. */
static INLINE const float *by_token(float **free, const float *rows, count height, count step,
                                    int pairs) {
    if (!pairs) return rows;
    float *to = claim(free, height * step);
    for (count i = 0; i < height; i += 2)
        pair_rows(to + i * step, rows + i * step, rows + (i + 1) * step, step);
    return to;
}

/* A block of queries, `vectors` wide, and the keys from `low` to `high` that it sees. */
struct view {
    count first, vectors, low, high, behind, ahead;
};

static INLINE struct view view_of(const struct attention *a, count first, struct sizes z) {
    struct view w = {first, z.S - first > W ? 2 : 1, 0, z.T, a->behind, a->ahead};
    count last = first + w.vectors * W - 1;
    if (first > w.behind) w.low = (first - w.behind) & ~1; /* pairs begin at even keys */
    if (last + w.ahead + 1 < z.T) w.high = last + w.ahead + 1;
    return w;
}

/* The scores of key t for a vector of queries: scaled, biased, minus infinity where not seen. */
static INLINE vec score(const struct view *w, count t, int v, vec raw, float scale,
                        const float *bias) {
    vec found = raw * scale;
    if (bias) found += load(bias + v * W);
    count near = t - w->first - v * W, far = near - W + 1; /* from the first and last query */
    if (near > w->ahead || -far > w->behind) {
        ivec distance = (int32_t)near - (ivec){LANES};
        ivec hidden = (distance > (int32_t)w->ahead) | (-distance > (int32_t)w->behind);
        found = chosen(hidden, all(-INFINITY), found);
    }
    return found;
}

/* Puts the numbers of two keys down as words that run over keys. */
static INLINE void put_by_key(float *to, vec upper, vec lower, int pairs) {
#if HAS_PAIRS
    if (pairs) {
        const __m512i turns = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25,
                                               9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2,
                                               17, 1, 16, 0);
        store(to, (vec)_mm512_permutexvar_epi16(turns, bfloat16s(upper, lower)));
        return;
    }
#endif
    store(to, upper);
    store(to + WIDE, lower);
}

/* Puts those of one key down as words that run over queries. */
static INLINE void put_by_query(float *to, vec first, vec second, int pairs) {
#if HAS_PAIRS
    if (pairs) {
        store(to, (vec)bfloat16s(first, second));
        return;
    }
#endif
    store(to, first);
    store(to + W, second);
}

/* Writes a block (D, queries) to the rows of a tensor (N, H, D). */
static INLINE void put_block(const struct attention *a, void *tensor, count token, count head,
                             const float *block, float *turned, count wide, count number,
                             float scale, int narrow) {
    transpose(turned, wide, block, WIDE, wide, WIDE);
    for (count i = 0; i < number; i++) {
        count place = ((token + i) * a->num_heads + head) * a->width;
        put((void *)at(tensor, place, narrow), turned + i * wide, a->width, scale, narrow);
    }
}

/* One sequence's heads of queries that share a head of keys: softmax(Q K' scale + bias) V.
   Scores lie with queries along the lanes, so that maxima and sums run down the vectors. */
static INLINE void forward_item(const struct attention *a, count sequence, count shared,
                                float *free, int narrow, int pairs) {
    struct sizes z = sizes_of(a, sequence, pairs);
    if (!z.S) return;
    count Tw = half(z.Tp, pairs), group = a->num_heads / a->num_shared;
    float *key = claim(&free, (z.Tp + TALL) * z.step), *value = claim(&free, z.Tp * z.step);
    float *query = claim(&free, z.Sp * z.step), *query_t = claim(&free, z.Sp * z.step);
    float *value_t = claim(&free, z.wide * Tw), *scores = claim(&free, (z.Tp + TALL) * WIDE);
    float *weights = claim(&free, (z.Tp + TALL) * WIDE), *out = claim(&free, z.wide * WIDE);
    float *turned = claim(&free, z.wide * WIDE), lane[2][W];

    take(key, z.step, at(a->key, z.k0 * a->key_token + shared * a->key_head, narrow), a->key_token,
         z.T, z.Tp + TALL, z.D, narrow, pairs);
    take(value, z.step, at(a->value, z.k0 * a->value_token + shared * a->value_head, narrow),
         a->value_token, z.T, z.Tp, z.D, narrow, pairs);
    transpose(value_t, Tw, by_token(&free, value, z.Tp, z.step, pairs), z.wide, Tw, z.wide);

    for (count head = shared * group; head < (shared + 1) * group; head++) {
        take(query, z.step, at(a->query, z.q0 * a->query_token + head * a->query_head, narrow),
             a->query_token, z.S, z.Sp, z.D, narrow, pairs);
        transpose(query_t, z.Sp, query, z.step, z.Sp, z.step);
        for (count first = 0; first < z.S; first += WIDE) {
            struct view w = view_of(a, first, z);
            count seen = w.high - w.low;
            product(seen, w.vectors, z.words, key + w.low * z.step, z.step, query_t + first, z.Sp,
                    scores, WIDE, 0, pairs);
            vec share[2];
            for (int v = 0; v < w.vectors; v++) {
                const float *bias =
                    a->bias ? a->bias + (head * a->bias_rows + w.low) * a->bias_step + first : 0;
                vec most = all(-INFINITY), sum = all(0.0f);
                for (count t = 0; t < seen; t++) {
                    float *place = scores + t * WIDE + v * W;
                    vec s = score(&w, w.low + t, v, load(place), a->scale,
                                  bias ? bias + t * a->bias_step : 0);
                    store(place, s);
                    most = larger(most, s);
                }
                for (count t = 0; t < seen; t += 2) {
                    float *place = scores + t * WIDE + v * W;
                    vec upper = exponential(load(place) - most), lower = all(0.0f);
                    if (t + 1 < seen) lower = exponential(load(place + WIDE) - most);
                    sum += upper + lower;
                    put_by_key(weights + half(t, pairs) * WIDE + v * W, upper, lower, pairs);
                }
                share[v] = seen ? 1.0f / sum : all(0.0f);
                store(lane[0], most);
                store(lane[1], sum);
                count start = first + v * W, number = fewer(W, z.S - start);
                for (count i = 0; a->log_sums && i < number; i++)
                    a->log_sums[head * a->num_queries + z.q0 + start + i] =
                        lane[0][i] + logf(lane[1][i]);
            }
            product(z.D, w.vectors, half(seen, pairs), value_t + half(w.low, pairs), Tw, weights,
                    WIDE, out, WIDE, 0, pairs);
            for (count d = 0; d < z.D; d++)
                for (int v = 0; v < w.vectors; v++) {
                    float *place = out + d * WIDE + v * W;
                    store(place, load(place) * share[v]);
                }
            put_block(a, a->output, z.q0 + first, head, out, turned, z.wide,
                      fewer(WIDE, z.S - first), 1.0f, narrow);
        }
    }
}

/* The gradients of the same heads. With P the probabilities, made anew from the scores and their
   kept log_sums: dV = P' dO, dP = dO V', dS = P * (dP - rowsum(P * dP)), dQ = scale dS K and
   dK = scale dS' Q (Dao et al. 2022, appendix B.2); dS is also the gradient of the bias. */
static INLINE void backward_item(const struct attention *a, count sequence, count shared,
                                 float *free, int narrow, int pairs) {
    struct sizes z = sizes_of(a, sequence, pairs);
    count Tw = half(z.Tp, pairs), group = a->num_heads / a->num_shared;
    count tall = z.Tp + TALL, across = half(WIDE, pairs), head_size = z.Sp * z.step;
    float *key = claim(&free, tall * z.step), *value = claim(&free, tall * z.step);
    float *key_t = claim(&free, z.wide * Tw), *query = claim(&free, head_size);
    float *query_t = claim(&free, head_size), *given = claim(&free, head_size);
    float *given_t = claim(&free, head_size), *d_key = claim(&free, tall * z.wide);
    float *d_value = claim(&free, tall * z.wide), *chance = claim(&free, tall * WIDE);
    float *slope = claim(&free, tall * WIDE), *by_key = claim(&free, tall * WIDE);
    float *chance_rows = claim(&free, tall * WIDE), *slope_rows = claim(&free, tall * WIDE);
    float *out = claim(&free, z.wide * WIDE), *turned = claim(&free, z.wide * WIDE);

    take(key, z.step, at(a->key, z.k0 * a->key_token + shared * a->key_head, narrow), a->key_token,
         z.T, tall, z.D, narrow, pairs);
    take(value, z.step, at(a->value, z.k0 * a->value_token + shared * a->value_head, narrow),
         a->value_token, z.T, tall, z.D, narrow, pairs);
    memset(d_key, 0, tall * z.wide * 4);
    memset(d_value, 0, tall * z.wide * 4);
    transpose(key_t, Tw, by_token(&free, key, z.Tp, z.step, pairs), z.wide, Tw, z.wide);

    for (count head = shared * group; head < (shared + 1) * group; head++) {
        float *own = free; /* what is claimed for one head is free for the next */
        take(query, z.step, at(a->query, z.q0 * a->query_token + head * a->query_head, narrow),
             a->query_token, z.S, z.Sp, z.D, narrow, pairs);
        take(given, z.step,
             at(a->gradient, z.q0 * a->gradient_token + head * a->gradient_head, narrow),
             a->gradient_token, z.S, z.Sp, z.D, narrow, pairs);
        transpose(query_t, z.Sp, query, z.step, z.Sp, z.step);
        transpose(given_t, z.Sp, given, z.step, z.Sp, z.step);
        const float *query_by = by_token(&own, query, z.Sp, z.step, pairs);
        const float *given_by = by_token(&own, given, z.Sp, z.step, pairs);
        for (count first = 0; first < z.S; first += WIDE) {
            struct view w = view_of(a, first, z);
            count seen = w.high - w.low, rows = up(seen, TALL);
            count offset = (head * a->bias_rows + w.low) * a->bias_step + first;
            float log_sums[WIDE] = {0};
            memcpy(log_sums, a->log_sums + head * a->num_queries + z.q0 + first,
                   fewer(WIDE, z.S - first) * 4);
            product(seen, w.vectors, z.words, key + w.low * z.step, z.step, query_t + first, z.Sp,
                    chance, WIDE, 0, pairs);
            product(seen, w.vectors, z.words, value + w.low * z.step, z.step, given_t + first,
                    z.Sp, slope, WIDE, 0, pairs);
            vec mean[2] = {all(0.0f), all(0.0f)};
            for (int v = 0; v < w.vectors; v++)
                for (count t = 0; t < seen; t++) {
                    count place = t * WIDE + v * W;
                    vec s = score(&w, w.low + t, v, load(chance + place), a->scale,
                                  a->bias ? a->bias + offset + t * a->bias_step : 0);
                    vec p = exponential(s - load(log_sums + v * W));
                    store(chance + place, p);
                    mean[v] += p * load(slope + place);
                }
            for (count t = 0; t < rows; t += 2) {
                vec p[2][2], s[2][2];
                for (int i = 0; i < 2; i++)
                    for (int v = 0; v < 2; v++) {
                        count place = (t + i) * WIDE + v * W;
                        int real = t + i < seen && v < w.vectors;
                        p[i][v] = real ? load(chance + place) : all(0.0f);
                        s[i][v] = real ? p[i][v] * (load(slope + place) - mean[v]) : (vec){0};
                        if (real && a->d_bias) {
                            float *bias = a->d_bias + offset + (t + i) * a->bias_step + v * W;
                            store(bias, load(bias) + s[i][v]);
                        }
                    }
                for (int i = 0; i < 2; i++) {
                    put_by_query(chance_rows + (t + i) * across, p[i][0], p[i][1], pairs);
                    put_by_query(slope_rows + (t + i) * across, s[i][0], s[i][1], pairs);
                }
                for (int v = 0; v < w.vectors; v++)
                    put_by_key(by_key + half(t, pairs) * WIDE + v * W, s[0][v], s[1][v], pairs);
            }
            product(z.D, w.vectors, half(seen, pairs), key_t + half(w.low, pairs), Tw, by_key,
                    WIDE, out, WIDE, 0, pairs);
            put_block(a, a->d_query, z.q0 + first, head, out, turned, z.wide,
                      fewer(WIDE, z.S - first), a->scale, narrow);
            count depth = half(w.vectors * W, pairs), lanes = up(z.D, W) / W;
            product(seen, lanes, depth, slope_rows, across, query_by + half(first, pairs) * z.wide,
                    z.wide, d_key + w.low * z.wide, z.wide, 1, pairs);
            product(seen, lanes, depth, chance_rows, across,
                    given_by + half(first, pairs) * z.wide, z.wide, d_value + w.low * z.wide,
                    z.wide, 1, pairs);
        }
    }
    for (count t = 0; t < z.T; t++) {
        count place = ((z.k0 + t) * a->num_shared + shared) * z.D;
        put((void *)at(a->d_key, place, narrow), d_key + t * z.wide, z.D, a->scale, narrow);
        put((void *)at(a->d_value, place, narrow), d_value + t * z.wide, z.D, 1.0f, narrow);
    }
}

/* An item is the sequence `order[n / num_shared]` and a head of keys. Three copies of its code
   are made: for bfloat16 in pairs, for bfloat16 on a processor without such products, float32. */
static void attention_item(const struct attention *a, count sequence, count shared, count thread,
                           int backward) {
    float *free = a->scratch + thread * a->scratch_floats;
    if (backward) {
        if (a->narrow && HAS_PAIRS) backward_item(a, sequence, shared, free, 1, 1);
        else if (a->narrow) backward_item(a, sequence, shared, free, 1, 0);
        else backward_item(a, sequence, shared, free, 0, 0);
    } else {
        if (a->narrow && HAS_PAIRS) forward_item(a, sequence, shared, free, 1, 1);
        else if (a->narrow) forward_item(a, sequence, shared, free, 1, 0);
        else forward_item(a, sequence, shared, free, 0, 0);
    }
}

/* With `backward`, the gradients. A bias sums its gradient over sequences: there one thread takes
   a head's sequences, in their order. */
void attention(const struct attention *a, int backward) {
    count in_line = backward && a->d_bias ? a->num_sequences : 1;
    count num_items = a->num_sequences * a->num_shared / in_line;
#pragma omp parallel for schedule(dynamic) num_threads(a->num_threads)
    for (count n = 0; n < num_items; n++)
        for (count i = 0; i < in_line; i++) {
            count place = in_line > 1 ? i : n / a->num_shared;
            attention_item(a, a->order[place], n % a->num_shared, omp_get_thread_num(), backward);
        }
}

/* Passes over memory ----------------------------------------------------------------------- */

/* A part of a tensor that one thread takes at a time. It is of one size on every machine, and what
   is summed is summed by parts, in their order: so threads change no bit. */
#define PART 16384
#define MANY 8192 /* a pass over fewer numbers is over before a second thread has begun */

/* Dropout: zero where a random byte is under `dropped`, else times `scale`. */
static INLINE float kept(uint8_t byte, int dropped, float scale) {
    return byte >= dropped ? scale : 0.0f;
}

static INLINE float read_one(const void *from, count place, int narrow) {
    float value;
    if (!narrow) return ((const float *)from)[place];
    uint32_t bits = (uint32_t)((const uint16_t *)from)[place] << 16;
    memcpy(&value, &bits, 4);
    return value;
}

void drop(const void *from, const uint8_t *bytes, void *to, count number, int dropped, float scale,
          int narrow, int num_threads) {
#pragma omp parallel for schedule(static) num_threads(num_threads) if (number > MANY)
    for (count first = 0; first < number; first += PART) {
        count last = fewer(number, first + PART);
        if (narrow)
#pragma omp simd
            for (count i = first; i < last; i++)
                ((uint16_t *)to)[i] =
                    narrowed(read_one(from, i, 1) * kept(bytes[i], dropped, scale));
        else
#pragma omp simd
            for (count i = first; i < last; i++)
                ((float *)to)[i] = ((const float *)from)[i] * kept(bytes[i], dropped, scale);
    }
}

/* What ends a sublayer of an encoder: norm(residual + dropout(values)), rows of `width` numbers.
   `bytes` is null without dropout. Each of the three tensors is narrow or not by a bit. */
enum { NARROW_VALUES = 1, NARROW_RESIDUAL = 2, NARROW_OUTPUT = 4 };
#define WIDEST 8192

struct norm {
    count rows, width, narrow, dropped, num_threads;
    double scale, epsilon;
    const void *values, *residual;
    const uint8_t *bytes;
    const float *weight, *bias;
    void *output;
    float *mean, *spread; /* of each row; the spread is 1 / standard deviation */
    const void *gradient; /* of the output, and as narrow */
    void *d_values, *d_residual;
    float *d_weight, *d_bias, *scratch; /* (parts, 2, width) */
};

static INLINE void summed_row(const struct norm *a, count row, float *sum, int narrow) {
    count D = a->width, first = row * D;
    float scale = a->scale;
    for (count i = 0; i < D; i++) {
        float value = read_one(a->values, first + i, narrow & NARROW_VALUES);
        if (a->bytes) value *= kept(a->bytes[first + i], a->dropped, scale);
        sum[i] = value + read_one(a->residual, first + i, narrow & NARROW_RESIDUAL);
    }
}

static INLINE void norm_rows(const struct norm *a, count first, count last, int narrow) {
    count D = a->width;
    float sum[WIDEST];
    for (count row = first; row < last; row++) {
        summed_row(a, row, sum, narrow);
        float total = 0, squares = 0;
#pragma omp simd reduction(+ : total)
        for (count i = 0; i < D; i++) total += sum[i];
        float mean = total / D;
#pragma omp simd reduction(+ : squares)
        for (count i = 0; i < D; i++) squares += (sum[i] - mean) * (sum[i] - mean);
        float spread = 1 / sqrtf(squares / D + (float)a->epsilon);
        a->mean[row] = mean, a->spread[row] = spread;
        for (count i = 0; i < D; i++) sum[i] = (sum[i] - mean) * spread * a->weight[i] + a->bias[i];
        put((void *)at(a->output, row * D, narrow & NARROW_OUTPUT), sum, D, 1.0f,
            narrow & NARROW_OUTPUT);
    }
}

static INLINE void norm_rows_back(const struct norm *a, count first, count last, float *d_weight,
                                  float *d_bias, int narrow) {
    count D = a->width;
    float unit[WIDEST], slope[WIDEST], given[WIDEST];
    memset(d_weight, 0, D * 4);
    memset(d_bias, 0, D * 4);
    for (count row = first; row < last; row++) {
        float mean = a->mean[row], spread = a->spread[row], total = 0, along = 0;
        const float *weight = a->weight;
        float scale = a->scale;
        summed_row(a, row, unit, narrow);
        widen(given, at(a->gradient, row * D, narrow & NARROW_OUTPUT), D, narrow & NARROW_OUTPUT);
#pragma omp simd reduction(+ : total, along)
        for (count i = 0; i < D; i++) {
            unit[i] = (unit[i] - mean) * spread;
            d_weight[i] += given[i] * unit[i];
            d_bias[i] += given[i];
            slope[i] = given[i] * weight[i];
            total += slope[i];
            along += slope[i] * unit[i];
        }
        total /= D, along /= D;
        for (count i = 0; i < D; i++) slope[i] = (slope[i] - total - unit[i] * along) * spread;
        put((void *)at(a->d_residual, row * D, narrow & NARROW_RESIDUAL), slope, D, 1.0f,
            narrow & NARROW_RESIDUAL);
        if (a->bytes)
            for (count i = 0; i < D; i++) slope[i] *= kept(a->bytes[row * D + i], a->dropped, scale);
        put((void *)at(a->d_values, row * D, narrow & NARROW_VALUES), slope, D, 1.0f,
            narrow & NARROW_VALUES);
    }
}

static INLINE void norm_part(const struct norm *a, count first, count last, float *d_weight,
                             float *d_bias, int backward, int narrow) {
    if (backward) norm_rows_back(a, first, last, d_weight, d_bias, narrow);
    else norm_rows(a, first, last, narrow);
}

#define ROWS 32 /* of a part */

void norm(const struct norm *a, int backward) {
    count parts = (a->rows + ROWS - 1) / ROWS, D = a->width;
#pragma omp parallel for schedule(static) num_threads(a->num_threads) if (a->rows * D > MANY)
    for (count part = 0; part < parts; part++) {
        count first = part * ROWS, last = fewer(a->rows, first + ROWS);
        float *weight = a->scratch + part * 2 * D, *bias = weight + D;
        switch (a->narrow) { /* the code is made for each mixture that occurs */
            case 0: norm_part(a, first, last, weight, bias, backward, 0); break;
            case 3: norm_part(a, first, last, weight, bias, backward, 3); break;
            case 5: norm_part(a, first, last, weight, bias, backward, 5); break;
            case 7: norm_part(a, first, last, weight, bias, backward, 7); break;
            default: norm_part(a, first, last, weight, bias, backward, a->narrow);
        }
    }
    for (count part = 0; backward && part < parts; part++)
        for (count i = 0; i < D; i++) {
            a->d_weight[i] += a->scratch[part * 2 * D + i];
            a->d_bias[i] += a->scratch[part * 2 * D + D + i];
        }
}

/* The optimizer ---------------------------------------------------------------------------- */

/* A parameter, its gradient, and AdamW's moments. Of a table, `seen` says for each row of `width`
   whether it ever had a gradient: where not, its moments are zero and only decay touches it. */
struct learning {
    float *weight;
    const float *gradient;
    float *mean, *square;
    const uint8_t *seen;
    count number, width;
    double rate, decay, mean_share, square_share, step;
};

/* The numbers of a step: what is kept of weights and moments, what is new, and how far it goes. */
struct stride {
    float weight, new_mean, square, new_square, unbias, length, scale, epsilon;
};

static struct stride stride_of(const struct learning *a, double scale, double epsilon) {
    double mean = 1 - pow(a->mean_share, a->step), square = 1 - pow(a->square_share, a->step);
    return (struct stride){1 - a->rate * a->decay, 1 - a->mean_share, a->square_share,
                           1 - a->square_share, 1 / sqrt(square), a->rate / mean, scale, epsilon};
}

static INLINE void step_numbers(const struct learning *a, count first, count number,
                                struct stride s) {
    float *weights = a->weight + first, *means = a->mean + first, *squares = a->square + first;
    const float *gradients = a->gradient + first;
#pragma omp simd
    for (count i = 0; i < number; i++) {
        float gradient = gradients[i] * s.scale;
        float mean = means[i] + (gradient - means[i]) * s.new_mean;
        float square = squares[i] * s.square + gradient * gradient * s.new_square;
        means[i] = mean, squares[i] = square;
        weights[i] =
            weights[i] * s.weight - s.length * mean / (sqrtf(square) * s.unbias + s.epsilon);
    }
}

static void step_part(const struct learning *a, count first, count number, struct stride s) {
    if (!a->seen) step_numbers(a, first, number, s);
    for (count i = first; a->seen && i < first + number; i += a->width)
        if (a->seen[i / a->width]) step_numbers(a, i, a->width, s);
        else if (s.weight != 1)
            for (count j = i; j < i + a->width; j++) a->weight[j] *= s.weight;
}

/* One step of AdamW over all parameters, with their gradients times `scale`. */
void adamw(const struct learning *parameters, count num_parameters, double scale, double epsilon,
           int num_threads) {
#pragma omp parallel num_threads(num_threads)
    {
        count turn = 0, mine = omp_get_thread_num(), among = omp_get_num_threads();
        for (count p = 0; p < num_parameters; p++) {
            const struct learning *a = parameters + p;
            struct stride s = stride_of(a, scale, epsilon);
            count unit = a->seen ? a->width * (1 + PART / a->width) : PART;
            for (count first = 0; first < a->number; first += unit)
                if (turn++ % among == mine)
                    step_part(a, first, fewer(unit, a->number - first), s);
        }
    }
}

/* Adds up the squares of many tensors' numbers; `sums` has room for each part's. */
double sum_of_squares(const float *const *tensors, const count *sizes, count num_tensors,
                      double *sums, int num_threads) {
    count num_parts = 0;
    double total = 0;
    for (count t = 0; t < num_tensors; t++) num_parts += (sizes[t] + PART - 1) / PART;
#pragma omp parallel num_threads(num_threads)
    {
        count turn = 0, mine = omp_get_thread_num(), among = omp_get_num_threads();
        for (count t = 0; t < num_tensors; t++)
            for (count first = 0; first < sizes[t]; first += PART, turn++) {
                if (turn % among != mine) continue;
                const float *part = tensors[t] + first;
                count number = fewer(PART, sizes[t] - first);
                float sum = 0;
#pragma omp simd reduction(+ : sum)
                for (count i = 0; i < number; i++) sum += part[i] * part[i];
                sums[turn] = sum;
            }
    }
    for (count part = 0; part < num_parts; part++) total += sums[part];
    return total;
}

/* Writing ---------------------------------------------------------------------------------- */

static INLINE vec load_wide(const void *from, count place, int narrow) {
    typedef uint16_t halves __attribute__((vector_size(2 * W), may_alias, aligned(2)));
    if (!narrow) return load((const float *)from + place);
    const halves *found = (const halves *)((const uint16_t *)from + place);
    return (vec)(__builtin_convertvector(*found, uvec) << 16);
}

static INLINE float sum_of(vec values) {
    float lanes[W], sum = 0;
#if defined(__AVX512F__)
    return _mm512_reduce_add_ps((__m512)values);
#endif
    store(lanes, values);
    for (int i = 0; i < W; i++) sum += lanes[i];
    return sum;
}

static INLINE float largest_of(vec values) {
    float lanes[W];
    store(lanes, values);
    for (int i = 1; i < W; i++) lanes[0] = lanes[i] > lanes[0] ? lanes[i] : lanes[0];
    return lanes[0];
}

/* The newest token of each of R texts attends to tokens before it, or to those of a source. Token t
   of text r stands in row `origins[r * origin_step + t]` of keys and values, or in row r / beams
   where there are no origins. Steps are in elements; queries and the output are (R, heads, width).
   `seen`, (rows, num_tokens), is 0 where a token is none, `bias` (heads, num_tokens). `scratch` has
   for each thread room for a row of query and output, and of scores for each head. */
struct newest {
    count num_texts, num_tokens, num_heads, width, beams, narrow, num_threads;
    count token_step, row_step, head_step, origin_step;
    double scale;
    const void *query, *key, *value;
    const int32_t *origins;
    const uint8_t *seen;
    const float *bias;
    void *output;
    float *scratch;
};

/* Returns where token t of a text stands in keys and values, or -1 where it is none. */
static INLINE count place_of(const struct newest *a, count text, count t) {
    if (a->seen && !a->seen[text / a->beams * a->num_tokens + t]) return -1;
    count row = a->origins ? a->origins[text * a->origin_step + t] : text / a->beams;
    return t * a->token_step + row * a->row_step;
}

static INLINE void attend_newest(const struct newest *a, count text, float *free, int narrow) {
    count D = a->width, T = a->num_tokens, H = a->num_heads, Tp = up(T, W), whole = D / W * W;
    float *query = claim(&free, H * D), *out = claim(&free, H * D), *scores = free;
    widen(query, at(a->query, text * H * D, narrow), H * D, narrow);
    memset(out, 0, H * D * 4);
    for (count t = 0; t < Tp; t++) {
        count place = t < T ? place_of(a, text, t) : -1;
        for (count h = 0; h < H; h++) {
            const float *mine = query + h * D;
            const void *key = at(a->key, place + h * a->head_step, narrow);
            vec sums = all(0.0f);
            float rest = 0;
            for (count i = 0; place >= 0 && i < whole; i += W)
                sums += load(mine + i) * load_wide(key, i, narrow);
            for (count i = whole; place >= 0 && i < D; i++) rest += mine[i] * read_one(key, i, narrow);
            float bias = a->bias && t < T ? a->bias[h * T + t] : 0;
            scores[h * Tp + t] = place < 0 ? -INFINITY : (sum_of(sums) + rest) * a->scale + bias;
        }
    }
    for (count h = 0; h < H; h++) {
        float *mine = scores + h * Tp;
        vec highest = all(-INFINITY), sums = all(0.0f);
        for (count t = 0; t < Tp; t += W) highest = larger(highest, load(mine + t));
        float most = largest_of(highest);
        for (count t = 0; t < Tp; t += W) {
            store(mine + t, exponential(load(mine + t) - most));
            sums += load(mine + t);
        }
        float share = 1 / sum_of(sums);
        for (count t = 0; t < Tp; t += W) store(mine + t, load(mine + t) * share);
    }
    for (count t = 0; t < T; t++) {
        count place = place_of(a, text, t);
        for (count h = 0; place >= 0 && h < H; h++) {
            float share = scores[h * Tp + t], *mine = out + h * D;
            const void *value = at(a->value, place + h * a->head_step, narrow);
            for (count i = 0; i < whole; i += W)
                store(mine + i, load(mine + i) + load_wide(value, i, narrow) * share);
            for (count i = whole; i < D; i++) mine[i] += read_one(value, i, narrow) * share;
        }
    }
    put((void *)at(a->output, text * H * D, narrow), out, H * D, 1.0f, narrow);
}

void newest(const struct newest *a) {
    count floats = a->num_heads * (2 * a->width + up(a->num_tokens, W));
#pragma omp parallel for schedule(static) num_threads(a->num_threads)
    for (count text = 0; text < a->num_texts; text++) {
        float *free = a->scratch + omp_get_thread_num() * floats;
        if (a->narrow) attend_newest(a, text, free, 1);
        else attend_newest(a, text, free, 0);
    }
}

/* The `wanted` likeliest ways on for each row of `beams` texts: log_softmax(logits) + before, where
   they are in (beams, vocabulary), and their scores. Equal ones are in the order of their places. */
struct likeliest {
    count num_rows, beams, vocabulary, wanted, narrow, num_threads;
    const void *logits;
    const float *before;
    int64_t *places;
    float *scores;
};

static INLINE void take_likelier(float score, int64_t place, float *scores, int64_t *places,
                                 count wanted) {
    count i = wanted - 1;
    if (!(score > scores[i])) return;
    for (; i > 0 && score > scores[i - 1]; i--) scores[i] = scores[i - 1], places[i] = places[i - 1];
    scores[i] = score, places[i] = place;
}

static INLINE void search_row(const struct likeliest *a, count row, int narrow) {
    count V = a->vocabulary, whole = V / W * W, wanted = a->wanted;
    float *scores = a->scores + row * wanted, lanes[W];
    int64_t *places = a->places + row * wanted;
    for (count i = 0; i < wanted; i++) scores[i] = -INFINITY, places[i] = i;
    for (count beam = 0; beam < a->beams; beam++) {
        const void *logits = at(a->logits, (row * a->beams + beam) * V, narrow);
        vec highest = all(-INFINITY), sums = all(0.0f);
        for (count i = 0; i < whole; i += W) highest = larger(highest, load_wide(logits, i, narrow));
        float most = largest_of(highest);
        for (count i = whole; i < V; i++) {
            float value = read_one(logits, i, narrow);
            most = value > most ? value : most;
        }
        for (count i = 0; i < whole; i += W) sums += exponential(load_wide(logits, i, narrow) - most);
        float sum = sum_of(sums);
        for (count i = whole; i < V; i++) sum += expf(read_one(logits, i, narrow) - most);
        float shift = a->before[row * a->beams + beam] - (most + logf(sum));
        for (count i = 0; i < whole; i += W) {
            vec found = load_wide(logits, i, narrow) + shift;
            if (!any(found > all(scores[wanted - 1]))) continue;
            store(lanes, found);
            for (int j = 0; j < W; j++)
                take_likelier(lanes[j], beam * V + i + j, scores, places, wanted);
        }
        for (count i = whole; i < V; i++)
            take_likelier(read_one(logits, i, narrow) + shift, beam * V + i, scores, places, wanted);
    }
}

void likeliest(const struct likeliest *a) {
#pragma omp parallel for schedule(static) num_threads(a->num_threads)
    for (count row = 0; row < a->num_rows; row++)
        if (a->narrow) search_row(a, row, 1);
        else search_row(a, row, 0);
}

/* The number of threads that OpenMP would take, which is torch's if they share one library. */
int threads(void) { return omp_get_max_threads(); }
