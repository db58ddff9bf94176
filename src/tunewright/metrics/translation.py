"""BLEU and chrF, equal to sacreBLEU's, from counts that rows add up to.

    statistics = translation_statistics("ein Hund rennt", ["Ein Hund rennt."], "13a")
    translation_metrics(stacked)["bleu"]                    # of stacked statistics

BLEU (Papineni et al. 2002) counts the word n-grams of an answer that a reference has; chrF (Popovic
2015) those of characters, F with recall weighted twice. Words are found as sacreBLEU finds them
(Post 2018): the signatures say how. Both are from 0 to 100. Shape letters: R rows, F figures.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tunewright.metrics.spec import Counts, MetricSpec, Statistics

WordRule = Literal["13a", "zh", "char"]

REFERENCE_VERSION = "2.6.0"  # of sacreBLEU, which our figures are tested against

TRANSLATION_METRICS = (
    MetricSpec("bleu", True, "BLEU: word n-grams shared with the references, 0 to 100"),
    MetricSpec("chrf", True, "chrF: character n-grams shared with the references, 0 to 100"),
    MetricSpec("bleu_lowercase", True, "BLEU without regard to case, 0 to 100"),
)

WORD_ORDER, CHARACTER_ORDER = 4, 6
CONSTANT_TEXTS, CONSTANT_ROWS = 200, 300  # a second's work
BETA = 2  # of chrF: recall counts twice as much as precision

# In sacreBLEU's order; each pattern sees what the one before has made.
_WESTERN_MARKS = (
    (re.compile(r"([\{-\~\[-\` -\&\(-\+\:-\@\/])"), r" \1 "),
    (re.compile(r"([^0-9])([\.,])"), r"\1 \2 "),  # a dot or comma, unless in a number
    (re.compile(r"([\.,])([^0-9])"), r" \1 \2"),
    (re.compile(r"([0-9])(-)"), r"\1 \2 "),
)
_ENTITIES = (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"))

# Chinese characters and marks of sacreBLEU's `zh`. Two of its ranges are written with five digits
# and so begin at another character than meant; the scores of the field are counted with them.
_CHINESE = re.compile(
    "([\u3400-\u4db5\u4e00-\u9fbb\uf900-\ufa2d\ufa30-\ufa6a\ufa70-\ufad9\uff00-\uffef\u2e80-\u2eff"
    "\u3000-\u303f\u31c0-\u31ef\u2f00-\u2fdf\u2ff0-\u2fff\u3100-\u312f\u31a0-\u31bf\ufe10-\ufe1f"
    "\ufe30-\ufe4f\u2600-\u26ff\u2700-\u27bf\u3200-\u32ff\u3300-\u33ff"
    "\u2001-\u2a6d\u2f81-\u2fa1])"
)


def _marks_apart(text: str) -> list[str]:
    for pattern, replacement in _WESTERN_MARKS:
        text = pattern.sub(replacement, text)
    return text.split()


def _words_13a(text: str) -> list[str]:
    text = text.replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    for entity, character in _ENTITIES:
        text = text.replace(entity, character)
    return _marks_apart(f" {text} ")


def _words_zh(text: str) -> list[str]:
    return _marks_apart(_CHINESE.sub(r" \1 ", text.strip()))


def _characters(text: str) -> list[str]:
    return " ".join(text).split()


WORDS: Mapping[WordRule, Callable[[str], list[str]]] = {
    "13a": _words_13a,
    "zh": _words_zh,
    "char": _characters,
}


def word_rule(references: Sequence[str]) -> WordRule:
    """Returns `zh` where most letters of the references are Chinese characters, else `13a`."""
    letters = [letter for text in references for letter in text if letter.isalpha()]
    chinese = sum("\u3400" <= letter <= "\u9fff" for letter in letters)
    return "zh" if 2 * chinese > len(letters) else "13a"


def signatures(rule: WordRule, num_references: int = 1) -> dict[str, str]:
    """Returns sacreBLEU's signature of each metric: what it is called when it is published."""
    bleu = f"nrefs:{num_references}|case:{{}}|eff:no|tok:{rule}|smooth:exp|version:"
    chrf = f"nrefs:{num_references}|case:mixed|eff:yes|nc:6|nw:0|space:no|version:"
    return {
        "bleu": bleu.format("mixed") + REFERENCE_VERSION,
        "chrf": chrf + REFERENCE_VERSION,
        "bleu_lowercase": bleu.format("lc") + REFERENCE_VERSION,
    }


def translation_statistics(
    answer: str, references: Sequence[str], rule: WordRule
) -> dict[str, npt.NDArray[np.int64]]:
    """Returns the figures of one row, against one reference or more."""
    lower = [text.lower() for text in references]
    return {
        "bleu": bleu_counts(answer, references, rule),
        "bleu_lowercase": bleu_counts(answer.lower(), lower, rule),
        "chrf": chrf_counts(answer, references),
    }


