#include "vectors.h"

/* Passes over memory ----------------------------------------------------------------------- */

/* Dropout: zero where a random byte is under `dropped`, else times `scale`. */
static INLINE float kept(uint8_t byte, int dropped, float scale) {
    return byte >= dropped ? scale : 0.0f;
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

/* Random bytes: Doty-Humphrey's SFC64, as NumPy has it. A state is of four numbers. */
static INLINE uint64_t next_random(uint64_t *state) {
    uint64_t found = state[0] + state[1] + state[3]++;
    state[0] = state[1] ^ (state[1] >> 11);
    state[1] = state[2] + (state[2] << 3);
    state[2] = ((state[2] << 24) | (state[2] >> 40)) + found;
    return found;
}

/* Fills `masks` rows of `step` bytes: places[2 i] and [2 i + 1] say where the i-th state's bytes are
   in each row, and how many. A state gives all of the first row's, then all of the second's. */
void random_bytes(uint64_t *states, const count *places, count number, uint8_t *to, count masks,
                  count step, int num_threads) {
#pragma omp parallel for schedule(dynamic) num_threads(num_threads) if (number > 1)
    for (count i = 0; i < number; i++) {
        uint64_t state[4], words[512];
        count size = places[2 * i + 1], left = masks * size, row = 0, done = 0;
        memcpy(state, states + 4 * i, sizeof state);
        while (left) {
            count made = fewer(left, sizeof words), used = 0;
            for (count k = 0; k < (made + 7) / 8; k++) words[k] = next_random(state);
            left -= made;
            while (used < made) {
                count some = fewer(made - used, size - done);
                memcpy(to + row * step + places[2 * i] + done, (uint8_t *)words + used, some);
                used += some, done += some;
                if (done == size) row++, done = 0;
            }
        }
        memcpy(states + 4 * i, state, sizeof state);
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
