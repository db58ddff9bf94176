"""Cuts long texts into passages that end where sentences end, or at least words.

    passages("One two. Three.", places_N2, size=3, stride=0)  ->  [(0, 8), (9, 15)]

Shape letters: N tokens.
"""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt

Places = npt.NDArray[np.int32]

INSIDE, WORD, SENTENCE = 0, 1, 2
ENDS = frozenset(".!?…")  # where a blank follows: not in 3.5
FULL_ENDS = frozenset("。！？；")
# Scripts that put no blanks between words: Han, kana, and marks of both.
UNSPACED = re.compile(
    r"[\u3000-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
_WORDS = re.compile(rf"{UNSPACED.pattern}|(?:(?!{UNSPACED.pattern})\w)+|[^\w\s]")


def word_places(text: str) -> Places:
    """Returns where words begin and end, in characters, (N, 2); for models without a tokenizer.

    A Chinese or Japanese character is a word, and so is a mark.
    """
    found = [match.span() for match in _WORDS.finditer(text)]
    return np.array(found, np.int32).reshape(-1, 2)


def passages(text: str, places_N2: Places, size: int, stride: int) -> list[tuple[int, int]]:
    """Returns the passages of a text as [start, end) in characters, each of at most `size` tokens.

    `places_N2` are the tokens' places in the text, in order. A text of no more tokens is one
    passage. A longer one is cut at the last end of a sentence in the second half of a passage, or
    of a word, or else after `size` tokens. Each passage begins with about the last `stride` tokens
    of the one before; no token is left out.
    """
    if len(places_N2) <= size:
        return [(0, len(text))]
    found: list[tuple[int, int]] = []
    begin = 0
    while True:
        stop = _stop(text, places_N2, begin, size)
        found.append(_span(text, places_N2, begin, stop))
        if stop == len(places_N2):
            return found
        begin = _begin(text, places_N2, begin, stop, min(stride, size // 2))


def _span(text: str, places_N2: Places, begin: int, stop: int) -> tuple[int, int]:
    start = int(places_N2[begin, 0]) if begin else 0
    end = int(places_N2[begin:stop, 1].max()) if stop < len(places_N2) else len(text)
    return start, end


def _stop(text: str, places_N2: Places, begin: int, size: int) -> int:
    """Returns the token before which the passage ends."""
    latest = begin + size
    if latest >= len(places_N2):
        return len(places_N2)
    word = None
    for place in range(latest, begin + size // 2, -1):
        border = _border(text, places_N2, place)
        if border == SENTENCE:
            return place
        if border == WORD and word is None:
            word = place
    return word or latest


def _begin(text: str, places_N2: Places, begin: int, stop: int, stride: int) -> int:
    """Returns the token with which the next passage begins: the first of a word."""
    for place in range(max(stop - stride, begin + 1), stop):
        if _border(text, places_N2, place) != INSIDE:
            return place
    return stop


def _border(text: str, places_N2: Places, place: int) -> int:
    """Says whether a sentence, a word or neither ends before a token."""
    end, start = int(places_N2[place - 1, 1]), int(places_N2[place, 0])
    if start < end or end == 0:  # several tokens of one character
        return INSIDE
    before, after = text[end - 1], text[start]
    blank = start > end or after.isspace()  # byte-level tokens begin with their blank
    if before in FULL_ENDS or (blank and before in ENDS) or "\n" in text[end : start + 1]:
        return SENTENCE
    within = before.isalnum() and after.isalnum()
    return INSIDE if within and not blank and not _is_unspaced(before + after) else WORD


def _is_unspaced(characters: str) -> bool:
    return UNSPACED.search(characters) is not None
