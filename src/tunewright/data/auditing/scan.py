"""Reads a data set once for the audit and keeps a few bytes of each row, never its text."""

from __future__ import annotations

import hashlib
import unicodedata
from array import array
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tunewright.data.checks import is_blank, plain_label
from tunewright.types import Row, Rows

MAX_MARKS = 30
"""Combining marks in a row that any language needs: Unicode Annex 15, "Stream-Safe Text Format"."""

STRETCH_ROWS = 1000


class Scan:
    """What the audit keeps of one split: a hash of 16 bytes, a label and a place for each row.

    Blank rows are only counted.
    """

    def __init__(self, rows: Rows, max_rows: int, num_rows: int | None = None) -> None:
        self.rows = rows
        self.num_rows = len(rows) if num_rows is None else num_rows
        self.num_scanned = min(len(rows), max_rows)
        self.label_counts: Counter[str] = Counter()
        self.num_unlabelled = 0
        self.num_blank = 0
        self.first_blank = ""
        self.first_unlabelled = ""
        self._first_place: dict[str, int] = {}
        self._hashes = bytearray()
        self._labels = array("q")
        self._places = array("q")
        self._lengths = array("q")

    @property
    def is_whole(self) -> bool:
        return self.num_scanned == self.num_rows

    @property
    def hashes(self) -> npt.NDArray[np.uint64]:
        """The 128-bit hash of each row's texts as two words, (R, 2)."""
        return np.frombuffer(self._hashes, dtype=np.uint64).reshape(-1, 2)

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """The number of each row's label in the codes given to `read`, (R,); -1 for none."""
        return np.frombuffer(self._labels, dtype=np.int64)

    @property
    def num_characters(self) -> npt.NDArray[np.int64]:
        """Characters of every scanned row's texts, blank ones included."""
        return np.frombuffer(self._lengths, dtype=np.int64)

    def where(self, index: int) -> str:
        """Names the row behind the `index`-th hash."""
        return self.rows[self._places[index]].where

    def first_with(self, label: str) -> str:
        """Names the first row that has a label."""
        return self.rows[self._first_place[label]].where

    def read(
        self,
        text_roles: Sequence[str],
        label_role: str | None,
        label_codes: dict[str, int],
        may_be_blank: Collection[str] = (),
    ) -> None:
        """Walks the rows; `label_codes` numbers labels and gains those that are new.

        A text may be a list of words, which is the same text as its words with blanks between. A
        blank text of a role that `may_be_blank` is none.
        """
        for place, row in _spread(self.rows, self.num_scanned):
            code = self._label(place, row, label_role, label_codes)
            texts = [
                _text_of(row.values[role])
                for role in text_roles
                if _has(row, role) and not (role in may_be_blank and is_blank(row.values[role]))
            ]
            self._lengths.append(sum(len(text) for text in texts))
            if not texts or any(is_blank(text) for text in texts):
                self.num_blank += 1
                self.first_blank = self.first_blank or row.where
                continue
            self._hashes += text_hash(texts)
            self._labels.append(code)
            self._places.append(place)

    def _label(self, place: int, row: Row, label_role: str | None, codes: dict[str, int]) -> int:
        if label_role is None:
            return -1
        if not _has(row, label_role):
            self.num_unlabelled += 1
            self.first_unlabelled = self.first_unlabelled or row.where
            return -1
        name = label_name(row.values[label_role])
        self.label_counts[name] += 1
        self._first_place.setdefault(name, place)
        return codes.setdefault(name, len(codes))


def label_name(value: Any) -> str:
    """Returns a label as text, in one way however it is written."""
    return plain_label(value)


def _has(row: Row, role: str) -> bool:
    return row.values.get(role) is not None


def _text_of(value: Any) -> str:
    """Returns a text as it is, and a list of words or texts as one text."""
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _spread(rows: Rows, wanted: int) -> Iterator[tuple[int, Row]]:
    """Yields all rows with their places, or `wanted` of them in stretches evenly spread.

    Stretches, because neighbours are read from a file much faster than single rows.
    """
    if wanted == len(rows):
        yield from enumerate(rows)
        return
    num_stretches = -(-wanted // STRETCH_ROWS)
    for index in range(num_stretches):
        first = index * len(rows) // num_stretches
        length = (index + 1) * wanted // num_stretches - index * wanted // num_stretches
        yield from enumerate(rows[first : first + length], first)


def text_hash(texts: Sequence[str]) -> bytes:
    """Returns 16 bytes that are the same for texts that look the same.

    Texts are put into Unicode's composed form (NFC), and runs of white space count as one space;
    letter case counts. Two different texts of a billion share a hash with probability 1e-21.
    """
    digest = hashlib.blake2b(digest_size=16)
    for text in texts:
        folded = " ".join(_composed(text).split()).encode("utf-8", "surrogatepass")
        digest.update(len(folded).to_bytes(8, "little"))
        digest.update(folded)
    return digest.digest()


def _composed(text: str) -> str:
    """Returns the text in NFC, in time that grows with its length only."""
    if text.isascii() or unicodedata.is_normalized("NFC", text):
        return text
    return unicodedata.normalize("NFC", _stream_safe(text))


def _stream_safe(text: str) -> str:
    """Breaks runs of more than 30 combining marks: sorting a run takes the square of its length."""
    pieces: list[str] = []
    start, run = 0, 0
    for index, character in enumerate(text):
        run = run + 1 if unicodedata.combining(character) else 0
        if run > MAX_MARKS:
            pieces.append(text[start:index] + "\u034f")  # the combining grapheme joiner
            start, run = index, 1
    return "".join([*pieces, text[start:]])
