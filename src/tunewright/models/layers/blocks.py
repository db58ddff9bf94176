"""Packed sequences as rectangles: sequences of near-equal length take one matrix product together.

One product a sequence would leave short sequences to the cost of starting it; one for all would
compute mostly filler. A block is cut off where a sequence is much shorter than the block's first,
or where its scores would no longer fit the cache.

Shape letters: N tokens, H heads, D width of a head, G sequences of a block, S their longest.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor

# A sequence joins a block if it has at least this share of the longest's tokens, or is this short.
LEAST_SHARE, ALWAYS_JOINS = 0.7, 16

# Scores of a block, per head: with 12 heads of 2 bytes about 2 MB, the size of a core's cache.
# Measured on 5 to 512 tokens: a quarter of it and four times as much were both slower.
MAX_SCORES = 87_000


@dataclass(frozen=True, eq=False)
class Block:
    """G sequences of a packed row, laid out as G x S.

    `rows` says which tokens of the packed row fill the rectangle: a slice where they follow one
    another, else indices (G·S,) in which fillers repeat their sequence's first token. `filler`
    (G, 1, S) is true at fillers, and `kept` are the places of the others; both are None where
    there are no fillers.
    """

    rows: slice | Tensor
    num_sequences: int
    length: int
    filler: Tensor | None = None
    kept: Tensor | None = None

    def take(self, values_NHD: Tensor) -> Tensor:
        """Returns the block of packed values as (G, H, S, D); a view where `rows` is a slice."""
        taken = values_NHD[self.rows]
        return taken.view(self.num_sequences, self.length, *taken.shape[1:]).transpose(1, 2)

    def put(self, values_GHSD: Tensor, target_NHD: Tensor) -> None:
        """Writes a block back to its tokens; fillers are dropped."""
        values = values_GHSD.transpose(1, 2).flatten(0, 1)
        if self.kept is None or isinstance(self.rows, slice):
            target_NHD[self.rows] = values
        else:
            target_NHD.index_copy_(0, self.rows[self.kept], values[self.kept])


@lru_cache(maxsize=64)
def blocks_of(boundaries: tuple[int, ...], device: torch.device) -> tuple[Block, ...]:
    """Returns the blocks of a packed row, every sequence in one of them.

    All layers of a model ask for the same boundaries, so the answer is remembered.
    """
    spans = [(end - start, start) for start, end in pairwise(boundaries)]
    groups: list[list[tuple[int, int]]] = []
    for length, start in sorted((span for span in spans if span[0]), key=lambda span: -span[0]):
        if not groups or not _joins(length, groups[-1]):
            groups.append([])
        groups[-1].append((length, start))
    return tuple(_block(group, device) for group in groups)


@lru_cache(maxsize=64)
def paired_blocks_of(
    queries: tuple[int, ...], keys: tuple[int, ...], device: torch.device
) -> tuple[tuple[Block, Block], ...]:
    """Returns the blocks of two packed rows whose sequences belong together, one by one.

    `queries` and `keys` are boundaries of as many sequences. Each pair of blocks holds the same
    sequences in the same order: their tokens on the side of the queries, and of the keys.
    """
    sides = [[(end - start, start) for start, end in pairwise(side)] for side in (queries, keys)]
    pairs = [pair for pair in zip(*sides, strict=True) if pair[0][0] and pair[1][0]]
    groups: list[list[tuple[tuple[int, int], tuple[int, int]]]] = []
    for pair in sorted(pairs, key=lambda pair: (-pair[1][0], -pair[0][0])):
        if not groups or not _pairs_up([*groups[-1], pair]):
            groups.append([])
        groups[-1].append(pair)
    return tuple(
        (_block([query for query, _ in group], device), _block([key for _, key in group], device))
        for group in groups
    )


def _pairs_up(group: list[tuple[tuple[int, int], tuple[int, int]]]) -> bool:
    """Says whether the sequences of a group are near enough in length, on both sides."""
    area = len(group)
    for side in zip(*group, strict=True):
        lengths = [length for length, _ in side]
        longest = max(lengths)
        if min(lengths) < LEAST_SHARE * longest and longest > ALWAYS_JOINS:
            return False
        area *= longest
    return area <= MAX_SCORES


def _joins(length: int, group: list[tuple[int, int]]) -> bool:
    longest = group[0][0]
    alike = length >= LEAST_SHARE * longest or longest <= ALWAYS_JOINS
    return alike and (len(group) + 1) * longest**2 <= MAX_SCORES


def _block(group: list[tuple[int, int]], device: torch.device) -> Block:
    lengths, starts = ([span[part] for span in group] for part in (0, 1))
    longest, first = max(lengths), starts[0]
    if (
        starts == list(range(first, first + longest * len(group), longest))
        and min(lengths) == longest
    ):
        return Block(slice(first, first + longest * len(group)), len(group), longest)
    position_S = torch.arange(longest)
    real_GS = position_S < torch.tensor(lengths)[:, None]
    rows_GS = torch.tensor(starts)[:, None] + position_S * real_GS
    rows = rows_GS.flatten().to(device)
    if bool(real_GS.all()):
        return Block(rows, len(group), longest)
    kept = real_GS.flatten().nonzero()[:, 0].to(device)
    return Block(rows, len(group), longest, ~real_GS[:, None].to(device), kept)
