#include "tiles.h"

/* The products of a linear layer of bfloat16 numbers ------------------------------------------ */

/* Weights and, for their gradient, tokens are laid out first in the order in which blocks read them:
   a panel is 32 columns of a right factor, (depth, 32) words, or 32 rows of a left one,
   (depth / 16, 32, 16). What follows a product (bias, GELU, rounding) happens while its block is in
   the cache. Each number of a result is summed in the same order, whatever else is computed with
   it. All sizes but the number of tokens are multiples of 32. */

#if HAS_TILES
#include <sys/syscall.h>
#include <unistd.h>
#endif

#define GROUP 4   /* panels that a thread multiplies of few rows */
#define CHUNK 256 /* tokens that a weight's gradient is summed over at a time */
#define TALLEST 8 /* panels of the left factor that a weight's gradient is summed for at a time */
#define WIDEST 12 /* and those of the right one, which are more: their sums stay in the second cache */

/* Layers that read the same values: one, or the query's, key's and value's. A part has `size`
   columns of the output; weight and bias, (size, inner) and (size) or null, are float32. */
struct part {
    count size;
    const float *weight, *bias;
    void *output; /* (rows, size) */
    const void *gradient; /* of its columns: (rows, size) */
    float *d_weight, *d_bias;
};

/* values (rows, inner) to outputs (rows, outer), all bfloat16. `toward` are the weights' panels for
   that, `back` those for the gradient of the values. */
struct linear {
    count rows, inner, outer, num_threads, num_parts, lays_out;
    struct part parts[3];
    const void *values, *before; /* values = gelu(before), whose gradient is asked for, if not null */
    void *toward, *back;
    void *active;   /* gelu(output), of one part, if not null; its output may be null then */
    const void *onto; /* a gradient that the values have already, added to theirs, if not null */
    void *d_values;
    void *scratch; /* of all threads, for the gradient of the weights */
};

/* Returns the part that a column is of, and its place there. */
static INLINE const struct part *part_of(const struct linear *a, count *column) {
    const struct part *part = a->parts;
    while (*column >= part->size) *column -= part++->size;
    return part;
}

#if HAS_PAIRS

static count num_groups(count width) { return (width / SIDE + GROUP - 1) / GROUP; }

static INLINE __m512i words_at(const void *row) { return _mm512_loadu_si512(row); }

/* A row's 32 numbers as two vectors of float32. */
static INLINE void widened(__m512i row, vec *even, vec *odd) {
    *even = (vec)_mm512_slli_epi32(row, 16);
    *odd = (vec)_mm512_and_si512(row, _mm512_set1_epi32((int)0xffff0000));
}

static INLINE __m512i interleaved(vec even, vec odd) {
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9,
                                           24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1,
                                           16, 0);
    return _mm512_permutexvar_epi16(order, bfloat16s(even, odd));
}

/* Writes what is read again only after much else, past the caches: a line that is written whole need
   not be read first. */
static INLINE void stream(float *to, vec values) {
    if ((uintptr_t)to % 64) store(to, values);
    else _mm512_stream_ps(to, (__m512)values);
}

/* The share of x that GELU lets through, and the slope of GELU at x: one half and an odd polynomial
   that ends at one half beyond 4.4. GELU is right to 4e-5 and its slope to 2e-4, where a bfloat16
   number near one is right to 2e-3; both are minimax fits. */
static INLINE vec half_and_odd(vec x, const float *factors) {
    vec near = (vec)_mm512_min_ps(_mm512_set1_ps(4.4f), (__m512)larger(all(-4.4f), x));
    vec square = near * near, sum = all(factors[8]);
    UNROLL for (int i = 7; i >= 0; i--) sum = sum * square + factors[i];
    return sum * near + 0.5f;
}

static INLINE vec gelu_share(vec x) {
    static const float factors[9] = {
        3.987616301e-01f, -6.607647985e-02f, 9.643059224e-03f, -1.055001980e-03f, 8.429459558e-05f,
        -4.725020972e-06f, 1.740932731e-07f, -3.754304423e-09f, 3.569745194e-11f};
    return larger(all(0.0f), half_and_odd(x, factors)); /* it ends 5e-7 below zero */
}

