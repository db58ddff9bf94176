#include "matrices.h"

#define SOME 64 /* keys that go through the backward pass together */

/* Attention -------------------------------------------------------------------------------- */

/* One call's tensors. `queries` and `keys` are boundaries of the sequences, `order` says which
   comes first. Steps are in elements, from one token or head to the next; the outputs are
   contiguous (N, H, D). `num_shared` are the heads of keys and values. A query sees the keys at
   most `behind` before and `ahead` after its own place. `bias` and `d_bias` are float32
   (H, bias_rows, bias_step), key by query. With `seeds`, one of a sequence, `dropped` of 65,536 keys
   are hidden from each query. `scratch` has `scratch_floats` for each thread. */
struct attention {
    count num_sequences, num_heads, num_shared, width, num_queries;
    const count *queries, *keys, *order;
    const void *query, *key, *value, *gradient;
    count query_token, query_head, key_token, key_head, value_token, value_head, gradient_token,
        gradient_head;
    count behind, ahead, narrow, num_threads, scratch_floats, bias_rows, bias_step, dropped;
    const uint64_t *seeds;
    double scale;
    const float *bias;
    float *log_sums; /* (H, N): logarithm of the sum of the exponentials of a query's scores */
    void *output, *d_query, *d_key, *d_value;
    float *d_bias, *scratch;
};

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
    count step = up(D, WIDE), tokens = 4 * up(S, WIDE) + 5 * (up(T, WIDE) + TALL);
    count sums = 2 * (up(T, WIDE) + TALL) * WIDE + up(S, WIDE);
    return up(tokens * step + sums + 2 * step * WIDE + 8 * WIDE, 1024);
}

/* One head's tokens as rows of words; what is missing, to the right and below, is zero. */
static INLINE void take(float *to, count step, const void *from, count token, count number,
                        count height, count width, int narrow, int pairs) {
    for (count i = 0; i < number; i++) {
        const void *row = at(from, i * token, narrow);
#if HAS_PAIRS
        for (count j = 0; pairs && j < step; j += W) {
            const uint16_t *words = (const uint16_t *)row + 2 * j;
            __m512i found = _mm512_maskz_loadu_epi16(these(width - 2 * j), words);
            store(to + i * step + j, (vec)found);
        }
        if (pairs) continue;
#endif
        widen(to + i * step, row, width, narrow);
        for (count j = width; j < step; j++) to[i * step + j] = 0;
    }
    memset(to + number * step, 0, (height - number) * step * 4);
}

/* Asks for the rows of some queries, and of keys at the same places, of the heads whose turn is next:
   a head's rows lie far from one another. */
