#include "tiles.h"

/* The products of a linear layer on tiles ---------------------------------------------------- */

/* Weights and, for their gradient, tokens are laid out first in the order in which tiles read them:
   a panel is 32 columns of a right factor, (depth, 32) words, or 32 rows of a left one,
   (depth / 16, 32, 16). What follows a product (bias, GELU, rounding) happens while its block is in
   the cache. Each number of a result is summed in the same order, whatever else is computed with
   it. All sizes but the number of tokens are multiples of 32. */

#if HAS_TILES
#include <sys/syscall.h>
#include <unistd.h>
#endif

#define GROUP_ROWS 64 /* of tokens that a thread takes at a time */
#define GROUP 4       /* panels that a thread takes at a time */
#define CHUNK 512     /* tokens that a weight's gradient is summed over at a time */

/* Layers that read the same values: one, or the query's, key's and value's. A part has `size`
   columns of the output; weight and bias, (size, inner) and (size) or null, are float32. */
struct part {
    count size;
    const float *weight, *bias;
    void *output; /* (rows, size) */
    const void *gradient; /* of its columns or, with `gelu`, of `active`: (rows, size) */
    float *d_weight, *d_bias;
};

/* values (rows, inner) to outputs (rows, outer), all bfloat16. `toward` are the weights' panels for
   that, `back` those for the gradient of the values. */
struct linear {
    count rows, inner, outer, gelu, num_threads, num_parts, lays_out;
    struct part parts[3];
    const void *values;
    void *toward, *back;
    void *output, *active; /* with `gelu`, active = gelu(output); without parts, the product */
    void *d_output, *d_values;
    void *left, *right; /* panels of the gradient and of the values, over tokens */
    float *sums;        /* (chunks, outer) */
};

/* Returns the part that a column is of, and its place there. */
static INLINE const struct part *part_of(const struct linear *a, count *column) {
    const struct part *part = a->parts;
    while (*column >= part->size) *column -= part++->size;
    return part;
}

#if HAS_TILES

static count num_chunks(const struct linear *a) { return (a->rows + CHUNK - 1) / CHUNK; }
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

/* The standard normal distribution's density times the square root of 2 pi, and the distribution
   itself: Abramowitz & Stegun 7.1.26, to a relative 1e-4, where bfloat16 has 4e-3. */
static INLINE void normal(vec x, vec *density, vec *below) {
    vec size = (vec)_mm512_abs_ps((__m512)x), power = x * x * -0.72134752f; /* of two */
    power = larger(power, all(-100.0f)); /* numbers smaller than float32 has take a detour */
    vec share = (vec)_mm512_rcp14_ps((__m512)(size * 0.23164189f + 1.0f)); /* 0.3275911 / sqrt 2 */
    vec sum = share * 0.5307027145f - 0.7265760135f;
    sum = sum * share + 0.7107068705f;
    sum = sum * share - 0.142248368f;
    sum = (sum * share + 0.127414796f) * share;
    vec whole = (vec)_mm512_roundscale_ps((__m512)power, _MM_FROUND_TO_NEAREST_INT);
    vec rest = power - whole, part = rest * 0.0096181f + 0.0555041f; /* 2 to the power of rest */
    part = part * rest + 0.2402265f;
    part = part * rest + 0.6931472f;
    *density = (vec)_mm512_scalef_ps((__m512)(part * rest + 1.0f), (__m512)whole);
    vec tail = sum * *density;
    __mmask16 above = _mm512_movepi32_mask((__m512i)x);
    *below = (vec)_mm512_mask_blend_ps(above, (__m512)(1.0f - tail), (__m512)tail);
}

