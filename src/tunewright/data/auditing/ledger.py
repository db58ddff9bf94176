"""The truncation ledger: how long the texts are, and what `max_length` cuts away."""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass
from typing import Any

from tunewright.data.wording import counted
from tunewright.types import ReadsLong

NUM_WORST = 10
NUM_BINS = 40  # as many bars as a picture of 400 pixels shows


@dataclass(frozen=True, slots=True)
class LengthBin:
    """How many texts have at least `low` and fewer than `high` tokens."""

    low: int
    high: int
    count: int


@dataclass(frozen=True, slots=True)
class CutRow:
    """A row that loses `num_cut` of its `num_tokens` tokens."""

    row_id: int
    num_tokens: int
    num_cut: int


@dataclass
class Cuts:
    """How many texts are longer than a model reads, and how many of their tokens it misses."""

    num_texts: int = 0
    num_tokens: int = 0

    def add(self, num_tokens: int) -> None:
        """Counts a text of which so many tokens are cut."""
        self.num_texts += 1
        self.num_tokens += num_tokens

    def notices(self, noun: str = "row") -> tuple[str, ...]:
        """Returns whole sentences, to be shown to the user."""
        if not self.num_texts:
            return ()
        texts, tokens = counted(self.num_texts, noun), counted(self.num_tokens, "token")
        return (f"{texts} longer than the model reads: {tokens} cut.",)


class TruncationLedger:
    """Adds up the tokens of texts and what is cut, one row at a time; its size does not grow.

    `max_length` is the limit in tokens, special tokens included; None cuts nothing. `reads_long`
    says what happens to longer texts.
    """

    def __init__(self, max_length: int | None = None, reads_long: ReadsLong = "truncate") -> None:
        self.max_length, self.reads_long = max_length, reads_long
        self.num_texts = self.num_tokens = self.cut_texts = self.cut_tokens = 0
        self._rows_of_length: Counter[int] = Counter()
        self._worst: list[tuple[int, int, int]] = []

    def add(self, row_id: int, num_read: int, num_cut: int) -> None:
        """Counts a row of which the model reads `num_read` tokens and `num_cut` more are cut."""
        length = num_read + num_cut
        self.num_texts += 1
        self.num_tokens += length
        self._rows_of_length[length] += 1
        if num_cut:
            self.cut_texts += 1
            self.cut_tokens += num_cut
            heapq.heappush(self._worst, (num_cut, -row_id, length))
            if len(self._worst) > NUM_WORST:
                heapq.heappop(self._worst)

    @property
    def cut_fraction(self) -> float:
        """The share of texts that are cut, [0, 1]."""
        return self.cut_texts / self.num_texts if self.num_texts else 0.0

    @property
    def cut_token_fraction(self) -> float:
        """The share of all tokens that are cut, [0, 1]."""
        return self.cut_tokens / self.num_tokens if self.num_tokens else 0.0

    @property
    def worst(self) -> list[CutRow]:
        """The rows that lose most, at most ten, the largest loss first; equals by row."""
        ordered = sorted(self._worst, reverse=True)
        return [CutRow(-negative, length, cut) for cut, negative, length in ordered]

    def length_at(self, fraction: float) -> int:
        """Returns the length in tokens that at least `fraction` of the texts do not exceed."""
        seen = 0
        for length, rows in sorted(self._rows_of_length.items()):
            seen += rows
            if seen >= fraction * self.num_texts:
                return length
        return 0

    def num_longer(self, limit: int) -> int:
        """Returns how many texts have more than `limit` tokens."""
        return sum(rows for length, rows in self._rows_of_length.items() if length > limit)

    def histogram(self, num_bins: int = NUM_BINS) -> list[LengthBin]:
        """Returns the lengths in at most `num_bins` bins without gaps.

        All bins are equally wide but the last, which holds the few texts of the far tail. One bin
        ends at `max_length`, so that every bin is either cut or not.
        """
        if not self.num_texts:
            return []
        longest = max(self._rows_of_length)
        width = self._bin_width(longest, num_bins)
        counts: Counter[int] = Counter()
        for length, rows in self._rows_of_length.items():
            counts[min(max(length - 1, 0) // width, num_bins - 1)] += rows
        last = max(counts)
        return [
            LengthBin(
                1 + width * index,
                longest + 1 if index == num_bins - 1 else 1 + width * (index + 1),
                counts[index],
            )
            for index in range(last + 1)
        ]

    def _bin_width(self, longest: int, num_bins: int) -> int:
        """Returns a width that divides `max_length`, if there is one, and shows nearly all."""
        shown = max(1, min(longest, 2 * self.length_at(0.99)))
        limit = self.max_length
        if limit is None or limit >= longest:
            return -(-shown // num_bins)
        wanted = -(-max(shown, limit + 1) // num_bins)
        return next((width for width in range(wanted, limit) if limit % width == 0), limit)

    def to_json(self) -> dict[str, Any]:
        """Returns the ledger with its histogram as [low, high, count]; rows by their number."""
        return {
            "max_length": self.max_length,
            "num_texts": self.num_texts,
            "num_tokens": self.num_tokens,
            "cut_texts": self.cut_texts,
            "cut_tokens": self.cut_tokens,
            "cut_fraction": self.cut_fraction,
            "cut_token_fraction": self.cut_token_fraction,
            "median_tokens": self.length_at(0.5),
            "p95_tokens": self.length_at(0.95),
            "max_tokens": max(self._rows_of_length, default=0),
            "histogram": [[each.low, each.high, each.count] for each in self.histogram()],
        }
