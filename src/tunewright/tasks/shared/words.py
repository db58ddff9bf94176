"""Tagged texts: their words by place, and which word each token of a model belongs to."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import accumulate, pairwise
from operator import itemgetter
from typing import Any

import numpy as np

from tunewright.data.cells.lists import read_written
from tunewright.data.cells.spans import read_spans
from tunewright.data.cells.tags import OUTSIDE, Scheme, TokenSpan, spans_of
from tunewright.data.checks import is_blank
from tunewright.errors import DataError
from tunewright.tasks.shared.texts import text_of
from tunewright.types import Row, TokenStream

# Chinese characters and Japanese ones, of writing without spaces.
_HAN = r"\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(rf"[^\W{_HAN}]+|[{_HAN}]|[^\w\s]")
_CHINESE = re.compile(rf"[{_HAN}\u3000-\u303f\uff00-\uffef]")


Mark = tuple[int, int, str]
"""First character, the one after the last, and the label."""

# Format characters that part words or stand beside them, as blanks do: the zero-width space, signs
# of direction, the byte order mark. Others, such as the soft hyphen, stand within words.
_BETWEEN = "\u061c\u200b\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff"

# A tag that is not known, which data write as -100: the word is neither learned nor judged.
UNKNOWN = ""
IGNORED = -100


@dataclass(frozen=True)
class TaggedText:
    """A text, the places [start, end) of its words in order, and what is marked in it.

    A row with words of its own `has_tokens`, and `tags` where these are known; one that comes as
    text has `marks`, in characters, or None; `num_trimmed` of them had blanks at an edge.
    """

    text: str
    words: Sequence[tuple[int, int]]
    marks: Sequence[Mark] | None = None
    tags: Sequence[str] | None = None
    has_tokens: bool = False
    num_trimmed: int = 0

    @property
    def is_known(self) -> bool:
        return self.marks is not None or self.tags is not None

    @property
    def known_tags(self) -> list[str]:
        """The row's own tags but for those that are not known."""
        return [tag for tag in self.tags or () if tag != UNKNOWN]

    @cached_property
    def edges(self) -> tuple[np.ndarray, np.ndarray]:
        """Where each word begins, and where it ends, (W,) each."""
        starts, ends = ([word[side] for word in self.words] for side in (0, 1))
        return np.array(starts, np.int64), np.array(ends, np.int64)

    def spans(self, scheme: Scheme) -> list[TokenSpan]:
        """Returns what is marked, in words: those that begin inside a mark."""
        if self.tags is not None:
            return spans_of([tag or OUTSIDE for tag in self.tags], scheme)
        found = []
        for start, end, label in self.marks or ():
            first, last = (bisect_left(self.words, at, key=itemgetter(0)) for at in (start, end))
            if first < last:
                found.append((first, last, label))
        return found

    def places(self, scheme: Scheme) -> list[Mark]:
        """Returns what is marked, in characters."""
        if self.tags is None:
            return list(self.marks or ())
        spans = self.spans(scheme)
        return [(self.words[a][0], self.words[b - 1][1], label) for a, b, label in spans]

    @property
    def num_inside(self) -> int:
        """How many marks begin or end inside a word."""
        begins, ends = {start for start, _ in self.words}, {end for _, end in self.words}
        return sum(start not in begins or end not in ends for start, end, _ in self.marks or ())

    def cut(self) -> TaggedText:
        """Returns the text with words cut where a mark begins or ends inside one."""
        cuts = sorted({place for start, end, _ in self.marks or () for place in (start, end)})
        words = [
            part
            for start, end in self.words
            for part in pairwise(
                [start, *cuts[bisect_right(cuts, start) : bisect_left(cuts, end)], end]
            )
        ]
        return replace(self, words=words)

    def shown(self, marks: Iterable[Mark]) -> str:
        """Returns marks as a reader may compare them."""
        return "; ".join(f"{self.text[a:b]} ({label})" for a, b, label in marks) or "nothing"