/* The weights as panels: `toward` runs over the inner numbers, `back` over the outer ones. */
static void lay_out_weight(const struct linear *a) {
    count I = a->inner, O = a->outer;
#pragma omp parallel for schedule(static) num_threads(a->num_threads)
    for (count o = 0; o < O; o += W)
        for (count i = 0; i < I; i += SIDE) {
            vec rows[W], turned[W];
            count own = o;
            const float *weight = part_of(a, &own)->weight;
            for (int r = 0; r < W; r++) {
                const float *from = weight + (own + r) * I + i;
                rows[r] = (vec)bfloat16s(load(from), load(from + W));
            }
            word *toward = (word *)a->toward + o / SIDE * I / 2 * SIDE + i / 2 * SIDE + o % SIDE;
            transpose((float *)turned, W, (float *)rows, W, W, W);
            for (int k = 0; a->toward && k < W; k++)
                store((float *)toward + k * SIDE, turned[k]);
            float *back = (float *)a->back + i / SIDE * O / 2 * SIDE + o / 2 * SIDE;
            for (int r = 0; a->back && r < W; r += 2)
                pair_rows(back + r / 2 * SIDE, (float *)(rows + r), (float *)(rows + r + 1), W);
        }
}

/* Where a panel's columns go, and what is added to them. */
struct target {
    uint16_t *output, *active;
    count step;
    const float *bias;
};

static INLINE struct target target_of(const struct linear *a, count column) {
    if (!a->num_parts) return (struct target){(uint16_t *)a->output + column, 0, a->outer, 0};
    const struct part *part = part_of(a, &column);
    return (struct target){(uint16_t *)part->output + column,
                           a->gelu ? (uint16_t *)a->active + column : 0, part->size,
                           part->bias ? part->bias + column : 0};
}

/* Gives 32 sums of a row to the output: with the bias, narrow, and through GELU where asked. */
static INLINE void give(const struct target *to, const float *sums, count row) {
    vec low = load(sums), high = load(sums + W);
    if (to->bias) low += load(to->bias), high += load(to->bias + W);
    __m512i narrow = bfloat16s(low, high);
    _mm512_storeu_si512(to->output + row * to->step, narrow);
    if (!to->active) return;
    vec even, odd, density, below[2];
    widened(narrow, &even, &odd);
    normal(even, &density, below);
    normal(odd, &density, below + 1);
    _mm512_storeu_si512(to->active + row * to->step,
                        interleaved(even * below[0], odd * below[1]));
}

/* Asks for the line of memory that will be given to, while products are computed. */
static INLINE void fetch(const struct target *to, count row) {
    __builtin_prefetch(to->output + row * to->step, 1);
    if (to->active) __builtin_prefetch(to->active + row * to->step, 1);
}

/* sums = 32 rows of words, from `row` on, times a panel; of the last rows there may be fewer. */
static INLINE void multiply_block(const word *rows, count left, count depth, const word *panel,
                                  float *sums) {
    if (left >= SIDE) {
        block((struct left){rows, depth, W}, panel, SIDE, depth, sums, SIDE, 0);
        return;
    }
    for (count k = 0; k < depth; k += W) { /* copied to where there are 32, a tile at a time */
        word some[SIDE * W] = {0};
        for (count r = 0; r < left; r++) memcpy(some + r * W, rows + r * depth + k, 4 * W);
        block((struct left){some, W, 0}, panel + k * SIDE, SIDE, W, sums, SIDE, k > 0);
    }
}

/* output = values times panels. A thread writes rows of GROUP panels, as memory likes it. */
static void multiply(const struct linear *a, const word *panels) {
    count depth = a->inner / 2, groups = (a->rows + GROUP_ROWS - 1) / GROUP_ROWS;
    count num_panels = a->outer / SIDE, bands = num_groups(a->outer);
#pragma omp parallel num_threads(a->num_threads)
    {
        float sums[GROUP][SIDE * SIDE] __attribute__((aligned(64)));
        struct target to[GROUP];
        begin_tiles();
#pragma omp for schedule(static)
        for (count item = 0; item < groups * bands; item++) {
            count from = item / bands * GROUP_ROWS, end = fewer(a->rows, from + GROUP_ROWS);
            count first = item % bands * GROUP, wide = fewer(num_panels - first, GROUP);
            for (count p = 0; p < wide; p++) to[p] = target_of(a, (first + p) * SIDE);
            for (count row = from; row < end; row += SIDE) {
                const word *rows = (const word *)a->values + row * depth;
                count tall = fewer(SIDE, end - row);
                for (count r = 0; r < tall; r++)
                    for (count p = 0; p < wide; p++) fetch(to + p, row + r);
                for (count p = 0; p < wide; p++)
                    multiply_block(rows, end - row, depth, panels + (first + p) * depth * SIDE,
                                   sums[p]);
                for (count r = 0; r < tall; r++)
                    for (count p = 0; p < wide; p++) give(to + p, sums[p] + r * SIDE, row + r);
            }
        }
        end_tiles();
    }
}

