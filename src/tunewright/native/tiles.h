/* A block of a product: 32 rows and columns of sums, on matrix tiles (AMX) or in vectors. */

#pragma once
#include "vectors.h"

#if defined(__AMX_BF16__) && defined(__AMX_TILE__) && defined(__linux__) && HAS_PAIRS
#define HAS_TILES 1
#else
#define HAS_TILES 0
#endif

#define SIDE 32 /* rows and columns of a block */

/* A left factor of a block: `step` words lead to the next row, `next` to the next 16 of a row. */
struct left {
    const void *words;
    count step, next;
};

/* Set once the system lets this process use tiles; until then an instruction would end it. */
extern int tiles_allowed;
#define USES_TILES (HAS_TILES && tiles_allowed)

#if HAS_TILES

/* A compiler is not told that tiles read memory: what was written to it has to be there by now. */
#define SEEN(address) __asm__ volatile("" ::"r"(address) : "memory")

/* Every thread says what its tiles are before it uses them, and gives them back after. */
static INLINE void begin_tiles(void) {
    if (!tiles_allowed) return;
    struct {
        uint8_t palette, start, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } shape = {.palette = 1};
    for (int i = 0; i < 8; i++) shape.bytes[i] = 64, shape.rows[i] = 16;
    SEEN(&shape);
    _tile_loadconfig(&shape);
}

static INLINE void end_tiles(void) {
    if (tiles_allowed) _tile_release();
}

/* Four tiles of 16 rows and 16 columns hold a block of sums: it starts at zero or with what is there,
   every step adds left (32, 16) right (16, 32), words, and it ends in memory. Steps lead from row to
   row. */
static INLINE void start_block(void) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
}

static INLINE void resume_block(const float *sums, count step) {
    SEEN(sums);
    _tile_loadd(0, sums, 4 * step);
    _tile_loadd(1, sums + W, 4 * step);
    _tile_loadd(2, sums + W * step, 4 * step);
    _tile_loadd(3, sums + W * step + W, 4 * step);
}

static INLINE void step_block(struct left a, const word *right, count right_step) {
    _tile_loadd(4, a.words, 4 * a.step);
    _tile_loadd(6, right, 4 * right_step);
    _tile_loadd(7, right + W, 4 * right_step);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(5, (const word *)a.words + W * a.step, 4 * a.step);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
}

static INLINE void end_block(float *sums, count step) {
    _tile_stored(0, sums, 4 * step);
    _tile_stored(1, sums + W, 4 * step);
    _tile_stored(2, sums + W * step, 4 * step);
    _tile_stored(3, sums + W * step + W, 4 * step);
    SEEN(sums);
}

/* out (32, 32) = left (32, depth) right (depth, 32), or += with `more`. The depth is in words, a
   multiple of 16. */
static INLINE void tile_block(struct left a, const void *right, count right_step, count depth,
                              float *out, count out_step, int more) {
    const word *left = a.words, *from = right;
    SEEN(left);
    if (more) resume_block(out, out_step);
    else start_block();
    for (count k = 0; k < depth; k += W, left += a.next, from += W * right_step)
        step_block((struct left){left, a.step, a.next}, from, right_step);
    end_block(out, out_step);
}

#else /* what is never called compiles everywhere */

#define SEEN(address)

static INLINE void begin_tiles(void) {}
static INLINE void end_tiles(void) {}
static INLINE void start_block(void) {}
static INLINE void step_block(struct left a, const word *right, count right_step) {}
static INLINE void end_block(float *sums, count step) {}
static INLINE void tile_block(struct left a, const void *right, count right_step, count depth,
                              float *out, count out_step, int more) {}

#endif

#if HAS_PAIRS

/* TALL rows of a block, by the instruction that multiplies pairs in vectors. */
static INLINE void vector_rows(struct left a, const word *right, count right_step, count depth,
                               float *out, count out_step, int more) {
    vec sums[TALL][2];
    UNROLL for (int r = 0; r < TALL; r++)
        UNROLL for (int v = 0; v < 2; v++)
            sums[r][v] = more ? load(out + r * out_step + v * W) : all(0.0f);
    const word *left = a.words;
    for (count k = 0; k < depth; k += W, left += a.next)
        for (count j = 0; j < W; j++, right += right_step) {
            __m512bh low = (__m512bh)load((const float *)right);
            __m512bh high = (__m512bh)load((const float *)right + W);
            UNROLL for (int r = 0; r < TALL; r++) {
                __m512bh same = (__m512bh)_mm512_set1_epi32((int)left[r * a.step + j]);
                sums[r][0] = (vec)_mm512_dpbf16_ps((__m512)sums[r][0], low, same);
                sums[r][1] = (vec)_mm512_dpbf16_ps((__m512)sums[r][1], high, same);
            }
        }
    UNROLL for (int r = 0; r < TALL; r++)
        UNROLL for (int v = 0; v < 2; v++) store(out + r * out_step + v * W, sums[r][v]);
}

/* A block as the processor has it. */
static INLINE void block(struct left a, const word *right, count right_step, count depth, float *out,
                         count out_step, int more) {
    if (USES_TILES) tile_block(a, right, right_step, depth, out, out_step, more);
    for (count r = 0; !USES_TILES && r < SIDE; r += TALL) {
        struct left rows = {(const word *)a.words + r * a.step, a.step, a.next};
        vector_rows(rows, right, right_step, depth, out + r * out_step, out_step, more);
    }
}

#endif
