"""The words of texts and queries, as BM25 compares them.

    indexed("酒店很好 Hotel")           ->  "酒店 店很 很好 好 Hotel"
    expression(query_words("酒店"))     ->  '"酒店"'

SQLite's full-text index finds words between blanks and marks, folds case and accents, and scores
them by BM25 (k1 = 1.2, b = 0.75; Robertson & Zaragoza 2009, "The Probabilistic Relevance Framework:
BM25 and Beyond"). Chinese and Japanese have no blanks: there, two neighbouring characters are a
word, and so is the last one of a run, which finds a query of a single character. Nie et al. 2000,
"On the use of words and n-grams for Chinese information retrieval": bigrams do as well as words,
without a dictionary.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

_RUN = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+")
_WORD = re.compile(r"\w+")

# So many words of a query are looked for: a whole text given as a query takes seconds else.
MAX_QUERY_WORDS = 64


def indexed(text: str) -> str:
    """Returns the text as it goes into the full-text index."""
    return _RUN.sub(_bigrams, _folded(text))


def query_words(query: str) -> list[str]:
    """Returns the distinct words of a query, at most 64, in their order."""
    found: dict[str, None] = {}
    for word in _WORD.findall(_RUN.sub(_query_run, _folded(query)).lower()):
        found[word] = None
    return list(found)[:MAX_QUERY_WORDS]


def expression(words: Iterable[str]) -> str:
    """Returns the query of the full-text index for passages that have any of the words."""
    return " OR ".join(f'"{word}"*' if _is_single(word) else f'"{word}"' for word in words)


def _folded(text: str) -> str:
    """Makes full-width letters and digits, ligatures and the like the usual ones."""
    return unicodedata.normalize("NFKC", text)


def _bigrams(run: re.Match[str]) -> str:
    return f"{_pairs(run[0])} {run[0][-1]} "


def _query_run(run: re.Match[str]) -> str:
    return f"{_pairs(run[0])} "


def _pairs(run: str) -> str:
    if len(run) == 1:
        return f" {run}"
    return "".join(f" {run[place : place + 2]}" for place in range(len(run) - 1))


def _is_single(word: str) -> bool:
    """Says whether a word is one character of a script without blanks."""
    return len(word) == 1 and _RUN.match(word) is not None
