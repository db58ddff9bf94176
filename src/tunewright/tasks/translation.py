"""A text in one language becomes one in another.

{"source": "A dog runs.", "target": "Ein Hund rennt."}
->  Generated("Ein Hund rennt.", 0.83)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field, replace
from typing import Any, ClassVar, Self

import numpy as np
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from tunewright.answers import Generated
from tunewright.errors import DataError, listed
from tunewright.figures import Bars, Figure
from tunewright.metrics import MetricSpec
from tunewright.metrics.translation import (
    TRANSLATION_METRICS,
    TranslationReducer,
    WordRule,
    chrf_of,
    signatures,
    translation_metrics,
    translation_statistics,
    word_rule,
)
from tunewright.tasks import TRANSLATION_ROLES
from tunewright.tasks.base import Reducer, Statistics
from tunewright.tasks.shared.sequence_to_sequence import SequenceToSequence
from tunewright.types import Role, Row

# So many rows tell whether a language is written in Chinese characters.
ROWS_FOR_RULE = 1000


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Translation(SequenceToSequence):
    """Translation with an encoder-decoder (Vaswani et al. 2017), measured by BLEU and chrF."""

    name: ClassVar[str] = "translation"
    roles: ClassVar[tuple[Role, ...]] = TRANSLATION_ROLES
    metrics: ClassVar[tuple[MetricSpec, ...]] = TRANSLATION_METRICS
    pipeline_tag: ClassVar[str] = "translation"
    text_roles: ClassVar[tuple[str, ...]] = ("source", "translation")
    answer_key: ClassVar[str] = "translation_text"
    own_usage: ClassVar[str] = (
        'import tunewright as tw\n\ntw.load("path/to/this/folder").predict(["A dog runs."])'
    )
    stock_usage: ClassVar[str] = (
        "from transformers import AutoModelForSeq2SeqLM, AutoTokenizer\n\n"
        'tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")\n'
        'model = AutoModelForSeq2SeqLM.from_pretrained("path/to/this/folder")\n'
        'inputs = tokenizer("A dog runs.", truncation=True, return_tensors="pt")\n'
        "found = model.generate(**inputs)\n"
        "tokenizer.decode(found[0], skip_special_tokens=True)"
    )

    source_language: str | None = field(
        default=None,
        metadata={"help": "language of the sources, such as en: which key of a `translation` "
                          "column, and which token of a multilingual model"},
    )  # fmt: skip
    target_language: str | None = field(
        default=None, metadata={"help": "language of the targets, such as de"}
    )
    words: WordRule | None = field(
        default=None,
        metadata={"help": "how BLEU finds words, as sacreBLEU: 13a, zh, char. Off: zh where the "
                          "targets are Chinese, else 13a"},
    )  # fmt: skip

    def source_of(self, row: Row) -> str:
        pair = row.values.get("translation")
        if pair is None:
            return super().source_of(row)
        return _of_language(row, pair, self.source_language, 0)

    def targets_of(self, row: Row) -> tuple[str, ...]:
        pair = row.values.get("translation")
        if pair is None:
            return super().targets_of(row)
        text = _of_language(row, pair, self.target_language, 1, required=False)
        return () if text is None else (text,)

    def languages(self) -> tuple[str | None, str | None]:
        return self.source_language, self.target_language

    def learn(self, rows: Iterable[Row]) -> Self:
        rows = list(rows)
        named = self._named(rows[0])
        learned = super(Translation, named).learn(rows)
        if learned.words is not None:
            return learned
        known = [text for row in rows[:ROWS_FOR_RULE] for text in learned.targets_of(row)]
        return replace(learned, words=word_rule(known))

    def _named(self, row: Row) -> Self:
        """Returns the task with its languages: those of the first row, where none are named."""
        pair = row.values.get("translation")
        if pair is None or not isinstance(pair, Mapping):
            return self
        keys = [key for key, value in pair.items() if value is not None]
        source, target = self.source_language, self.target_language
        if len(keys) != 2 and None in (source, target):
            raise DataError(
                row.where,
                f"its translation has the languages {listed(keys)}",
                "Which one is read and which one written?",
                "Name them: task.source_language=en task.target_language=de.",
            )
        source = source or next(key for key in keys if key != target)
        return replace(
            self,
            source_language=source,
            target_language=target or next(key for key in keys if key != source),
        )

    def statistics(self, answer: Generated, row: Row) -> Mapping[str, Any]:
        return translation_statistics(answer.text, self.targets_of(row), self.words or "13a")

    def reduce(self, statistics: Statistics, counts: np.ndarray | None = None) -> dict[str, float]:
        return translation_metrics(statistics, counts)

    def prepare(self, statistics: Statistics) -> Reducer:
        return TranslationReducer(statistics)

    def measured_as(self, statistics: Statistics) -> Sequence[str]:
        names = {"bleu": "BLEU", "bleu_lowercase": "BLEU without case", "chrf": "chrF"}
        known = signatures(self.words or "13a")
        return [f"{name} is {known[key]} of sacreBLEU." for key, name in names.items()]

    def severity(self, answer: Generated, row: Row) -> float | None:
        """Returns how far the text is from the reference: 1 less the row's own chrF."""
        found = chrf_of(self.statistics(answer, row)["chrf"])
        return None if answer.text in self.targets_of(row) else 1 - found / 100

    def figures(self, statistics: Statistics) -> Sequence[Figure]:
        """Returns chrF by the length of the references."""
        length_R = np.asarray(statistics["bleu"])[:, 1]
        groups = {"up to 8": (0, 8), "9 to 16": (9, 16), "17 to 32": (17, 32), "over 32": (33, 1e9)}
        shown = {}
        for name, (low, high) in groups.items():
            inside_R = (length_R >= low) & (length_R <= high)
            if inside_R.any():
                counts = np.asarray(statistics["chrf"])[inside_R].sum(0)
                shown[f"{name} ({int(inside_R.sum()):,})"] = chrf_of(counts)
        return [Bars("chrF by length of the reference", shown, "words (rows)")]


def _of_language(
    row: Row, pair: Any, language: str | None, place: int, required: bool = True
) -> Any:
    """Returns a text of a `translation` by its language, or by its place where none is named."""
    if not isinstance(pair, Mapping):
        raise DataError(
            row.where,
            f"its translation is {pair!r:.60}",
            "It is an object with a text for each language.",
            "Name the columns with data.columns.source and data.columns.target.",
        )
    keys = list(pair)
    key = language or (keys[place] if place < len(keys) else None)
    text = pair.get(key)
    if isinstance(text, str) or (text is None and not required):
        return text
    raise DataError(
        row.where,
        f'its translation has no text for "{key}"',
        f"It has {listed(keys)}.",
        "Name the languages: task.source_language=en task.target_language=de.",
    )
