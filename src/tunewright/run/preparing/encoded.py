"""Rows through a task's `encode`, counted for the audit, and kept for the next run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tunewright.data.auditing.ledger import TruncationLedger
from tunewright.data.table import TableRows
from tunewright.run.preparing.cache import Kept, RowCache, key_of
from tunewright.run.resuming.begun import RowsDigest
from tunewright.tasks.base import Task
from tunewright.training.flat_rows import Flattener
from tunewright.training.order import EncodedRow
from tunewright.types import Row, Rows

# What is encoded in less time is encoded again: reading it back would take as long.
MIN_SECONDS = 1.0


@dataclass(frozen=True)
class Encoder:
    """A task and its tokenizer; `note` hears of a cache that is damaged or cannot be written."""

    task: Task
    tokenizer: Any
    cache: RowCache
    note: Callable[[str], None]

    def row(self, row: Row) -> EncodedRow:
        return self.task.encode(row, self.tokenizer)

    def all(self, rows: Rows, ledger: TruncationLedger) -> tuple[Sequence[EncodedRow], str]:
        """Returns the encoded rows and their digest, from the cache where they are there."""
        if not isinstance(rows, TableRows) or not self.cache.max_bytes:
            return self._made(rows, ledger, None)
        key = key_of(rows, self.task, self.tokenizer)
        kept = self.cache.find(key, self.note)
        return self._made(rows, ledger, key) if kept is None else _taken(kept, ledger)

    def digest(self, rows: Iterable[Row], ledger: TruncationLedger) -> str:
        """Returns the digest of encoded rows, of which none is held."""
        digest = RowsDigest()
        for row in rows:
            features = self.row(row)
            digest.add(features)
            ledger.add(row.id, *_lengths(features))
        return digest.hex()

    def _made(
        self, rows: Rows, ledger: TruncationLedger, key: str | None
    ) -> tuple[Sequence[EncodedRow], str]:
        digest, flat, started = RowsDigest(), Flattener(), time.monotonic()
        encoded: list[EncodedRow] = []
        lengths: list[tuple[int, int, int]] = []
        for row in rows:
            features = self.row(row)
            digest.add(features)
            encoded.append(features)
            lengths.append((row.id, *_lengths(features)))
            ledger.add(*lengths[-1])
        if key is not None and time.monotonic() - started >= MIN_SECONDS:
            for features in encoded:
                flat.add(features)
            found = flat.arrays()
            if found is not None:
                arrays, kinds = found
                arrays["lengths"] = np.array(lengths, np.int64).reshape(-1, 3)
                about = {"task": self.task.name, "digest": digest.hex()}
                self.cache.put(key, arrays, kinds, about, self.note)
        return encoded, digest.hex()


def _lengths(features: EncodedRow) -> tuple[int, int]:
    """Returns how many tokens of a row are read, and how many are cut."""
    read = sum(item.num_tokens - item.num_repeated for item in features)
    return read, sum(item.num_cut for item in features)


def _taken(kept: Kept, ledger: TruncationLedger) -> tuple[Sequence[EncodedRow], str]:
    for row_id, num_read, num_cut in kept.arrays["lengths"].tolist():
        ledger.add(row_id, num_read, num_cut)
    return kept.rows, str(kept.about["digest"])
