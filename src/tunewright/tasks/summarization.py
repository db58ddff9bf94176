"""A long text becomes a short one.

{"document": "The team met on Monday. It talked for hours. ...", "summary": "A long meeting."}
->  Generated("A long meeting.", 0.71)
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import field
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from tunewright.answers import Generated
from tunewright.figures import Bars, Figure
from tunewright.metrics import MetricSpec
from tunewright.metrics.summaries import ROUGE_METRICS, rouge_metrics, rouge_scores
from tunewright.tasks import SUMMARIZATION_ROLES
from tunewright.tasks.base import Statistics
from tunewright.tasks.shared.sequence_to_sequence import SequenceToSequence
from tunewright.types import Role, Row

# The end of a sentence: a mark and a space, a Chinese mark, or a line's end.
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])|\n+")

LEAD = "lead_"
LEAD_METRICS = tuple(
    MetricSpec(f"{LEAD}{spec.name}", True, f"the same of the text's first sentence: {spec.help}")
    for spec in ROUGE_METRICS
)


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Summarization(SequenceToSequence):
    """Summarization with an encoder-decoder, measured by ROUGE beside the text's first sentence."""

    name: ClassVar[str] = "summarization"
    roles: ClassVar[tuple[Role, ...]] = SUMMARIZATION_ROLES
    metrics: ClassVar[tuple[MetricSpec, ...]] = (*ROUGE_METRICS, *LEAD_METRICS)
    pipeline_tag: ClassVar[str] = "summarization"
    text_roles: ClassVar[tuple[str, ...]] = ("document",)
    source_role: ClassVar[str] = "document"
    target_role: ClassVar[str] = "summary"
    answer_key: ClassVar[str] = "summary_text"
    default_length: ClassVar[int] = 512
    own_usage: ClassVar[str] = (
        "import tunewright as tw\n\n"
        'tw.load("path/to/this/folder").predict(["A long text. It goes on."])'
    )
    stock_usage: ClassVar[str] = (
        "from transformers import AutoModelForSeq2SeqLM, AutoTokenizer\n\n"
        'tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")\n'
        'model = AutoModelForSeq2SeqLM.from_pretrained("path/to/this/folder")\n'
        'inputs = tokenizer("A long text.", truncation=True, return_tensors="pt")\n'
        "found = model.generate(**inputs)\n"
        "tokenizer.decode(found[0], skip_special_tokens=True)"
    )

    language: str | None = field(
        default=None,
        metadata={"help": "language of the texts, for multilingual models such as mBART: en, zh"},
    )

    def languages(self) -> tuple[str | None, str | None]:
        return self.language, self.language

    def statistics(self, answer: Generated, row: Row) -> Mapping[str, Any]:
        references, source = self.targets_of(row), self.source_of(row)
        lead = rouge_scores(first_sentence(source), references)
        return {
            **rouge_scores(answer.text, references),
            **{f"{LEAD}{name}": score for name, score in lead.items()},
            "length": len(source),
        }

    def reduce(self, statistics: Statistics, counts: np.ndarray | None = None) -> dict[str, float]:
        leads = {spec.name: statistics[f"{LEAD}{spec.name}"] for spec in ROUGE_METRICS}
        lead = rouge_metrics(leads, counts)
        return rouge_metrics(statistics, counts) | {f"{LEAD}{n}": v for n, v in lead.items()}

    def measured_as(self, statistics: Statistics) -> Sequence[str]:
        return (
            "ROUGE is F1, times 100, of words in lower case that are not stemmed; each Chinese "
            "character is a word. The figures that begin with lead are those of the text's first "
            "sentence.",
        )

    def severity(self, answer: Generated, row: Row) -> float | None:
        """Returns how far the text is from the reference: 1 less the row's own ROUGE-L."""
        found = rouge_scores(answer.text, self.targets_of(row))["rougeL"]
        return None if answer.text in self.targets_of(row) else 1 - found / 100

    def figures(self, statistics: Statistics) -> Sequence[Figure]:
        """Returns ROUGE-L of summaries and first sentences by the length of the texts."""
        length_R = np.asarray(statistics["length"])
        edges = np.unique(np.quantile(length_R, [0, 0.25, 0.5, 0.75, 1]).astype(int))
        shown: dict[str, float] = {}
        for low, high in pairwise(edges.tolist()):
            inside_R = (length_R >= low) & ((length_R < high) | (high == edges[-1]))
            if inside_R.any():
                name = f"{low:,} to {high:,} ({int(inside_R.sum()):,})"
                shown[name] = float(np.asarray(statistics["rougeL"])[inside_R].mean())
        return [Bars("ROUGE-L by length of the text", shown, "characters (rows)")] if shown else []


def first_sentence(text: str) -> str:
    """Returns the first sentence of a text: the summary that costs nothing."""
    return next((part for part in _SENTENCE_END.split(text.strip()) if part.strip()), "")
