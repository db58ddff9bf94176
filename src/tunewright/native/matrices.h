/* Products of matrices that fit the nearest cache, by vectors or, where there are some, by tiles. */

#pragma once
#include "tiles.h"

/* The matrices in scratch memory are of words, so one text serves both precisions. */

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
   Rows are computed by TALL at a time; `left` and `out` have room for that. With `tiles` they have
   it for whole blocks, and what a block has more of than was asked for is finite, or zero where it
   is summed over. */
static INLINE void product(count rows, count vectors, count depth, const float *left,
                           count left_step, const float *right, count right_step, float *out,
                           count out_step, int more, int pairs, int tiles) {
    for (count v = 0; tiles && v < vectors; v += 2)
        for (count r = 0; r < rows; r += SIDE)
            tile_block((struct left){left + r * left_step, left_step, W}, right + v * W, right_step,
                       up(depth, W), out + r * out_step + v * W, out_step, more);
    if (tiles) return;
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