def read_tagged(row: Row) -> TaggedText:
    """Returns the words and marks of a row, whichever way it has them.

    Lists may be written as text, as CSV files have them; a blank text is no list, not an empty one.

    Raises DataError for a row without text, for tags that do not fit the words, and for spans that
    do not fit the text.
    """
    if _listed(row, "tokens") is not None:
        return _from_tokens(row)
    if row.values.get("text") is None:
        raise DataError(
            row.where,
            "it has neither tokens nor a text",
            'One of the columns "tokens" and "text" is needed.',
            "Name it with data.columns.tokens or data.columns.text.",
        )
    text = text_of(row, "text")
    words = _words(text)
    role = "entities" if "entities" in row.values else "tags"
    marked = _listed(row, role)
    if marked is None:
        return TaggedText(text, words)
    if isinstance(marked, str):
        raise DataError(
            row.where,
            f"its {role} are {marked!r:.60}",
            "A list of spans is needed.",
            'Write it as [[0, 3, "person"]], in characters of the text.',
        )
    spans = [(span.start, span.end, span.label) for span in read_spans(marked, text, row.where)]
    marks = [_trimmed(mark, text) for mark in spans]
    return TaggedText(text, words, marks, num_trimmed=sum(map(tuple.__ne__, spans, marks)))


def _listed(row: Row, role: str) -> Any:
    """Returns the list of a role, None where there is none; any other value stays as it is."""
    value = row.values.get(role)
    return None if isinstance(value, str) and is_blank(value) else read_written(value)


def _words(text: str) -> list[tuple[int, int]]:
    """Returns the places of the words of a text that comes without words.

    Letters and digits are one together, other signs and Chinese characters each by itself. Marks
    belong to the character that they stand on: the vowels of Hindi, accents that are written apart.
    """
    marks, formats = _marks()
    plain = marks.isdisjoint(text) and formats.isdisjoint(text)
    return [match.span() for match in (_WORD if plain else _marked_word()).finditer(text)]


@cache
def _marks() -> tuple[frozenset[str], frozenset[str]]:
    """Returns the marks and the format characters of Unicode, which `re` has no names for."""
    places = (*range(0x80, 0x1F000), *range(0xE0000, 0xE01F0))  # there are none between
    kinds = [(chr(place), unicodedata.category(chr(place))) for place in places]
    return (
        frozenset(character for character, kind in kinds if kind in ("Mn", "Mc", "Me")),
        frozenset(character for character, kind in kinds if kind == "Cf"),
    )


@cache
def _marked_word() -> re.Pattern[str]:
    marks, formats = map(_ranges, _marks())
    inner = rf"(?:[{marks}]|(?![{_BETWEEN}])[{formats}])"
    letter, sign = rf"[^\W{_HAN}]", rf"(?![{marks}{formats}])[^\w\s]|[{marks}]"
    return re.compile(rf"{letter}+(?:{inner}+{letter}+)*[{marks}]*|(?:[{_HAN}]|{sign})[{marks}]*")


def _ranges(characters: Iterable[str]) -> str:
    """Returns characters as `re` writes them in brackets, neighbours as one range."""
    runs: list[list[int]] = []
    for place in sorted(map(ord, characters)):
        if runs and place == runs[-1][1] + 1:
            runs[-1][1] = place
        else:
            runs.append([place, place])
    return "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in runs)


def _trimmed(mark: Mark, text: str) -> Mark:
    """Returns a mark without what is invisible at its edges; one of that alone stays as it is."""
    start, end, label = mark
    if is_blank(text[start:end]):
        return mark
    while is_blank(text[start]):
        start += 1
    while is_blank(text[end - 1]):
        end -= 1
    return start, end, label


def learnt_text(row: Row) -> TaggedText:
    """Returns the same of a row that is to be learnt; raises DataError where nothing is known."""
    text = read_tagged(row)
    if not text.is_known:
        raise DataError(
            row.where,
            f"it has no {'tags' if text.has_tokens else 'entities'}",
            "Every row needs some to train; where nothing is marked, an empty list.",
            "Remove the row.",
        )
    return text