/* The gradient of GELU's input, for 32 numbers. */
static INLINE __m512i through_gelu(__m512i gradient, __m512i output) {
    vec x[2], given[2], density, below;
    widened(output, x, x + 1);
    widened(gradient, given, given + 1);
    for (int i = 0; i < 2; i++) {
        normal(x[i], &density, &below);
        given[i] *= below + x[i] * density * 0.3989422804f;
    }
    return interleaved(given[0], given[1]);
}

static INLINE count panel_depth(count rows, count chunk) { /* in words, of that chunk */
    return up(fewer(CHUNK, rows - chunk * CHUNK), SIDE) / 2;
}

/* 32 numbers of a gradient on their way: through GELU, to where a product reads those of all parts
   in a row, and into the sums of their columns. */
static INLINE __m512i given(const struct linear *a, __m512i found, count row, count column,
                            vec *totals) {
    count place = row * a->outer + column, next = place + 2 * W * a->outer;
    if (a->gelu) {
        __builtin_prefetch((uint16_t *)a->output + next);
        found = through_gelu(found, words_at((const uint16_t *)a->output + place));
    }
    if (a->d_output) {
        __builtin_prefetch((uint16_t *)a->d_output + next, 1);
        _mm512_storeu_si512((uint16_t *)a->d_output + place, found);
    }
    vec even, odd;
    widened(found, &even, &odd);
    totals[0] += even, totals[1] += odd;
    return found;
}

/* 32 tokens, from `row` on, of 32 columns: two tokens to a word, (16, 32). With `totals` they are of
   the gradient. */
static INLINE void pair_tokens(const struct linear *a, count row, count column, float *pairs,
                               vec *totals) {
    count own = column, width = a->inner;
    const uint16_t *tensor = a->values;
    if (totals) {
        const struct part *part = part_of(a, &own);
        tensor = part->gradient, width = part->size;
    }
    vec tokens[2 * W];
    for (int r = 0; r < 2 * W; r++) {
        const uint16_t *from = tensor + (row + r) * width + own;
        if (row + r >= a->rows) {
            tokens[r] = all(0.0f);
            continue;
        }
        __builtin_prefetch(from + 2 * W * width); /* what comes next is asked for meanwhile */
        __m512i found = words_at(from);
        tokens[r] = (vec)(totals ? given(a, found, row + r, column, totals) : found);
    }
    for (int r = 0; r < W; r++)
        pair_rows(pairs + r * SIDE, (float *)(tokens + 2 * r), (float *)(tokens + 2 * r + 1), W);
}

/* Up to GROUP panels of a chunk's tokens, from `first` on: as left factors, of the gradient. */
static void lay_out_tokens(const struct linear *a, count chunk, count first, count last,
                           int is_left) {
    count depth = panel_depth(a->rows, chunk), width = is_left ? a->outer : a->inner;
    word *panels = (word *)(is_left ? a->left : a->right) + chunk * CHUNK / 2 * width;
    vec totals[GROUP][2] = {0};
    float pairs[W * SIDE] __attribute__((aligned(64)));
    for (count k = 0; k < depth; k += W)
        for (count p = first; p < last; p++) {
            float *panel = (float *)panels + p * SIDE * depth;
            count row = chunk * CHUNK + 2 * k;
            if (!is_left) {
                pair_tokens(a, row, p * SIDE, panel + k * SIDE, 0);
                continue;
            }
            pair_tokens(a, row, p * SIDE, pairs, totals[p - first]);
            transpose(panel + k * SIDE, W, pairs, SIDE, W, SIDE);
        }
    for (count p = first; is_left && p < last; p++) {
        float *sums = a->sums + chunk * width + p * SIDE;
        store(sums, zip_low(totals[p - first][0], totals[p - first][1]));
        store(sums + W, zip_high(totals[p - first][0], totals[p - first][1]));
    }
}

