"""Marked stretches of a text, such as the names in it, read from the forms that tools write.

{"text": "Ada met Bo.", "entities": [{"start": 0, "end": 3, "label": "person"}]}
{"text": "Ada met Bo.", "entities": [[0, 3, "person"]]}

Also doccano's `start_offset` and `end_offset`, and Label Studio's `labels` with one label in it. A
span that says its `text` is held to it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from tunewright.answers import Span
from tunewright.errors import DataError

NEEDED = 'A span is {"start", "end", "label"} or [start, end, label], in characters of the text.'


def read_spans(value: Any, text: str, where: str) -> list[Span]:
    """Returns the spans of a text in their order, checked against it.

    `value` is a list of dicts or of triples; None is no spans. `where` names the
    row. Offsets count characters (code points) from 0; `end` is exclusive.

    Raises: DataError for another form, for a span that is empty, lies outside the text or cuts a
    character from its combining marks, and for two spans that overlap.
    """
    if not isinstance(value, Sequence | None) or isinstance(value, str):
        raise DataError(where, f"its spans are {value!r:.60}", NEEDED)
    spans = sorted((_span(item, text, where) for item in value or ()), key=lambda span: span.start)
    for span in spans:
        _check_within(span, text, where)
    for first, second in pairwise(spans):
        if second.start < first.end:
            raise DataError(
                where,
                f"{_shown(first, text)} and {_shown(second, text)} overlap",
                "Each character belongs to one span at most.",
                "Keep one of the two.",
            )
    return spans


def _span(item: Any, text: str, where: str) -> Span:
    if isinstance(item, Mapping):
        labels = item.get("labels")
        only = labels[0] if isinstance(labels, list) and len(labels) == 1 else None
        parts = [
            item.get("start", item.get("start_offset")),
            item.get("end", item.get("end_offset")),
            item.get("label", only),
        ]
    elif isinstance(item, Sequence) and len(item) == 3 and not isinstance(item, str):
        parts = list(item)
    else:
        parts = []
    match parts:
        case [int(start), int(end), str(label)] if not {type(start), type(end)} & {bool}:
            said = item.get("text") if isinstance(item, Mapping) else None
            if isinstance(said, str):
                start, end = _checked(start, end, said, text, where)
            return Span(start, end, label)
    raise DataError(where, f"a span is {item!r:.60}", NEEDED)


def _checked(start: int, end: int, said: str, text: str, where: str) -> tuple[int, int]:
    """Returns the place of a span that says what stands there."""
    start, end = in_characters(text, start, end, said)
    stands = text[max(start, 0) : max(end, 0)]
    if stands.strip() != said.strip():
        raise DataError(
            where,
            f'a span says "{said:.30}"; at {start} to {end} of the text stands "{stands:.30}"',
            "Offsets count characters, not bytes or tokens; an end is the place after the last.",
            "Mend the span, or leave its text out.",
        )
    return start, end


def in_characters(text: str, start: int, end: int, said: str) -> tuple[int, int]:
    """Returns offsets in characters; a browser counts one beyond U+FFFF, such as 😀, as two.

    Those at which `said` stands either way; offsets at which it does not stay as they are.
    """
    if text[start:end] == said or start < 0 or end < 0:
        return start, end
    units = text.encode("utf-16-le", "surrogatepass")
    before, marked = units[: 2 * start], units[2 * start : 2 * end]
    if marked.decode("utf-16-le", "replace") != said:
        return start, end
    first = len(before.decode("utf-16-le", "replace"))
    return first, first + len(said)


def _check_within(span: Span, text: str, where: str) -> None:
    if not 0 <= span.start < span.end <= len(text):
        raise DataError(
            where,
            f'the span {span.start} to {span.end} ("{span.label}") does not lie in the text of '
            f"{len(text):,} characters",
            "A span begins before it ends, and ends with the text at the latest.",
            "Offsets count characters, not bytes or tokens: mend them.",
        )
    for place in (span.start, span.end):
        if place < len(text) and unicodedata.category(text[place]) in ("Mn", "Mc", "Me"):
            raise DataError(
                where,
                f"{_shown(span, text)} cuts the character before place {place} from its marks",
                "A span begins and ends between whole characters.",
                "Move its edge past the combining mark.",
            )


def _shown(span: Span, text: str) -> str:
    return f'the span {span.start} to {span.end} ("{text[span.start : span.end]:.30}")'
