"""Rows that are read from the disk and encoded shortly before they are trained on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import overload

import numpy as np

from tunewright.data.large.blocks import BlockRows
from tunewright.errors import DataError
from tunewright.training.order import Blocks, EncodedRow, OnDemandRows
from tunewright.types import Row, Rows

# Rows that are encoded together: a second's work, or less, which the first update waits for.
CHUNK_ROWS = 2048
# So many rows without a label one after the other are no oversight.
MAX_DROPPED = 1000


@dataclass(frozen=True)
class _Coming:
    """Rows that are being encoded: their numbers, the blocks they lie in, and what comes of it."""

    rows: frozenset[int]
    blocks: frozenset[int]
    encoded: Future[Mapping[int, EncodedRow]]


class EncodedOnce(Sequence[EncodedRow]):
    """The encoded rows of a data set in memory, all made when the first is asked for."""

    def __init__(self, rows: Rows, encode: Callable[[Row], EncodedRow]) -> None:
        self._rows, self._encode = rows, encode

    @cached_property
    def _encoded(self) -> list[EncodedRow]:
        return [self._encode(row) for row in self._rows]

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> EncodedRow: ...
    @overload
    def __getitem__(self, index: slice) -> list[EncodedRow]: ...
    def __getitem__(self, index: int | slice) -> EncodedRow | list[EncodedRow]:
        return self._encoded[index]


class EncodedOnDemand(OnDemandRows):
    """The encoded rows of a data set in blocks; what is expected is made by a second thread.

    Two chunks are held, that which is trained on and the next, and the blocks that they lie in.
    What is wrong with a row is raised when the row is asked for. `encode` returns None for a row
    that is dropped; the next one stands in its place, and `num_dropped` counts it.
    """

    def __init__(self, rows: BlockRows, encode: Callable[[Row], EncodedRow | None]) -> None:
        self._rows, self._encode = rows, encode
        self._dropped: set[int] = set()
        self.blocks = Blocks(rows.starts_B1, rows.table.window_blocks, CHUNK_ROWS)
        self._coming: deque[_Coming] = deque(maxlen=2)
        self._thread: ThreadPoolExecutor | None = None

    def __len__(self) -> int:
        return len(self._rows)

    def _made_at(self, place: int) -> EncodedRow:
        for coming in self._coming:
            if place in coming.rows:
                return coming.encoded.result()[place]
        return self._encoded(self._rows[place])

    def _made_in(self, places: range) -> list[EncodedRow]:
        # read at once: each by itself would open its block anew
        return [self._encoded(row) for row in self._rows.read(np.asarray(places))]

    @property
    def num_dropped(self) -> int:
        """How many rows were dropped so far."""
        return len(self._dropped)

    def expect(self, rows_R: np.ndarray) -> None:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="rows")
        blocks = self._rows.blocks_of(rows_R)
        kept = blocks | (self._coming[-1].blocks if self._coming else frozenset())
        encoded = self._thread.submit(self._made, rows_R, kept)
        self._coming.append(_Coming(frozenset(rows_R.tolist()), blocks, encoded))

    def _made(self, rows_R: np.ndarray, kept: frozenset[int]) -> Mapping[int, EncodedRow]:
        self._rows.keep(kept)
        return {row.id: self._encoded(row) for row in self._rows.read(rows_R)}

    def _encoded(self, row: Row) -> EncodedRow:
        """Encodes a row, or the first one after it that is not dropped."""
        first = row
        for place in range(first.id + 1, first.id + MAX_DROPPED + 1):
            encoded = self._encode(row)
            if encoded is not None:
                return encoded
            self._dropped.add(row.id)
            row = self._rows[place % len(self)]
        raise DataError(
            first.where,
            f"it and the {MAX_DROPPED - 1:,} rows after it are dropped, without a label or text",
            "Rows are needed to train.",
            "Name the right columns with data.columns.label and data.columns.text.",
        )
