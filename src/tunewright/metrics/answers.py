"""Exact match and F1 of answers: SQuAD's as its scripts count them, Chinese ones after CMRC 2018.

    answer_scores("the Eiffel Tower", ["Eiffel Tower"])  ->  AnswerScores(exact=1.0, f1=1.0)

SQuAD 2.0 (Rajpurkar et al. 2018): case, punctuation and articles do not count, F1 is over words; of
several true answers the best counts, but for those of which nothing is left; no answer is right
only where there is none.

Where a true answer holds a Chinese character, F1 is over the longest common run of pieces, which is
the measure of CMRC 2018 (Cui et al. 2019): a Chinese character is a piece, and so is what stands
between blanks, Chinese characters and signs. Case, blanks and signs (Unicode's P and S) do not
count. Figures are near those of CMRC 2018's script and not equal to them; it differs in this:

- It takes away a list of 32 signs, most of them Chinese, and joins what stood beside them; others,
  such as "." "," "%" and "(", stay. Here every sign goes, and parts what stands beside it: "64.6"
  for "364.6公里" has an F1 of 1/3 here (the run "6" of 2 and 4 pieces), and of 0 there.
- What is not Chinese it cuts into words by NLTK's tokenizer, which keeps "364.6" whole.
- Blanks inside an answer count in its exact match, and not here.
- Chinese characters are U+4E00 to U+9FA5 there; here also U+3400 to U+4DFF, U+9FA6 to U+9FFF and
  U+F900 to U+FAFF.
- It counts every question so. Here one whose true answers hold no Chinese character, such as
  "2008" or "NBA", is counted as SQuAD's script does: no articles, and F1 over words in any order.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tunewright.metrics.spec import Counts, MetricSpec, Statistics

ANSWER_METRICS = (
    MetricSpec("f1", True, "mean overlap of the answer with the true one"),
    MetricSpec("exact_match", True, "share of answers that are the true one"),
    MetricSpec("f1_has_answer", True, "F1 of the questions that have an answer"),
    MetricSpec("exact_match_has_answer", True, "exact match of those questions"),
    MetricSpec("accuracy_no_answer", True, "share of questions without an answer that get none"),
)

_ARTICLES = re.compile(r"\b(a|an|the)\b", re.UNICODE)
_CHINESE = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]")
_PUNCTUATION = frozenset(string.punctuation)


@dataclass(frozen=True, slots=True)
class AnswerScores:
    """How right an answer is, both in [0, 1]."""

    exact: float
    f1: float


def answer_scores(answer: str, true: Sequence[str], may_lack: bool = True) -> AnswerScores:
    """Returns the best scores against the true answers; none of them means that there is none.

    Of a true answer nothing may be left, such as of "the". Where questions `may_lack` an answer, it
    does not count, as in SQuAD's second script; in the first it does.
    """
    is_chinese = any(_CHINESE.search(text) for text in true)
    one = _chinese_scores if is_chinese else _squad_scores
    is_left = bool if is_chinese else normalized
    kept = [*filter(is_left, true)] if may_lack else [*true]
    each = [one(answer, text) for text in kept or [""]]
    return AnswerScores(max(s.exact for s in each), max(s.f1 for s in each))


def normalized(text: str) -> str:
    """Returns a text as SQuAD's scripts compare it: no case, punctuation, articles, odd blanks."""
    kept = "".join(letter for letter in text.lower() if letter not in _PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", kept).split())


def _squad_scores(answer: str, true: str) -> AnswerScores:
    found, expected = normalized(answer), normalized(true)
    words, true_words = found.split(), expected.split()
    exact = float(found == expected)
    if not words or not true_words:
        return AnswerScores(exact, float(words == true_words))
    common = sum((Counter(words) & Counter(true_words)).values())
    return AnswerScores(exact, _f1(common, len(words), len(true_words)))


def _chinese_scores(answer: str, true: str) -> AnswerScores:
    """Returns the scores of the longest common run; see the module's head for how it is counted."""
    found, expected = _mixed_words(answer), _mixed_words(true)
    exact = float("".join(found) == "".join(expected))
    common = _longest_common_run(found, expected)
    return AnswerScores(exact, _f1(common, len(found), len(expected)))


def _mixed_words(text: str) -> list[str]:
    """Returns Chinese characters one by one, and what blanks and signs part of the rest, whole."""
    spaced = "".join(
        f" {letter} "
        if _CHINESE.match(letter)
        else " "
        if unicodedata.category(letter)[0] in "PS"
        else letter
        for letter in text.lower()
    )
    return spaced.split()


def _longest_common_run(left: Sequence[str], right: Sequence[str]) -> int:
    best = 0
    before = [0] * (len(right) + 1)
    for word in left:
        here = [0] * (len(right) + 1)
        for place, other in enumerate(right):
            if word == other:
                here[place + 1] = before[place] + 1
        best = max(best, *here)
        before = here
    return best


def _f1(common: int, num_answered: int, num_true: int) -> float:
    return 2 * common / (num_answered + num_true) if common else 0.0


def answer_metrics(statistics: Statistics, counts_R: Counts | None = None) -> dict[str, float]:
    """Returns the metrics of rows with the figures `exact`, `f1` and `has_answer`, each (R,).

    The two of questions that have an answer, and that of those without, are given where both kinds
    are there.
    """
    exact_R, f1_R, has_R = (
        np.asarray(statistics[name], np.float64) for name in ("exact", "f1", "has_answer")
    )
    counts_R = np.ones(len(exact_R)) if counts_R is None else np.asarray(counts_R, np.float64)
    found = {"f1": _mean(f1_R, counts_R), "exact_match": _mean(exact_R, counts_R)}
    if has_R.all():
        return found
    return found | {
        "f1_has_answer": _mean(f1_R, counts_R * has_R),
        "exact_match_has_answer": _mean(exact_R, counts_R * has_R),
        "accuracy_no_answer": _mean(exact_R, counts_R * (1 - has_R)),
    }


def _mean(values_R: np.ndarray, counts_R: np.ndarray) -> float:
    total = float(counts_R.sum())
    return float(values_R @ counts_R) / total if total else float("nan")


def best_threshold(margins: Sequence[float], f1: Sequence[float], has: Sequence[bool]) -> float:
    """Returns the threshold on `margins` from which on "no answer" gives the best mean F1.

    A margin says how much likelier no answer is than the best one; `f1` is that of the best answer.
    Rows of equal margins are answered all, or none of them.
    """
    order = np.argsort(margins, kind="stable")
    margin_R = np.asarray(margins, np.float64)[order]
    gain_R = np.asarray(f1, np.float64)[order] - ~np.asarray(has, bool)[order]
    total_R = np.concatenate([[0.0], np.cumsum(gain_R)])  # answering the first k rows
    total_R[1:-1][margin_R[1:] == margin_R[:-1]] = -np.inf
    best = int(total_R.argmax())
    if best == 0:
        return float(margin_R[0]) - 1.0
    if best == len(margin_R):
        return float(margin_R[-1])
    return float(margin_R[best - 1] + margin_R[best]) / 2