/* Lays out gradients and values for the gradient of the weight, and sums up that of the bias. */
static void lay_out_rows(const struct linear *a) {
    count lefts = num_groups(a->outer), groups = lefts + (a->right ? num_groups(a->inner) : 0);
#pragma omp parallel for schedule(static) num_threads(a->num_threads)
    for (count item = 0; item < groups * num_chunks(a); item++) {
        count group = item % groups, is_left = group < lefts;
        count first = (is_left ? group : group - lefts) * GROUP;
        count last = fewer((is_left ? a->outer : a->inner) / SIDE, first + GROUP);
        lay_out_tokens(a, item / groups, first, last, is_left);
    }
    for (count o = 0; o < a->outer; o++) {
        count own = o;
        float *d_bias = part_of(a, &own)->d_bias, sum = 0;
        for (count chunk = 0; d_bias && chunk < num_chunks(a); chunk++)
            sum += a->sums[chunk * a->outer + o];
        if (d_bias) d_bias[own] = sum;
    }
}

/* Each part's d_weight (size, inner) = gradient' values, chunk by chunk. */
static void weigh(const struct linear *a) {
    count lefts = a->outer / SIDE, rights = a->inner / SIDE;
    count bands = num_groups(a->inner), groups = num_groups(a->outer);
#pragma omp parallel num_threads(a->num_threads)
    {
        float sums[GROUP * GROUP][SIDE * SIDE] __attribute__((aligned(64)));
        begin_tiles();
#pragma omp for schedule(dynamic)
        for (count item = 0; item < groups * bands; item++) {
            count first = item / bands * GROUP, low = item % bands * GROUP;
            count last = fewer(lefts, first + GROUP), high = fewer(rights, low + GROUP);
            for (count chunk = 0; chunk < num_chunks(a); chunk++) {
                count depth = panel_depth(a->rows, chunk);
                const word *left = (const word *)a->left + chunk * CHUNK / 2 * a->outer;
                const word *right = (const word *)a->right + chunk * CHUNK / 2 * a->inner;
                for (count r = low; r < high; r++)
                    for (count l = first; l < last; l++)
                        block((struct left){left + l * SIDE * depth, W, W * SIDE},
                              right + r * SIDE * depth, SIDE, depth,
                              sums[(l - first) * GROUP + r - low], SIDE, chunk > 0);
            }
            for (count l = first; l < last; l++) {
                count own = l * SIDE;
                float *d_weight = part_of(a, &own)->d_weight;
                for (count row = 0; d_weight && row < SIDE; row++)
                    for (count r = low; r < high; r++)
                        memcpy(d_weight + (own + row) * a->inner + r * SIDE,
                               sums[(l - first) * GROUP + r - low] + row * SIDE, 4 * SIDE);
            }
        }
        end_tiles();
    }
}

#endif

/* Says whether this processor has the instructions that the compiler was told of. It is called
   before anything else, and has none of them itself. */
int runs_here(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
#if defined(__AVX512F__)
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw")) return 0;
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
#if HAS_TILES
    if (a->lays_out) lay_out_weight(a);
    multiply(a, a->toward);
#endif
}

/* The gradients that have room: of the values, of weights and biases. */
void linear_back(const struct linear *a) {
#if HAS_TILES
    if (a->left) lay_out_rows(a);
    if (a->right) weigh(a);
    if (a->d_values) {
        struct linear back = *a;
        back.inner = a->outer, back.outer = a->inner, back.num_parts = 0, back.gelu = 0;
        back.values = a->d_output ? a->d_output : a->parts[0].gradient, back.output = a->d_values;
        multiply(&back, a->back);
    }
#endif
}
