"""ROUGE-1, -2, -L and -Lsum, equal to rouge-score's, a figure for each row.

    rouge_scores("the cat sat", ["a cat sat"])     # {"rouge1": 66.7, "rouge2": 50.0, ...}

ROUGE (Lin 2004) is the F1 of what an answer and a reference share: words, pairs of words, or their
longest common subsequence, over the whole (L) or by the lines of the reference (Lsum). Words are
runs of Latin letters and digits, as in rouge-score, in lower case and not stemmed; it drops all
else. Here every Chinese, Japanese or Korean character is a word, and so is every run of letters of
another script. All are from 0 to 100. Shape letters: R rows.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from tunewright.metrics.spec import Counts, MetricSpec, Statistics

ROUGE_METRICS = (
    MetricSpec("rougeL", True, "ROUGE-L: longest common subsequence of words, F1, 0 to 100"),
    MetricSpec("rouge1", True, "ROUGE-1: words shared with the reference, F1, 0 to 100"),
    MetricSpec("rouge2", True, "ROUGE-2: pairs of words shared, F1, 0 to 100"),
    MetricSpec("rougeLsum", True, "ROUGE-Lsum: the same as L, line by line, 0 to 100"),
)

# Kana, Chinese characters, Hangul: each one alone. Beyond Latin and its accents: Greek and on.
_UNSPACED = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U000323af"
_WORD = re.compile(rf"[a-z0-9]+|[{_UNSPACED}]|(?:(?![{_UNSPACED}\u0000-\u036f\u1e00-\u1eff])\w)+")


def rouge_words(text: str) -> list[str]:
    """Returns the words of a text as ROUGE compares them."""
    return _WORD.findall(text.lower())


def rouge_scores(answer: str, references: Sequence[str]) -> dict[str, float]:
    """Returns the four scores of a row, each the best of its references."""
    each = [_scores(answer, reference) for reference in references]
    return {
        spec.name: max((scores[spec.name] for scores in each), default=0.0)
        for spec in ROUGE_METRICS
    }


def rouge_metrics(statistics: Statistics, counts_R: Counts | None = None) -> dict[str, float]:
    """Returns the means of rows with the figures of `rouge_scores`."""
    counts_R = np.ones(len(statistics["rougeL"])) if counts_R is None else np.asarray(counts_R)
    total = counts_R.sum()
    return {
        spec.name: float(counts_R @ statistics[spec.name] / total) if total else float("nan")
        for spec in ROUGE_METRICS
    }


def _scores(answer: str, reference: str) -> dict[str, float]:
    found, true = rouge_words(answer), rouge_words(reference)
    common = _table(true, found)[-1][-1] if found and true else 0
    return {
        "rouge1": _ngram_f1(found, true, 1),
        "rouge2": _ngram_f1(found, true, 2),
        "rougeL": _f1(common, len(found), len(true)),
        "rougeLsum": _by_lines(_lines(answer), _lines(reference)),
    }


def _ngram_f1(found: Sequence[str], true: Sequence[str], order: int) -> float:
    own, expected = (
        Counter(tuple(words[i : i + order]) for i in range(len(words) - order + 1))
        for words in (found, true)
    )
    return _f1((own & expected).total(), own.total(), expected.total())


def _f1(common: int, num_found: int, num_true: int) -> float:
    return 100 * 2 * common / (num_found + num_true) if common else 0.0


def _lines(text: str) -> list[list[str]]:
    return [rouge_words(line) for line in text.split("\n") if line]


def _by_lines(found: Sequence[Sequence[str]], true: Sequence[Sequence[str]]) -> float:
    """The union of what each line of the answer has in common with a line of the reference.

    A word counts no oftener than it stands on either side, as in ROUGE 1.5.5.
    """
    left = Counter(word for line in found for word in line)
    hits = 0
    for line in true:
        places = sorted({place for other in found for place in _common_places(line, other)})
        for place in places:
            if left[line[place]] > 0:
                left[line[place]] -= 1
                hits += 1
    return _f1(hits, sum(map(len, found)), sum(map(len, true)))


def _table(left: Sequence[str], right: Sequence[str]) -> list[list[int]]:
    """Returns the length of the longest common subsequence of all beginnings."""
    table = [[0] * (len(right) + 1)]
    for word in left:
        above, row = table[-1], [0]
        for place, other in enumerate(right):
            row.append(above[place] + 1 if word == other else max(above[place + 1], row[place]))
        table.append(row)
    return table


def _common_places(left: Sequence[str], right: Sequence[str]) -> list[int]:
    """Returns the places in `left` of one longest common subsequence, from its end."""
    table = _table(left, right)
    i, j, places = len(left), len(right), []
    while i and j:
        if left[i - 1] == right[j - 1]:
            i, j = i - 1, j - 1
            places.append(i)
        elif table[i][j - 1] > table[i - 1][j]:
            j -= 1
        else:
            i -= 1
    return places