static INLINE vec gelu_slope(vec x) {
    static const float factors[9] = {
        7.970468402e-01f, -2.630759478e-01f, 5.689469352e-02f, -8.098731749e-03f, 7.789558149e-04f,
        -4.992206232e-05f, 2.030316864e-06f, -4.716232382e-08f, 4.747531257e-10f};
    return half_and_odd(x, factors);
}

/* The weights of 16 outputs as panels: `toward` runs over the inner numbers, `back` over the outer. */
static INLINE void lay_out_outputs(const struct linear *a, count o) {
    count I = a->inner, O = a->outer, own = o;
    const float *weight = part_of(a, &own)->weight;
    for (count i = 0; i < I; i += SIDE) {
        vec rows[W], turned[W];
        for (int r = 0; r < W; r++) {
            const float *from = weight + (own + r) * I + i;
            rows[r] = (vec)bfloat16s(load(from), load(from + W));
        }
        word *toward = (word *)a->toward + o / SIDE * I / 2 * SIDE + i / 2 * SIDE + o % SIDE;
        transpose((float *)turned, W, (float *)rows, W, W, W);
        for (int k = 0; a->toward && k < W; k++) store((float *)toward + k * SIDE, turned[k]);
        float *back = (float *)a->back + i / SIDE * O / 2 * SIDE + o / 2 * SIDE;
        for (int r = 0; a->back && r < W; r += 2) {
            float pairs[SIDE];
            pair_rows(pairs, (float *)(rows + r), (float *)(rows + r + 1), W);
            stream(back + r / 2 * SIDE, load(pairs));
            stream(back + r / 2 * SIDE + W, load(pairs + W));
        }
    }
}

static void lay_out_weight(const struct linear *a) {
#pragma omp parallel num_threads(a->num_threads)
    {
#pragma omp for schedule(static) nowait
        for (count o = 0; o < a->outer; o += W) lay_out_outputs(a, o);
        _mm_sfence(); /* so that other threads see what was streamed */
    }
}

static INLINE uint16_t *column_of(const void *tensor, count column) {
    return tensor ? (uint16_t *)tensor + column : 0;
}

/* Where a panel's columns go, and what is done to them on the way: a product of values has a bias
   and GELU, one of gradients is added `onto` others or goes through the slope of GELU `before`. */
struct target {
    uint16_t *output, *active;
    const uint16_t *before, *onto;
    count step;
    const float *bias;
};

static INLINE struct target target_of(const struct linear *a, count column, int backward) {
    if (backward)
        return (struct target){.output = column_of(a->d_values, column), .step = a->inner,
                               .before = column_of(a->before, column),
                               .onto = column_of(a->onto, column)};
    const struct part *part = part_of(a, &column);
    return (struct target){.output = column_of(part->output, column), .step = part->size,
                           .active = column_of(a->active, column),
                           .bias = part->bias ? part->bias + column : 0};
}

/* Gives 32 sums of a row to where they go, narrow. */
static INLINE void give(const struct target *to, const float *sums, count row) {
    vec low = load(sums), high = load(sums + W);
    count place = row * to->step;
    if (to->bias) low += load(to->bias), high += load(to->bias + W);
    if (to->onto) {
        low += load_wide(to->onto, place, 1);
        high += load_wide(to->onto, place + W, 1);
    }
    if (to->before) {
        low *= gelu_slope(load_wide(to->before, place, 1));
        high *= gelu_slope(load_wide(to->before, place + W, 1));
    }
    __m512i narrow = bfloat16s(low, high);
    if (to->output) _mm512_storeu_si512(to->output + place, narrow);
    if (!to->active) return;
    vec even, odd;
    widened(narrow, &even, &odd);
    _mm512_storeu_si512(to->active + place,
                        interleaved(even * gelu_share(even), odd * gelu_share(odd)));
}

/* A block whose sums are there and are given away row by row, while tiles compute the next one:
   what multiplies and what follows a product are different parts of a core. Without tiles it is given
   away after that. */
struct waiting {
    struct target to;
    const float *sums;
    count row, given, tall;
};

static INLINE void give_rows(struct waiting *w, count until) {
    for (until = fewer(until, w->tall); w->given < until; w->given++)
        give(&w->to, w->sums + w->given * SIDE, w->row + w->given);
}

/* What a product reads, in rows: the values or, backward, each part's gradient. */
struct factor {
    const word *rows;
    count depth;
};

