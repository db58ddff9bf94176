#include "vectors.h"

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