static INLINE void fetch(const struct attention *a, struct sizes z, count shared, count first,
                         int narrow, int backward) {
    count head = shared * (a->num_heads / a->num_shared);
    if (shared >= a->num_shared) return;
    for (count i = first; i < fewer(first + WIDE, z.S); i++) {
        count query = z.q0 + i, key = z.k0 + fewer(i, z.T - 1);
        __builtin_prefetch(at(a->query, query * a->query_token + head * a->query_head, narrow));
        __builtin_prefetch(at(a->key, key * a->key_token + shared * a->key_head, narrow));
        __builtin_prefetch(at(a->value, key * a->value_token + shared * a->value_head, narrow));
        if (!backward) continue;
        count place = query * a->gradient_token + head * a->gradient_head;
        __builtin_prefetch(at(a->gradient, place, narrow));
        __builtin_prefetch(at(a->output, (query * a->num_heads + head) * a->width, narrow));
    }
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

/* A block of queries, `vectors` wide, and the keys from `low` to `high` that it sees. Tiles take
   them from the first on: what lies before a window is not zero. */
struct view {
    count first, vectors, low, high, behind, ahead;
    int tiles, plain; /* scores are only scaled: there is no bias, and nothing is hidden */
};

/* Some of the keys of a view, from `low` on. */
static INLINE struct view narrowed_view(const struct attention *a, struct view w, count low,
                                        count number) {
    w.low = low, w.high = fewer(low + number, w.high);
    int all_near = w.first + w.vectors * W - 1 - w.low <= w.behind;
    w.plain = !a->bias && a->scale > 0 && all_near && w.high - 1 - w.first <= w.ahead;
    return w;
}

static INLINE struct view view_of(const struct attention *a, count first, struct sizes z,
                                  int pairs) {
    struct view w = {first, z.S - first > W ? 2 : 1, 0, z.T, a->behind, a->ahead};
    count last = first + w.vectors * W - 1;
    if (first > w.behind) w.low = (first - w.behind) & ~1; /* pairs begin at even keys */
    if (last + w.ahead + 1 < z.T) w.high = last + w.ahead + 1;
    w.low = fewer(w.low, w.high); /* a window may lie behind the last key */
    w.tiles = USES_TILES && pairs && !w.low;
    return narrowed_view(a, w, w.low, w.high - w.low);
}

/* Which of a vector of queries do not see key t: a bit for each lane that does not. */
static INLINE int sees_all(const struct view *w, count t, int v, ivec *hidden) {
    count near = t - w->first - v * W, far = near - W + 1; /* from the first and last query */
    if (near <= w->ahead && -far <= w->behind) return 1;
    ivec distance = (int32_t)near - (ivec){LANES};
    *hidden = (distance > (int32_t)w->ahead) | (-distance > (int32_t)w->behind);
    return 0;
}

/* Makes scores of raw products: biased, and minus infinity where a key is not seen. Returns what is
   left to scale them by. */
static INLINE float finish_scores(const struct attention *a, const struct view *w, float *scores,
                                  const float *bias) {
    int scaled = bias || a->scale <= 0; /* else it is left for later */
    if (w->plain) return a->scale;
    for (count t = w->low; t < w->high; t++)
        for (int v = 0; v < w->vectors; v++) {
            float *place = scores + (t - w->low) * WIDE + v * W;
            ivec hidden;
            int seen = sees_all(w, t, v, &hidden);
            if (seen && !scaled) continue;
            vec found = load(place);
            if (scaled) found *= (float)a->scale;
            if (bias) found += load(bias + (t - w->low) * a->bias_step + v * W);
            store(place, seen ? found : chosen(hidden, all(-INFINITY), found));
        }
    return scaled ? 1.0f : a->scale;
}

/* e to the power of raw * scale - less. */
static INLINE vec raised(vec raw, float scale, vec less, int pairs) {
#if HAS_PAIRS
    if (pairs) return power_of_two(raw * (scale * 1.44269504f) - less * 1.44269504f);
#endif
    return exponential(raw * scale - less);
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

/* Dropout of a head's probabilities. It draws no numbers and keeps none: which keys a query loses is
   a hash of their places, made again for the gradient. */
struct lots {
    uint32_t first, second, dropped;
    float scale; /* of what is kept */
};

static INLINE struct lots lots_of(const struct attention *a, count sequence, count head) {
    if (!a->seeds) return (struct lots){.scale = 1.0f};
    uint64_t x = a->seeds[sequence] + (head + 1) * 0x9e3779b97f4a7c15; /* splitmix64 (Steele 2014) */
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
    x = (x ^ x >> 27) * 0x94d049bb133111eb;
    x ^= x >> 31;
    return (struct lots){x, x >> 32, a->dropped, 65536.0f / (65536 - a->dropped)};
}

/* A number below 65,536 in each half of a word for each of a vector of queries: the lots of key
   2 `pair` and of the next one. The rounds are those of lowbias32 (Wellons 2018). */
static INLINE uvec drawn(const struct lots *lots, count query, count pair) {
    uvec x = (uvec)((ivec){LANES} + (int32_t)query) * 0x9e3779b1u;
    x += (uint32_t)pair * 0x85ebca77u + lots->first;
    x = (x ^ x >> 16) * 0x7feb352du;
    x = (x ^ x >> 15 ^ lots->second) * 0x846ca68bu;
    return x ^ x >> 16;
}

/* Zero where a lot is under `dropped`. */
static INLINE vec kept(vec values, uvec lot, uint32_t dropped) {
    return (vec)((uvec)values & (uvec)(lot >= dropped));
}

/* The weight of each key for each query of a block, exp(score - most), as words that run over keys;
   `most` and `sum` are over keys, those that are dropped too. There is room behind the last scores. */
static INLINE void weigh_keys(float *scores, const struct view *w, int vectors, float scale,
                              const struct lots *lots, float *weights, vec *most, vec *sum,
                              int pairs) {
    count seen = w->high - w->low;
    vec other[2];
    for (int v = 0; v < vectors; v++) {
        sum[v] = all(0.0f);
        most[v] = other[v] = all(-INFINITY);
        store(scores + seen * WIDE + v * W, other[v]);
    }
    for (count t = 0; t < seen; t += 2)
        UNROLL for (int v = 0; v < vectors; v++) {
            most[v] = larger(most[v], load(scores + t * WIDE + v * W));
            other[v] = larger(other[v], load(scores + (t + 1) * WIDE + v * W));
        }
    for (int v = 0; v < vectors; v++) most[v] = larger(most[v], other[v]) * scale;
    for (count t = 0; t < seen; t += 2)
        UNROLL for (int v = 0; v < vectors; v++) {
            const float *place = scores + t * WIDE + v * W;
            vec upper = raised(load(place), scale, most[v], pairs);
            vec lower = raised(load(place + WIDE), scale, most[v], pairs);
            sum[v] += upper + lower;
            if (lots->dropped) {
                uvec lot = drawn(lots, w->first + v * W, (w->low + t) / 2);
                upper = kept(upper, lot & 0xffff, lots->dropped);
                lower = kept(lower, lot >> 16, lots->dropped);
            }
            put_by_key(weights + half(t, pairs) * WIDE + v * W, upper, lower, pairs);
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
        struct lots lots = lots_of(a, sequence, head);
        for (count first = 0; first < z.S; first += WIDE) {
            struct view w = view_of(a, first, z, pairs);
            count seen = w.high - w.low;
            fetch(a, z, shared + 1, first, narrow, 0);
            product(seen, w.vectors, z.words, key + w.low * z.step, z.step, query_t + first, z.Sp,
                    scores, WIDE, 0, pairs, w.tiles);
            vec share[2], most[2], sum[2];
            const float *bias =
                a->bias ? a->bias + (head * a->bias_rows + w.low) * a->bias_step + first : 0;
            float scale = finish_scores(a, &w, scores, bias);
            if (w.vectors == 2)
                weigh_keys(scores, &w, 2, scale, &lots, weights, most, sum, pairs);
            else
                weigh_keys(scores, &w, 1, scale, &lots, weights, most, sum, pairs);
            for (int v = 0; v < w.vectors; v++) {
                for (count k = half(seen, pairs); w.tiles && k % W; k++)
                    store(weights + k * WIDE + v * W, all(0.0f));
                share[v] = seen ? lots.scale / sum[v] : all(0.0f);
                store(lane[0], most[v]);
                store(lane[1], sum[v]);
                count start = first + v * W, number = fewer(W, z.S - start);
                for (count i = 0; a->log_sums && i < number; i++)
                    a->log_sums[head * a->num_queries + z.q0 + start + i] =
                        lane[0][i] + logf(lane[1][i]);
            }
            product(z.D, w.vectors, half(seen, pairs), value_t + half(w.low, pairs), Tw, weights,
                    WIDE, out, WIDE, 0, pairs, w.tiles);
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

/* From scores and log_sums, the chance of each key P, and from that, `slope`, dP, and `mean`, its
   dS: as words that run over queries and, dS, over keys. Rows from those seen to `rows` are zero. dS
   adds to `d_bias`. Of a key that is dropped dP is zero, and the chance that is handed on. */
static INLINE void slope_keys(float *scores, const float *slope, const struct view *w, count rows,
                              int vectors, float scale, const struct lots *lots,
                              const float *log_sums, const float *mean, float *chance_rows,
                              float *slope_rows, float *by_key, float *d_bias, count bias_step,
                              int pairs) {
    count across = half(WIDE, pairs), seen = w->high - w->low;
    for (count i = seen * WIDE; i < rows * WIDE; i += W) store(scores + i, all(-INFINITY));
    for (count t = 0; t < rows; t += 2) {
        vec p[2][2] = {0}, s[2][2] = {0};
        uvec lot[2];
        if (lots->dropped)
            for (int v = 0; v < vectors; v++)
                lot[v] = drawn(lots, w->first + v * W, (w->low + t) / 2);
        UNROLL for (int i = 0; i < 2; i++) {
            UNROLL for (int v = 0; v < vectors; v++) {
                count place = (t + i) * WIDE + v * W;
                vec all_p = raised(load(scores + place), scale, load(log_sums + v * W), pairs);
                vec d_p = load(slope + place);
                p[i][v] = all_p;
                if (lots->dropped) {
                    uvec own = i ? lot[v] >> 16 : lot[v] & 0xffff;
                    p[i][v] = kept(all_p, own, lots->dropped);
                    d_p = kept(d_p * lots->scale, own, lots->dropped);
                }
                s[i][v] = all_p * (d_p - load(mean + v * W));
                if (d_bias && t + i < seen) {
                    float *bias = d_bias + (t + i) * bias_step + v * W;
                    store(bias, load(bias) + s[i][v]);
                }
            }
            put_by_query(chance_rows + (t + i) * across, p[i][0], p[i][1], pairs);
            put_by_query(slope_rows + (t + i) * across, s[i][0], s[i][1], pairs);
        }
        UNROLL for (int v = 0; v < vectors; v++)
            put_by_key(by_key + half(t, pairs) * WIDE + v * W, s[0][v], s[1][v], pairs);
    }
}

/* The gradients of the same heads. With P the probabilities, made anew from the scores and their
   kept log_sums: dV = P' dO, dP = dO V', dS = P * (dP - rowsum(dO * O)), dQ = scale dS K and
   dK = scale dS' Q (Dao et al. 2022, appendix B.2); dS is also the gradient of the bias. With
   dropout dV is of the kept P and dP of those alone, both scaled, and rowsum stays. Keys are taken
   SOME at a time, so that what is between the products stays in the nearest cache. */
static INLINE void backward_item(const struct attention *a, count sequence, count shared,
                                 float *free, int narrow, int pairs) {
    struct sizes z = sizes_of(a, sequence, pairs);
    count Tw = half(z.Tp, pairs), group = a->num_heads / a->num_shared;
    count tall = z.Tp + TALL, across = half(WIDE, pairs), head_size = z.Sp * z.step;
    float *key = claim(&free, tall * z.step), *value = claim(&free, tall * z.step);
    float *key_t = claim(&free, z.wide * Tw), *query = claim(&free, head_size);
    float *query_t = claim(&free, head_size), *given = claim(&free, head_size);
    float *given_t = claim(&free, head_size), *d_key = claim(&free, tall * z.wide);
    float *d_value = claim(&free, tall * z.wide), *mean = claim(&free, z.Sp);
    float *out = claim(&free, z.wide * WIDE), *turned = claim(&free, z.wide * WIDE);
    float some[5][SOME * WIDE] __attribute__((aligned(64)));
    float *scores = some[0], *slope = some[1], *by_key = some[2];
    float *chance_rows = some[3], *slope_rows = some[4];

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
        struct lots lots = lots_of(a, sequence, head);
        memset(mean, 0, z.Sp * 4);
        for (count i = 0; i < z.S; i++) {
            count place = ((z.q0 + i) * a->num_heads + head) * z.D;
            count from = (z.q0 + i) * a->gradient_token + head * a->gradient_head;
            mean[i] = dot(at(a->output, place, narrow), at(a->gradient, from, narrow), z.D, narrow);
        }
        for (count first = 0; first < z.S; first += WIDE) {
            struct view all_seen = view_of(a, first, z, pairs);
            fetch(a, z, shared + 1, first, narrow, 1);
            float log_sums[WIDE]; /* lanes without a query give every key a chance of zero */
            for (int v = 0; v < 2; v++) store(log_sums + v * W, all(INFINITY));
            memcpy(log_sums, a->log_sums + head * a->num_queries + z.q0 + first,
                   fewer(WIDE, z.S - first) * 4);
            if (all_seen.low >= all_seen.high) memset(out, 0, z.wide * WIDE * 4);
            for (count low = all_seen.low; low < all_seen.high; low += SOME) {
                struct view w = narrowed_view(a, all_seen, low, SOME);
                count seen = w.high - low, rows = up(seen, w.tiles ? SIDE : TALL);
                count offset = (head * a->bias_rows + low) * a->bias_step + first;
                product(seen, w.vectors, z.words, key + low * z.step, z.step, query_t + first,
                        z.Sp, scores, WIDE, 0, pairs, w.tiles);
                product(seen, w.vectors, z.words, value + low * z.step, z.step, given_t + first,
                        z.Sp, slope, WIDE, 0, pairs, w.tiles);
                float scale = finish_scores(a, &w, scores, a->bias ? a->bias + offset : 0);
                float *d_bias = a->d_bias ? a->d_bias + offset : 0;
                if (w.vectors == 2)
                    slope_keys(scores, slope, &w, rows, 2, scale, &lots, log_sums, mean + first,
                               chance_rows, slope_rows, by_key, d_bias, a->bias_step, pairs);
                else
                    slope_keys(scores, slope, &w, rows, 1, scale, &lots, log_sums, mean + first,
                               chance_rows, slope_rows, by_key, d_bias, a->bias_step, pairs);
                product(z.D, w.vectors, half(seen, pairs), key_t + half(low, pairs), Tw, by_key,
                        WIDE, out, WIDE, low > all_seen.low, pairs, w.tiles);
                count depth = half(w.vectors * W, pairs), lanes = up(z.D, W) / W; /* of queries */
                product(seen, lanes, depth, slope_rows, across,
                        query_by + half(first, pairs) * z.wide, z.wide, d_key + low * z.wide,
                        z.wide, 1, pairs, w.tiles);
                product(seen, lanes, depth, chance_rows, across,
                        given_by + half(first, pairs) * z.wide, z.wide, d_value + low * z.wide,
                        z.wide, 1, pairs, w.tiles);
            }
            put_block(a, a->d_query, z.q0 + first, head, out, turned, z.wide,
                      fewer(WIDE, z.S - first), a->scale, narrow);
        }
    }
    for (count t = 0; t < z.T; t++) {
        count place = ((z.k0 + t) * a->num_shared + shared) * z.D;
        put((void *)at(a->d_key, place, narrow), d_key + t * z.wide, z.D, a->scale, narrow);
        put((void *)at(a->d_value, place, narrow), d_value + t * z.wide, z.D,
            lots_of(a, sequence, shared).scale, narrow);
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
    count many = num_items / (8 * a->num_threads), together = many < 1 ? 1 : fewer(many, 4);
#pragma omp parallel num_threads(a->num_threads)
    {
        begin_tiles();
#pragma omp for schedule(dynamic, together)
        for (count n = 0; n < num_items; n++)
            for (count i = 0; i < in_line; i++) {
                count place = in_line > 1 ? i : n / a->num_shared;
                attention_item(a, a->order[place], n % a->num_shared, omp_get_thread_num(), backward);
            }
        end_tiles();
    }
}
