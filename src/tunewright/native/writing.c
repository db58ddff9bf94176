#include "vectors.h"

/* Writing ---------------------------------------------------------------------------------- */

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