static INLINE int factors_of(const struct linear *a, count row, int backward, struct factor *to) {
    to[0] = (struct factor){(const word *)a->values + row * a->inner / 2, a->inner / 2};
    for (int p = 0; backward && p < a->num_parts; p++) {
        count depth = a->parts[p].size / 2;
        to[p] = (struct factor){(const word *)a->parts[p].gradient + row * depth, depth};
    }
    return backward ? a->num_parts : 1;
}

/* sums = 32 rows of words times a panel, while the block before is given away. */
static INLINE void multiply_block(const struct factor *from, int number, count depth,
                                  const word *panel, float *sums, struct waiting *before) {
    count share = (SIDE * W + depth - 1) / depth, until = 0;
    if (USES_TILES) start_block();
    for (int p = 0; p < number; p++) {
        const struct factor own = from[p];
        for (count k = 0; USES_TILES && k < own.depth; k += W) {
            step_block((struct left){own.rows + k, own.depth, W}, panel + k * SIDE, SIDE);
            give_rows(before, until += share);
        }
        if (!USES_TILES)
            block((struct left){own.rows, own.depth, W}, panel, SIDE, own.depth, sums, SIDE, p > 0);
        panel += own.depth * SIDE;
    }
    give_rows(before, SIDE);
    if (USES_TILES) end_block(sums, SIDE);
}

/* The same for the last rows, of which there are fewer: copied to where there are enough. */
static INLINE void multiply_last(const struct factor *from, int number, count left,
                                 const word *panel, float *sums) {
    int more = 0;
    if (USES_TILES) start_block();
    for (int p = 0; p < number; p++)
        for (count k = 0; k < from[p].depth; k += W, panel += W * SIDE, more = 1) {
            word some[SIDE * W] __attribute__((aligned(64))) = {0};
            for (count r = 0; r < left; r++)
                memcpy(some + r * W, from[p].rows + r * from[p].depth + k, 4 * W);
            SEEN(some);
            if (USES_TILES) step_block((struct left){some, W, 0}, panel, SIDE);
            SEEN(some);
            for (count r = 0; !USES_TILES && r < left; r += TALL)
                vector_rows((struct left){some + r * W, W, 0}, panel, SIDE, W, sums + r * SIDE, SIDE,
                            more);
        }
    if (USES_TILES) end_block(sums, SIDE);
}

/* The product of values and the weights or, backward, of the outputs' gradients and the weights turned.
   A thread takes all panels for its rows or, where there are few rows, some. */
static void multiply(const struct linear *a, int backward) {
    count inner = backward ? a->outer : a->inner, outer = backward ? a->inner : a->outer;
    const word *panels = backward ? a->back : a->toward;
    count depth = inner / 2, heights = (a->rows + SIDE - 1) / SIDE;
    count bands = heights < 4 * a->num_threads ? num_groups(outer) : 1;
    count wide = up(outer / SIDE, bands) / bands;
#pragma omp parallel num_threads(a->num_threads)
    {
        float sums[2][SIDE * SIDE] __attribute__((aligned(64)));
        struct waiting before = {0};
        int turn = 0;
        begin_tiles();
#pragma omp for schedule(static) nowait
        for (count item = 0; item < heights * bands; item++) {
            count row = item / bands * SIDE, tall = fewer(SIDE, a->rows - row);
            count first = item % bands * wide, last = fewer(outer / SIDE, first + wide);
            struct factor from[3];
            int number = factors_of(a, row, backward, from);
            for (count p = first; p < last; p++, turn = !turn) {
                const word *panel = panels + p * depth * SIDE;
                if (tall == SIDE) {
                    multiply_block(from, number, depth, panel, sums[turn], &before);
                } else {
                    give_rows(&before, SIDE);
                    multiply_last(from, number, tall, panel, sums[turn]);
                }
                struct target to = target_of(a, p * SIDE, backward);
                before = (struct waiting){to, sums[turn], row, 0, tall};
            }
        }
        give_rows(&before, SIDE);
        end_tiles();
    }
}

static INLINE count panel_depth(count rows, count chunk) { /* in words, of that chunk */
    return up(fewer(CHUNK, rows - chunk * CHUNK), SIDE) / 2;
}

/* What a thread has of a weight's gradient: the sums of some of it, what they are made of, and the
   bias's. All of it stays in the second cache. */
