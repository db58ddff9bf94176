"""The order in which training sees its rows, from counters alone.

    blocks = Blocks.whole(num_rows)                                # rows in memory
    blocks = Blocks(starts_B1, window_blocks=16, chunk_rows=2048)  # rows that are read on demand
    for chunk in blocks.chunks(seed, epoch, batch_size): ...

Rows in memory are permuted whole. Rows that lie in blocks on the disk are not all at hand: their
blocks are permuted, gathered in windows of several, and the rows of each window are permuted. The
sequence that follows depends on (seed, epoch) and where the blocks begin, and is cut into chunks.
So every process and every resumed run finds the same one, and no row is read to know it.

Shape letters: B blocks, W windows, R rows.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Self, overload

import numpy as np

from tunewright.types import Features

EncodedRow = Sequence[Features]

# Streams of random numbers that must not meet: one key for each use of (seed, counter).
ORDER, VARY, STEP, BLOCKS = 1, 2, 3, 4


def generator_of(*key: int) -> np.random.Generator:
    """Returns a generator that depends on a use and its counters alone."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


def order_of_epoch(num_rows: int, seed: int, epoch: int) -> np.ndarray:
    """Returns the order of the rows in an epoch, (num_rows,), from (seed, epoch) alone."""
    return generator_of(ORDER, seed, epoch).permutation(num_rows)


@dataclass(frozen=True)
class Blocks:
    """Where the rows of each block begin, (B + 1,), and how many blocks a window has.

    A chunk has `chunk_rows` rows, made a multiple of the batch size. One window of all blocks
    gives the order of rows in memory.
    """

    starts_B1: np.ndarray = field(repr=False)
    window_blocks: int
    chunk_rows: int

    @classmethod
    def whole(cls, num_rows: int) -> Self:
        """Returns the one block of rows in memory, which is one chunk."""
        return cls(np.array([0, num_rows]), 1, num_rows)

    @property
    def num_rows(self) -> int:
        return int(self.starts_B1[-1])

    def chunk_size(self, batch_size: int) -> int:
        """Returns the rows of every chunk but the last: whole updates, at least one."""
        return batch_size * max(1, -(-self.chunk_rows // batch_size))

    def chunks(
        self, seed: int, epoch: int, batch_size: int, first: int = 0
    ) -> Iterator[np.ndarray]:
        """Yields the chunks of an epoch from the `first` on, each as the numbers of its rows."""
        size = self.chunk_size(batch_size)
        start, end = first * size, 0
        waiting_R = np.zeros(0, np.int64)
        for window, blocks_W in enumerate(self._windows(seed, epoch)):
            begin, end = end, end + self._num_rows_of(blocks_W)
            if end <= start:
                continue
            rows_R = self._permuted(blocks_W, seed, epoch, window)
            waiting_R = np.concatenate([waiting_R, rows_R[max(start - begin, 0) :]])
            while len(waiting_R) >= size:
                yield waiting_R[:size]
                waiting_R = waiting_R[size:]
        if len(waiting_R):
            yield waiting_R

    def _windows(self, seed: int, epoch: int) -> Iterator[np.ndarray]:
        """Yields the blocks of each window, in the order of the file."""
        num_blocks = len(self.starts_B1) - 1
        order_B = generator_of(BLOCKS, seed, epoch).permutation(num_blocks)
        for start in range(0, num_blocks, self.window_blocks):
            yield np.sort(order_B[start : start + self.window_blocks])

    def _num_rows_of(self, blocks_W: np.ndarray) -> int:
        return int((self.starts_B1[blocks_W + 1] - self.starts_B1[blocks_W]).sum())

    def _permuted(self, blocks_W: np.ndarray, seed: int, epoch: int, window: int) -> np.ndarray:
        rows_R = np.concatenate(
            [np.arange(self.starts_B1[block], self.starts_B1[block + 1]) for block in blocks_W]
        )
        if not window:  # so that one window of everything is the order of rows in memory
            return rows_R[order_of_epoch(len(rows_R), seed, epoch)]
        return rows_R[generator_of(ORDER, seed, epoch, window).permutation(len(rows_R))]


class MadeRows(Sequence[EncodedRow]):
    """Encoded rows of which each is made when it is asked for, by `_made_at`."""

    @overload
    def __getitem__(self, index: int) -> EncodedRow: ...
    @overload
    def __getitem__(self, index: slice) -> list[EncodedRow]: ...
    def __getitem__(self, index: int | slice) -> EncodedRow | list[EncodedRow]:
        if isinstance(index, slice):
            return self._made_in(range(len(self))[index])
        return self._made_at(range(len(self))[index])

    def _made_in(self, places: range) -> list[EncodedRow]:
        """Returns the rows at some places."""
        return [self._made_at(place) for place in places]

    @abstractmethod
    def _made_at(self, place: int) -> EncodedRow:
        """Returns the row at a place, counted from 0."""


class OnDemandRows(MadeRows):
    """Encoded rows that are read when they are needed; `blocks` say where they lie."""

    blocks: Blocks

    @abstractmethod
    def expect(self, rows_R: np.ndarray) -> None:
        """Hears, in order, which rows are wanted next, to read them ahead."""


@dataclass(frozen=True)
class Picked(Sequence[EncodedRow]):
    """Some of the rows, as a sequence of their own."""

    rows: Sequence[EncodedRow]
    places: np.ndarray

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, index: int) -> EncodedRow: ...
    @overload
    def __getitem__(self, index: slice) -> Picked: ...
    def __getitem__(self, index: int | slice) -> EncodedRow | Picked:
        if isinstance(index, slice):
            return Picked(self.rows, self.places[index])
        return self.rows[int(self.places[index])]


def blocks_of(rows: Sequence[EncodedRow]) -> Blocks:
    """Returns where rows lie: in their blocks, or in memory."""
    return rows.blocks if isinstance(rows, OnDemandRows) else Blocks.whole(len(rows))


def one_ahead(
    chunks: Iterator[np.ndarray], expect: Callable[[np.ndarray], None]
) -> Iterator[np.ndarray]:
    """Yields the chunks; `expect` hears of each before the one in front of it is used."""
    waiting: list[np.ndarray] = []
    for chunk in chunks:
        expect(chunk)
        yield from waiting
        waiting = [chunk]
    yield from waiting