def _from_tokens(row: Row) -> TaggedText:
    tokens = _listed(row, "tokens")
    is_list = isinstance(tokens, Iterable) and not isinstance(tokens, str | Mapping)
    if not is_list or not all(isinstance(token, str) for token in tokens):
        raise DataError(
            row.where,
            f"its tokens are {row.values['tokens']!r:.60}",
            "A list of words is needed.",
            'Write it as ["Ada", "met"], or name the column of whole texts with data.columns.text.',
        )
    text, words = joined(tokens)
    tags = _listed(row, "tags")
    if tags is None:
        return TaggedText(text, words, has_tokens=True)
    if isinstance(tags, str | Mapping) or not isinstance(tags, Collection):
        raise DataError(
            row.where,
            f"its tags are {row.values['tags']!r:.60}",
            "A list of tags is needed.",
            'Write it as ["B-person", "O"], one for each token.',
        )
    if len(tags) != len(tokens):
        raise DataError(
            row.where,
            f"it has {len(tokens)} tokens and {len(tags)} tags",
            "Each token has one tag.",
            "Correct the row, or remove it.",
        )
    return TaggedText(text, words, None, [_tag(tag, row) for tag in tags], True)


def _tag(value: Any, row: Row) -> str:
    if isinstance(value, str | int) and not isinstance(value, bool) and value != "":
        return UNKNOWN if str(value) == str(IGNORED) else str(value)
    raise DataError(row.where, f"a tag is {value!r:.60}", "A tag is a text or a whole number.")


def joined(tokens: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
    """Returns tokens as one text and the place of each: Chinese ones stand without a space."""
    if not tokens:
        return "", []
    gaps = [
        0 if _CHINESE.search(before[-1:]) and _CHINESE.search(after[:1]) else 1
        for before, after in pairwise(tokens)
    ]
    pieces = [token + " " * gap for token, gap in zip(tokens, [*gaps, 0], strict=True)]
    starts = list(accumulate(map(len, pieces), initial=0))
    return "".join(pieces), [(a, a + len(token)) for a, token in zip(starts, tokens, strict=False)]


def word_of(text: TaggedText, stream: TokenStream) -> np.ndarray:
    """Returns the word of each token of a window, (N,); -1 for special tokens.

    A token belongs to the word in which it begins, past the blanks that byte-level tokenizers
    count to it.
    """
    assert stream.offsets is not None
    assert stream.text_ids is not None
    start_W, end_W = text.edges
    begin_N = np.array([_begin(text.text, a, b) for a, b in stream.offsets], np.int64)
    if not len(start_W):
        return np.full(len(stream), -1)
    place_N = np.searchsorted(start_W, begin_N, "right") - 1
    inside_N = (place_N >= 0) & (begin_N < end_W[place_N]) & (stream.text_ids == 0)
    return np.where(inside_N, place_N, -1)


def read_places(text: TaggedText, streams: Sequence[TokenStream]) -> list[np.ndarray]:
    """Returns for each window the word that is read at each token, (N,); -1 where none is.

    A word is read at its first token, in the window where that stands deepest inside.
    """
    words = [word_of(text, stream) for stream in streams]
    depth_W = np.full(len(text.words), -1)
    window_W = np.full(len(text.words), -1)
    firsts = [np.flatnonzero((w >= 0) & (w != np.append(-1, w[:-1]))) for w in words]
    for window, (word_N, first_F) in enumerate(zip(words, firsts, strict=True)):
        depth_F = np.minimum(first_F, len(word_N) - 1 - first_F)
        deeper = depth_F > depth_W[word_N[first_F]]
        depth_W[word_N[first_F[deeper]]] = depth_F[deeper]
        window_W[word_N[first_F[deeper]]] = window
    found = [np.full(len(word_N), -1) for word_N in words]
    for window, (word_N, first_F) in enumerate(zip(words, firsts, strict=True)):
        own = first_F[window_W[word_N[first_F]] == window]
        found[window][own] = word_N[own]
    return found


def _begin(text: str, start: int, end: int) -> int:
    while start < end and text[start].isspace():
        start += 1
    return start