struct weighing {
    float sums[TALLEST][WIDEST][SIDE * SIDE];
    word left[TALLEST][CHUNK / 2 * SIDE], right[WIDEST][CHUNK / 2 * SIDE];
    float bias[WIDEST][SIDE];
};

/* 32 tokens of 32 columns: two tokens to a word, (16, 32). Those beyond `left` are zero. */
static INLINE void pair_tokens(const uint16_t *from, count width, count left, float *pairs,
                               vec *totals) {
    vec low = all(0.0f), high = all(0.0f);
    for (int r = 0; r < 2 * W; r += 2, from += 2 * width) {
        vec rows[2];
        UNROLL for (int i = 0; i < 2; i++) {
            rows[i] = r + i < left ? (vec)words_at(from + i * width) : all(0.0f);
            __builtin_prefetch(from + (2 * W + i) * width); /* asked for meanwhile */
            vec even, odd;
            widened((__m512i)rows[i], &even, &odd);
            low += even, high += odd;
        }
        pair_rows(pairs + r / 2 * SIDE, (float *)rows, (float *)(rows + 1), W);
    }
    totals[0] += low, totals[1] += high;
}

/* Panels of a chunk's tokens, from `first` on: of the gradient, whose sum over tokens is added to
   `bias` where that is not null, or of the values. The left factor's are turned. */
static void lay_out_tokens(const struct linear *a, count chunk, count first, count last,
                           int of_gradient, int is_left, word *panels, float *bias) {
    count depth = panel_depth(a->rows, chunk), row = chunk * CHUNK;
    const uint16_t *from[WIDEST];
    count width[WIDEST];
    for (count p = first; p < last; p++) {
        count own = p * SIDE;
        const struct part *part = of_gradient ? part_of(a, &own) : 0;
        width[p - first] = part ? part->size : a->inner;
        from[p - first] = column_of(part ? part->gradient : a->values, row * width[p - first] + own);
    }
    vec totals[WIDEST][2] = {0};
    float pairs[W * SIDE] __attribute__((aligned(64)));
    for (count k = 0; k < depth; k += W)
        for (count p = 0; p < last - first; p++) {
            float *panel = (float *)panels + p * CHUNK / 2 * SIDE + k * SIDE;
            pair_tokens(from[p] + 2 * k * width[p], width[p], a->rows - row - 2 * k,
                        is_left ? pairs : panel, totals[p]);
            if (is_left) transpose(panel, W, pairs, SIDE, W, SIDE);
        }
    for (count p = 0; bias && p < last - first; p++, bias += SIDE) {
        store(bias, load(bias) + zip_low(totals[p][0], totals[p][1]));
        store(bias + W, load(bias + W) + zip_high(totals[p][0], totals[p][1]));
    }
}

/* Writes a block of the weight's gradient, whose rows are of the left factor. */
static void write_block(const struct linear *a, float *sums, count left, count right, int turned) {
    count column = turned ? left : right, row = turned ? right : left;
    float *d_weight = part_of(a, &row)->d_weight;
    if (!d_weight) return;
    d_weight += row * a->inner + column;
    float block[SIDE * SIDE] __attribute__((aligned(64)));
    if (turned) {
        transpose(block, SIDE, sums, SIDE, SIDE, SIDE);
        sums = block;
    }
    for (count r = 0; r < SIDE; r++) {
        stream(d_weight + r * a->inner, load(sums + r * SIDE));
        stream(d_weight + r * a->inner + W, load(sums + r * SIDE + W));
    }
}

static void write_bias(const struct linear *a, const float *sums, count first, count last) {
    for (count p = first; p < last; p++, sums += SIDE) {
        count own = p * SIDE;
        float *d_bias = part_of(a, &own)->d_bias;
        if (d_bias) memcpy(d_bias + own, sums, 4 * SIDE);
    }
}

/* Some of the left factor's panels and of the right one's, whose products a thread sums up. */
struct some {
    count first, last, low, high;
};

/* Adds up a chunk of tokens, which is laid out where the products read it. Where values lead, they
   are the left factor. */