def bleu_counts(answer: str, references: Sequence[str], rule: WordRule) -> npt.NDArray[np.int64]:
    """Returns the words of the answer and of the reference of nearest length, then the right
    n-grams of each order and all of the answer's, (2 + 2 * 4,).
    """
    cut = WORDS[rule]
    words, others = cut(answer.rstrip()), [cut(text.rstrip()) for text in references]
    own, allowed = _ngrams(words), Counter[tuple[str, ...]]()
    for other in others:
        allowed |= _ngrams(other)
    counts_F = np.zeros(2 + 2 * WORD_ORDER, np.int64)
    lengths = [len(other) for other in others]
    nearest = min(lengths, key=lambda length: (abs(length - len(words)), length), default=0)
    counts_F[:2] = len(words), nearest
    for ngram, count in own.items():
        counts_F[1 + len(ngram)] += min(count, allowed[ngram])
        counts_F[1 + WORD_ORDER + len(ngram)] += count
    return counts_F


def _ngrams(words: Sequence[str]) -> Counter[tuple[str, ...]]:
    return Counter(
        tuple(words[start : start + order])
        for order in range(1, WORD_ORDER + 1)
        for start in range(len(words) - order + 1)
    )


def chrf_counts(answer: str, references: Sequence[str]) -> npt.NDArray[np.int64]:
    """Returns the n-grams of the answer, of the reference and of both, by order, (3 * 6,).

    Of several references the one with the best score counts.
    """
    own = _character_ngrams(answer)
    each = [_shared(own, _character_ngrams(reference)) for reference in references]
    return max(each, key=lambda counts_F: chrf_of(counts_F), default=np.zeros(18, np.int64))


def best_constant(references: Sequence[Sequence[str]]) -> str:
    """Returns the text that has the best chrF as the answer to every row: what costs nothing.

    Rows have one reference or more. Of many rows, some evenly spread ones are tried and measured.
    """
    rows = references[:: -(-len(references) // CONSTANT_ROWS)]
    tried = dict.fromkeys(each[0] for each in references)
    known = [[_character_ngrams(reference) for reference in row] for row in rows]

    def score(text: str) -> float:
        own = _character_ngrams(text)
        best = [max((_shared(own, other) for other in row), key=chrf_of) for row in known]
        return chrf_of(np.sum(best, axis=0))

    return max([*tried][:: -(-len(tried) // CONSTANT_TEXTS)], key=score)


def _character_ngrams(text: str) -> list[Counter[str]]:
    text = "".join(text.split())
    return [
        Counter(text[start : start + order] for start in range(len(text) - order + 1))
        for order in range(1, CHARACTER_ORDER + 1)
    ]


def _shared(
    answer: Sequence[Counter[str]], reference: Sequence[Counter[str]]
) -> npt.NDArray[np.int64]:
    """Counts orders that the reference is too short for as orders without an answer."""
    return np.array(
        [
            count
            for own, true in zip(answer, reference, strict=True)
            for count in (own.total() if true else 0, true.total(), (own & true).total())
        ],
        np.int64,
    )


def bleu_of(counts_F: npt.NDArray[Any]) -> float:
    """Returns BLEU of summed counts; an order without a right n-gram is smoothed (`exp`)."""
    num_words, num_expected = (float(count) for count in counts_F[:2])
    right, made = counts_F[2 : 2 + WORD_ORDER], counts_F[2 + WORD_ORDER :]
    if not right.any() or not made.all():
        return 0.0
    smoothing, logarithm = 1.0, 0.0
    for found, total in zip(right.tolist(), made.tolist(), strict=True):
        smoothing *= 1 if found else 2
        logarithm += np.log((found or 1 / smoothing) / total)
    brevity = min(0.0, 1 - num_expected / num_words)
    return float(100 * np.exp(brevity + logarithm / WORD_ORDER))


def chrf_of(counts_F: npt.NDArray[Any]) -> float:
    """Returns chrF of summed counts; orders that one side is too short for do not count."""
    own, true, right = np.asarray(counts_F, np.float64).reshape(CHARACTER_ORDER, 3).T
    kept = (own > 0) & (true > 0)
    if not kept.any():
        return 0.0
    precision, recall = (right[kept] / own[kept]).mean(), (right[kept] / true[kept]).mean()
    if not precision + recall:
        return 0.0
    return float(100 * (1 + BETA**2) * precision * recall / (BETA**2 * precision + recall))


class TranslationReducer:
    """The metrics of R rows as a function of their counts."""

    def __init__(self, statistics: Statistics) -> None:
        self._names = [spec.name for spec in TRANSLATION_METRICS]
        self._figures = [np.asarray(statistics[name], np.float64) for name in self._names]

    def __call__(self, counts_R: Counts | None = None) -> dict[str, float]:
        found = {}
        for name, figures_RF in zip(self._names, self._figures, strict=True):
            sums_F = figures_RF.sum(0) if counts_R is None else np.asarray(counts_R) @ figures_RF
            found[name] = chrf_of(sums_F) if name == "chrf" else bleu_of(sums_F)
        return found


def translation_metrics(statistics: Statistics, counts_R: Counts | None = None) -> dict[str, float]:
    """Returns BLEU and chrF of rows with the figures of `translation_statistics`."""
    return TranslationReducer(statistics)(counts_R)
