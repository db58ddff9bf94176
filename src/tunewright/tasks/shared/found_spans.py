"""Answers as stretches of a context: the true ones of a row, and the likeliest of a window."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tunewright.data.cells.lists import read_written
from tunewright.errors import DataError
from tunewright.tasks.shared.texts import text_of
from tunewright.types import Row, TokenStream

NEEDED = 'Answers are [{"text", "start"}], or {"text": [...], "answer_start": [...]}.'
AS_JSON = "Write them so, as JSON where the file has only texts; [] says that there is none."


@dataclass(frozen=True, slots=True)
class TrueAnswer:
    """A true answer: its text, and where it begins in the context, in characters."""

    text: str
    start: int

    @property
    def end(self) -> int:
        return self.start + len(self.text)


@dataclass(frozen=True, slots=True)
class FoundSpan:
    """A stretch [start, end) of a context and the sum of its two logits."""

    start: int
    end: int
    score: float

    def trimmed(self, context: str) -> tuple[int, int]:
        """Returns the stretch without the blanks that byte-level tokens begin with."""
        text = context[self.start : self.end]
        start = self.start + len(text) - len(text.lstrip())
        return start, max(start, self.start + len(text.rstrip()))


def true_answers(row: Row) -> list[TrueAnswer]:
    """Returns the true answers of a row, checked against its context; none where it has none.

    They may be written as text, as CSV files have them.

    Raises DataError for another form, and for an answer that does not stand where it is said to.
    """
    value = row.values.get("answers")
    pairs = _pairs(value, row)
    context = text_of(row, "context")
    for text, start in pairs:
        if context[start : start + len(text)] != text or start < 0:
            raise _misplaced(text, start, context, row)
    return [TrueAnswer(text, start) for text, start in pairs if text]


def learnt_answers(row: Row) -> list[TrueAnswer]:
    """Returns the same of a row that is to be learnt; raises DataError where nobody says them."""
    if row.values.get("answers") is None:
        raise DataError(
            row.where,
            "it has no answers",
            "Every row needs some to train; a question without one has an empty list.",
            "Remove the row.",
        )
    return true_answers(row)


def _pairs(value: Any, row: Row) -> list[tuple[str, int]]:
    pairs = []
    for item in _listed(read_written(value)):
        match item:
            case (str(text), int(start)):
                pairs.append((text, start))
            case _:
                remedy = AS_JSON if isinstance(value, str) else ""
                raise DataError(row.where, f"its answers are {value!r:.60}", NEEDED, remedy)
    return pairs


def _listed(value: Any) -> list[Any]:
    """Returns answers in any form as (text, start); what has another form stays as it is."""
    if value is None:
        return []
    if isinstance(value, Mapping):
        texts, starts = value.get("text"), value.get("answer_start", value.get("start"))
        if isinstance(texts, str):
            return [(texts, starts)]
        if not isinstance(texts, list | tuple) or not isinstance(starts, list | tuple):
            return [value]
        return list(zip(texts, starts, strict=True)) if len(texts) == len(starts) else [value]
    if not isinstance(value, Sequence) or isinstance(value, str):
        return [value]
    return [
        (item.get("text"), item.get("start", item.get("answer_start")))
        if isinstance(item, Mapping)
        else item
        for item in value
    ]


def _misplaced(text: str, start: int, context: str, row: Row) -> DataError:
    place = context.find(text)
    stands = context[max(start, 0) : max(start, 0) + len(text)]
    remedy = f"It stands at {place}." if place >= 0 else "It stands nowhere in the context."
    return DataError(
        row.where,
        f'its answer "{text:.60}" does not stand at {start} of the context; there stands '
        f'"{stands:.60}"',
        "Starts count characters, not bytes or tokens.",
        f"{remedy} Correct the row, or remove it.",
    )


def best_spans(
    stream: TokenStream,
    start_N: np.ndarray,
    end_N: np.ndarray,
    max_tokens: int,
    num_spans: int,
) -> list[FoundSpan]:
    """Returns the likeliest stretches of a window's context, the best first.

    A stretch begins and ends in the context, does not end before it begins, and is at most
    `max_tokens` long. `start_N` and `end_N` are logits.
    """
    assert stream.offsets is not None
    assert stream.text_ids is not None
    tokens_T = np.flatnonzero(
        (stream.text_ids == 1) & (stream.offsets[:, 1] > stream.offsets[:, 0])
    )
    if not len(tokens_T):
        return []
    width = min(max_tokens, len(tokens_T))
    ends_T = np.concatenate([end_N[tokens_T], np.full(width - 1, -np.inf)])
    score_TW = start_N[tokens_T][:, None] + np.lib.stride_tricks.sliding_window_view(ends_T, width)
    flat = score_TW.ravel()
    count = min(num_spans, int(np.isfinite(flat).sum()))
    best = np.argpartition(-flat, count - 1)[:count]
    best = best[np.argsort(-flat[best], kind="stable")]
    return [
        FoundSpan(
            int(stream.offsets[tokens_T[first], 0]),
            int(stream.offsets[tokens_T[first + length], 1]),
            float(flat[place]),
        )
        for place, (first, length) in ((p, divmod(int(p), width)) for p in best)
    ]