static void weigh_chunk(const struct linear *a, struct weighing *w, struct some of, count chunk,
                        int values_lead, int weighs) {
    count depth = panel_depth(a->rows, chunk);
    int sums_left = !values_lead && of.low == 0, sums_right = values_lead && of.first == 0;
    if (weighs || sums_left)
        lay_out_tokens(a, chunk, of.first, of.last, !values_lead, 1, w->left[0],
                       sums_left ? w->bias[0] : 0);
    if (weighs || sums_right)
        lay_out_tokens(a, chunk, of.low, of.high, values_lead, 0, w->right[0],
                       sums_right ? w->bias[0] : 0);
    for (count l = 0; weighs && l < of.last - of.first; l++)
        for (count r = 0; r < of.high - of.low; r++)
            block((struct left){w->left[l], W, W * SIDE}, w->right[r], SIDE, depth, w->sums[l][r],
                  SIDE, chunk > 0);
}

/* Each part's d_weight (size, inner) = gradient' values, and its d_bias, chunk by chunk. It takes
   more to lay out the left factor, so the narrower side is that. */
static void weigh(const struct linear *a) {
    int values_lead = a->inner < a->outer, weighs = 0;
    for (int p = 0; p < a->num_parts; p++) weighs |= a->parts[p].d_weight != 0;
    count inner = a->inner / SIDE, outer = a->outer / SIDE;
    count lefts = values_lead ? inner : outer, rights = values_lead ? outer : inner;
    count bands = up(rights, WIDEST) / WIDEST, groups = up(lefts, TALLEST) / TALLEST;
    while (groups < lefts && groups * bands % a->num_threads) groups++;
    count tall = up(lefts, groups) / groups, wide = up(rights, bands) / bands;
#pragma omp parallel num_threads(a->num_threads)
    {
        struct weighing *w = (struct weighing *)a->scratch + omp_get_thread_num();
        begin_tiles();
#pragma omp for schedule(dynamic) nowait
        for (count item = 0; item < groups * bands; item++) {
            count first = item / bands * tall, low = item % bands * wide;
            struct some of = {first, fewer(lefts, first + tall), low, fewer(rights, low + wide)};
            memset(w->bias, 0, sizeof w->bias);
            for (count chunk = 0; chunk * CHUNK < a->rows; chunk++)
                weigh_chunk(a, w, of, chunk, values_lead, weighs);
            for (count l = first; weighs && l < of.last; l++)
                for (count r = low; r < of.high; r++)
                    write_block(a, w->sums[l - first][r - low], l * SIDE, r * SIDE, values_lead);
            if (values_lead ? first == 0 : low == 0)
                write_bias(a, w->bias[0], values_lead ? low : first, values_lead ? of.high : of.last);
        }
        _mm_sfence(); /* so that other threads see what was streamed */
        end_tiles();
    }
}

#endif

/* Says whether there are products here. */
int has_products(void) { return HAS_PAIRS; }

/* The bytes that linear_back needs for a number of threads. */
count linear_scratch(count num_threads) {
#if HAS_PAIRS
    return num_threads * sizeof(struct weighing);
#else
    return 0;
#endif
}

/* Says whether this processor has the instructions that the compiler was told of. It is called
   before anything else, and has none of them itself. */
int runs_here(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
#if defined(__AVX512F__)
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw")) return 0;
#endif
#if defined(__AVX512DQ__)
    if (!__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl")) return 0;
#endif
#if defined(__AVX512BF16__)
    if (!__builtin_cpu_supports("avx512bf16")) return 0;
#endif
#if defined(__AVX2__)
    if (!__builtin_cpu_supports("avx2")) return 0;
#endif
#if defined(__FMA__)
    if (!__builtin_cpu_supports("fma")) return 0;
#endif
#endif
    return 1;
}

int tiles_allowed = 0;

/* Asks the system for tiles; says whether there are any. */
int ask_for_tiles(void) {
#if HAS_TILES
    tiles_allowed = syscall(SYS_arch_prctl, 0x1023, 18) == 0; /* ARCH_REQ_XCOMP_PERM, tile data */
#endif
    return tiles_allowed;
}

/* output = values weights' + biases, and GELU of it where asked. Without `lays_out` the panels are
   there. */
void linear(const struct linear *a) {
#if HAS_PAIRS
    if (a->lays_out) lay_out_weight(a);
    multiply(a, 0);
#endif
}

/* The gradients that have room: of the values, of weights and biases. */
void linear_back(const struct linear *a) {
#if HAS_PAIRS
    if (a->scratch) weigh(a);
    if (a->d_values) multiply(a, 1);
#endif
}
