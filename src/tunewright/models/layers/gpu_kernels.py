"""Kernels of an encoder's layers on a GPU, written in Triton; `gpu_layers.py` calls them.

Each reads and writes numbers as they are stored and computes in float32. What is summed over tokens
is summed within a program in the order of its tokens, and written down for each program: the same
bits each time.

Shape letters: N tokens, D width; R tokens and C numbers of a tile.
"""

# Triton reads annotations of a kernel itself: `tl.constexpr` is a value that it compiles in.
# mypy: ignore-errors

import triton
import triton.language as tl


@triton.jit
def _mixed(numbers):
    """A permutation of 32-bit numbers that looks random: PCG (Jarzynski & Olano 2020)."""
    state = numbers * 747796405 + 2891336453
    word = ((state >> ((state >> 28) + 4)) ^ state) * 277803737
    return (word >> 22) ^ word


@triton.jit
def _kept(seed, place, drop):
    """Says which numbers dropout keeps; `drop` of 2³² are dropped, from a seed of two words."""
    first = tl.load(seed).to(tl.uint32, bitcast=True)
    second = tl.load(seed + 1).to(tl.uint32, bitcast=True)
    drawn = _mixed(_mixed(place.to(tl.uint32) ^ first) + second)
    return drawn >= drop.to(tl.uint32)


@triton.jit(do_not_specialize=["num_rows", "drop"])
def end_forward(
    values, bias, residual, weight, shift, seed, output, mean, spread,
    num_rows, width, epsilon, scale, drop,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, BIASED: tl.constexpr, DROPS: tl.constexpr,
):  # fmt: skip
    """Output = norm(residual + dropout(values + bias)), a tile of rows in each program."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, BLOCK)[None, :]
    known = column < width
    inside = known & (row < num_rows)
    place = row * width + column
    found = tl.load(values + place, inside, 0.0).to(tl.float32)
    if BIASED:
        found += tl.load(bias + column, known, 0.0).to(tl.float32)
    if DROPS:
        found = tl.where(_kept(seed, place, drop), found * scale, 0.0)
    found += tl.load(residual + place, inside, 0.0).to(tl.float32)
    centre = tl.sum(found, 1)[:, None] / width
    apart = tl.where(known, found - centre, 0.0)
    inverse = 1 / tl.sqrt(tl.sum(apart * apart, 1)[:, None] / width + epsilon)
    normed = apart * inverse * tl.load(weight + column, known, 0.0)
    normed += tl.load(shift + column, known, 0.0)
    tl.store(output + place, normed.to(output.dtype.element_ty), inside)
    tl.store(mean + row, centre, row < num_rows)
    tl.store(spread + row, inverse, row < num_rows)


@triton.jit(do_not_specialize=["num_rows", "drop", "tiles"])
def end_backward(
    gradient, values, bias, residual, weight, seed, mean, spread, d_values, d_residual, sums,
    num_rows, width, scale, drop, tiles,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
    BIASED: tl.constexpr, DROPS: tl.constexpr,
):  # fmt: skip
    """The gradients of values and residual; `sums` (programs, 3, D) are parts of those of the
    norm's weight and shift and of the bias.

    With x the normalised row, g the gradient times the weight and s the inverse spread, that of the
    sum is s (g - mean(g) - x mean(g x)) (Ba et al. 2016).
    """
    column = tl.arange(0, BLOCK)[None, :]
    known = column < width
    of_weight = tl.zeros([ROWS, BLOCK], tl.float32)
    of_shift = tl.zeros([ROWS, BLOCK], tl.float32)
    of_bias = tl.zeros([ROWS, BLOCK], tl.float32)
    scaled = tl.load(weight + column, known, 0.0)
    added = tl.zeros([1, BLOCK], tl.float32)
    if BIASED:
        added = tl.load(bias + column, known, 0.0).to(tl.float32)
    for tile in range(tiles):
        row = (tl.program_id(0) * tiles + tile) * ROWS + tl.arange(0, ROWS)[:, None]
        inside = known & (row < num_rows)
        place = row * width + column
        given = tl.load(gradient + place, inside, 0.0).to(tl.float32)
        found = tl.load(values + place, inside, 0.0).to(tl.float32) + added
        if DROPS:
            kept = _kept(seed, place, drop)
            found = tl.where(kept, found * scale, 0.0)
        found += tl.load(residual + place, inside, 0.0).to(tl.float32)
        centre = tl.load(mean + row, row < num_rows, 0.0)
        inverse = tl.load(spread + row, row < num_rows, 0.0)
        normed = tl.where(inside, (found - centre) * inverse, 0.0)
        of_weight += given * normed
        of_shift += given
        given *= scaled
        average = tl.sum(given, 1)[:, None] / width
        along = tl.sum(given * normed, 1)[:, None] / width
        found = tl.where(inside, inverse * (given - average - normed * along), 0.0)
        tl.store(d_residual + place, found.to(d_residual.dtype.element_ty), inside)
        if DROPS:
            found = tl.where(kept, found * scale, 0.0)
        of_bias += found
        tl.store(d_values + place, found.to(d_values.dtype.element_ty), inside)
    target = sums + tl.program_id(0) * 3 * width + column
    tl.store(target, tl.sum(of_weight, 0)[None, :], known)
    tl.store(target + width, tl.sum(of_shift, 0)[None, :], known)
    tl.store(target + 2 * width, tl.sum(of_bias, 0)[None, :], known)


@triton.jit(do_not_specialize=["num_rows", "tiles"])
def columns(
    gradient, before, output, sums, num_rows, width, tiles,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, GELU: tl.constexpr,
):  # fmt: skip
    """`sums` (programs, D): sums of a gradient over a program's tokens.

    With `GELU` it is first taken through GELU's slope at `before` and written to `output`.
    """
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[None, :]
    total = tl.zeros([ROWS, BLOCK], tl.float32)
    for tile in range(tiles):
        row = (tl.program_id(0) * tiles + tile) * ROWS + tl.arange(0, ROWS)[:, None]
        inside = (column < width) & (row < num_rows)
        place = row * width + column
        given = tl.load(gradient + place, inside, 0.0).to(tl.float32)
        if GELU:
            value = tl.load(before + place, inside, 0.0).to(tl.float32)
            share = 0.5 + 0.5 * tl.erf(value * 0.7071067811865476)
            slope = share + value * tl.exp(-0.5 * value * value) * 0.3989422804014327
            given *= slope
            tl.store(output + place, given.to(output.dtype.element_ty), inside)
        total += given
    target = sums + tl.program_id(0) * width + column
    tl.store(target, tl.sum(total, 0)[None, :], column < width)
