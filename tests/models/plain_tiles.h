/* Matrix tiles (AMX) in plain C, so that what is written for them runs where there are none. */

#define _GNU_SOURCE
#include <immintrin.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#undef _tile_loadd
#undef _tile_stored
#undef _tile_zero
#undef _tile_dpbf16ps
#define syscall(...) 0 /* the system allows them */
#define _tile_loadconfig(shape) ((void)(shape))
#define _tile_release() ((void)0)
#define _tile_zero(tile) memset(tiles[tile], 0, sizeof tiles[tile])
#define _tile_loadd(tile, from, step) \
    for (int row = 0; row < 16; row++) memcpy(tiles[tile][row], (const char *)(from) + row * (step), 64)
#define _tile_stored(tile, to, step) \
    for (int row = 0; row < 16; row++) memcpy((char *)(to) + row * (step), tiles[tile][row], 64)
#define _tile_dpbf16ps(sums, left, right) add_tiles(tiles[sums], tiles[left], tiles[right])

static __thread uint32_t tiles[8][16][16]; /* rows of floats, or of words that pair two bfloat16 */

static inline float read_as_float(uint32_t bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

static inline void add_tiles(uint32_t sums[16][16], uint32_t left[16][16], uint32_t right[16][16]) {
    for (int row = 0; row < 16; row++)
        for (int column = 0; column < 16; column++) {
            float sum = read_as_float(sums[row][column]);
            for (int k = 0; k < 16; k++) {
                uint32_t a = left[row][k], b = right[k][column];
                sum += read_as_float(a << 16) * read_as_float(b << 16);
                sum += read_as_float(a & 0xffff0000) * read_as_float(b & 0xffff0000);
            }
            memcpy(&sums[row][column], &sum, 4);
        }
}
