"""The stretch of a text that answers a question, or that there is none.

{"question": "Who met Bo?", "context": "Ada met Bo.", "answers": [{"text": "Ada", "start": 0}]}
->  FoundAnswer("Ada", 0, 3, 0.98)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from pydantic import ConfigDict, NonNegativeInt, PositiveInt
from pydantic.dataclasses import dataclass
from torch import Tensor
from torch.nn import functional

from tunewright.answers import FoundAnswer
from tunewright.errors import DataError, ModelError
from tunewright.figures import Bars, Figure
from tunewright.metrics import MetricSpec
from tunewright.metrics.answers import (
    ANSWER_METRICS,
    answer_metrics,
    answer_scores,
    best_threshold,
)
from tunewright.models.batch import Batch
from tunewright.models.files.architecture import SPAN_FINDER, Kind
from tunewright.models.files.loading import load_library_model
from tunewright.models.heads import token_outputs
from tunewright.models.text.tokens import Long, encode_windows
from tunewright.tasks import ANSWERS, CONTEXT, QUESTION
from tunewright.tasks.base import Loss, Outputs, Statistics, Task, each_window
from tunewright.tasks.shared.found_spans import best_spans, learnt_answers, true_answers
from tunewright.tasks.shared.texts import each_read, fitting_length, text_of
from tunewright.tasks.shared.windows import length_field, long_field, stride_field
from tunewright.types import Features, Role, Row, TokenStream

# Long enough for most paragraphs beside a question.
DEFAULT_MAX_LENGTH = 384
QUESTION_WORDS = ("what", "who", "when", "where", "why", "how", "which")


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class QuestionAnswering(Task):
    """Extractive question answering with the library's own heads (Devlin et al. 2019).

    The loss is the mean of the cross-entropies of the answer's first and last token, summed over
    windows. A window without the answer points at its first token, which stands for none.
    """

    name: ClassVar[str] = "question-answering"
    roles: ClassVar[tuple[Role, ...]] = (QUESTION, CONTEXT, ANSWERS)
    metrics: ClassVar[tuple[MetricSpec, ...]] = ANSWER_METRICS
    kind: ClassVar[Kind] = SPAN_FINDER
    pipeline_tag: ClassVar[str] = "question-answering"
    text_roles: ClassVar[tuple[str, ...]] = ("question", "context")
    own_usage: ClassVar[str] = (
        'import tunewright as tw\n\ntw.load("path/to/this/folder").predict(\n'
        '    [("Who met Bo?", "Ada met Bo.")]\n)'
    )
    stock_usage: ClassVar[str] = (
        "from transformers import AutoModelForQuestionAnswering\n\n"
        'AutoModelForQuestionAnswering.from_pretrained("path/to/this/folder")'
    )

    max_length: PositiveInt | None = length_field(
        "tokens of a window with its question", DEFAULT_MAX_LENGTH
    )
    long: Long = long_field("window", "contexts")
    stride: NonNegativeInt = stride_field(128)
    max_answer_length: PositiveInt = field(
        default=30, metadata={"help": "tokens of the longest answer"}
    )
    num_answers: PositiveInt = field(
        default=5, metadata={"help": "how many alternatives an answer names"}
    )
    may_lack: bool | None = field(
        default=None,
        metadata={"help": "whether a question may have no answer. Off: whether one of the training "
                          "rows has none"},
    )  # fmt: skip
    threshold: float = field(
        default=0.0,
        metadata={"help": "margin from which on there is no answer", "fitted": True},
    )

    def learn(self, rows: Iterable[Row]) -> Self:
        has_answer = [bool(answers) for answers in each_read(rows, learnt_answers)]
        if not any(has_answer):
            raise DataError(
                "the training data",
                "no question has an answer",
                "At least one is needed.",
                'Name the column with data.columns.answers; an answer has "text" and "start".',
            )
        return self if self.may_lack is not None else replace(self, may_lack=not all(has_answer))

    def encode(self, row: Row, processor: Any) -> list[Features]:
        windows = encode_windows(
            processor,
            text_of(row, "context"),
            prefix=text_of(row, "question"),
            max_length=self.max_length or DEFAULT_MAX_LENGTH,
            stride=self.stride,
            long=self.long,
            where=row.where,
        )
        known = "answers" in row.values
        answers = true_answers(row) if known else []
        span = (answers[0].start, answers[0].end) if answers else None
        return [
            Features(row.id, {"text": w}, _targets(w, span) if known else {}, number)
            for number, w in enumerate(windows)
        ]

    def units(self, rows: Sequence[Sequence[Features]]) -> list[list[Features]]:
        """Returns each window as a row of its own: `batch_size` counts windows."""
        return each_window(rows)

    def build(
        self, source: Path, processor: Any, *, dropout: float | None, seed: int
    ) -> tuple[Any, tuple[str, ...]]:
        if processor.backend_tokenizer.num_special_tokens_to_add(True) == 0:
            raise ModelError(
                str(source),
                "its tokenizer puts no special token around a text",
                "One is needed to stand for no answer, as in BERT and its kin.",
                "Name another model.",
            )
        loaded = load_library_model(
            source, self.kind, dropout=dropout, seed=seed, pad_token_id=processor.pad_token_id
        )
        return loaded.model, loaded.notices

    def forward(self, model: Any, batch: Batch) -> Outputs:
        names = ("start_logits", "end_logits")
        found = token_outputs(model, batch.streams["text"], *names)
        return dict(zip(names, found, strict=True))

    def loss(self, outputs: Outputs, batch: Batch) -> Loss:
        lengths = batch.streams["text"].lengths
        total = sum(
            functional.cross_entropy(
                _grid(outputs[f"{end}_logits"].float(), lengths),
                batch.targets[end],
                reduction="sum",
            )
            for end in ("start", "end")
        )
        return Loss(torch.as_tensor(total) / 2, batch.num_sequences)

    def decode(
        self, outputs: Outputs, features: Sequence[Features], processor: Any
    ) -> list[tuple[TokenStream, np.ndarray, np.ndarray]]:
        """Returns each window with the logits of its tokens as first and as last of an answer."""
        streams = [item.streams["text"] for item in features]
        lengths = [len(stream) for stream in streams]
        start, end = (
            [part.numpy() for part in outputs[name].float().cpu().split(lengths)]
            for name in ("start_logits", "end_logits")
        )
        return list(zip(streams, start, end, strict=True))

    def join(self, parts: Sequence[Any], row: Row) -> FoundAnswer:
        """Returns the best span of all windows, or none where none is likelier by the threshold."""
        context = text_of(row, "context")
        spans: dict[tuple[int, int], float] = {}
        nothing = float("inf")
        for stream, start_N, end_N in parts:
            null = _null_place(stream)
            nothing = min(nothing, float(start_N[null] + end_N[null]))
            found = best_spans(stream, start_N, end_N, self.max_answer_length, 20)
            for span in found:
                place = span.trimmed(context)
                spans[place] = max(spans.get(place, span.score), span.score)
        best = sorted(spans.items(), key=lambda item: -item[1])[: self.num_answers]
        return self._answer(context, best, nothing)

    def _answer(
        self, context: str, best: Sequence[tuple[tuple[int, int], float]], nothing: float
    ) -> FoundAnswer:
        logits = np.array([score for _, score in best] + ([nothing] if self.may_lack else []))
        if not best:
            return FoundAnswer("", 0, 0, 1.0, float("inf"))
        weights = np.exp(logits - logits.max())
        scores = weights / weights.sum()
        found = tuple(
            FoundAnswer(context[a:b], a, b, float(score))
            for ((a, b), _), score in zip(best, scores, strict=False)
        )
        margin = nothing - best[0][1]
        if self.may_lack and margin > self.threshold:
            return FoundAnswer("", 0, 0, float(scores[-1]), margin, found)
        first = found[0]
        return FoundAnswer(first.text, first.start, first.end, first.score, margin, found)

    def limits(self) -> Sequence[str]:
        found = [
            "Stock `transformers` gives the logits of each token as the first and as the last of "
            "an answer. Here an answer is the likeliest stretch of the context of at most "
            f"{self.max_answer_length} tokens, named with the {self.num_answers} likeliest."
        ]
        if self.long == "window":
            found.append(
                f"What has more than {self.max_length} tokens with its question is read in windows "
                f"of so many, each of which shares at most {self.stride} with the one before, and "
                "the best answer of all is given. Stock `transformers` gives the same logits for a "
                "window, and does not compare them."
            )
        if self.may_lack:
            found.append(
                "There is no answer where the logits of the first token exceed those of the best "
                f"stretch by more than a threshold of {self.threshold:.3f}, which is kept in "
                "`task.json`. Stock `transformers` does not know it."
            )
        return tuple(found)

    def calibrate(self, answers: Sequence[FoundAnswer], rows: Sequence[Row]) -> Self:
        """Returns the task with the threshold that gives the best F1 on `rows`."""
        true = [[answer.text for answer in true_answers(row)] for row in rows]
        if not self.may_lack or all(true):
            return self
        best = [a.alternatives[0].text if a.alternatives else "" for a in answers]
        f1 = [answer_scores(text, golds).f1 for text, golds in zip(best, true, strict=True)]
        margins = [answer.margin for answer in answers]
        finite = [min(max(margin, -1e9), 1e9) for margin in margins]
        return replace(self, threshold=best_threshold(finite, f1, [bool(each) for each in true]))

    def statistics(self, answer: FoundAnswer, row: Row) -> Mapping[str, Any]:
        true = [each.text for each in true_answers(row)]
        scores = answer_scores(answer.text, true, self.may_lack is not False)
        words = text_of(row, "question").lower().split()
        kind = next((i for i, word in enumerate(QUESTION_WORDS) if word in words), -1)
        return {
            "exact": scores.exact,
            "f1": scores.f1,
            "has_answer": int(bool(true)),
            "question_word": kind,
        }

    def reduce(self, statistics: Statistics, counts: np.ndarray | None = None) -> dict[str, float]:
        return answer_metrics(statistics, counts)

    def compared(self, answer: FoundAnswer, row: Row) -> tuple[str, str]:
        true = true_answers(row)
        return true[0].text if true else "", answer.text

    def severity(self, answer: FoundAnswer, row: Row) -> float | None:
        """Returns how sure the model was of an answer that shares no word with a true one."""
        true = [each.text for each in true_answers(row)]
        scores = answer_scores(answer.text, true, self.may_lack is not False)
        return answer.score if scores.f1 == 0 else None

    def figures(self, statistics: Statistics) -> Sequence[Figure]:
        kind_R, f1_R = statistics["question_word"], statistics["f1"]
        names = dict(enumerate(QUESTION_WORDS)) | {-1: "other"}
        shown = {
            f"{name} ({int((kind_R == kind).sum()):,})": float(f1_R[kind_R == kind].mean())
            for kind, name in names.items()
            if (kind_R == kind).any()
        }
        return [Bars("F1 by question word", shown, "mean F1 (questions)")]

    def within(self, limit: int) -> Self:
        return replace(self, max_length=fitting_length(self.max_length, limit, DEFAULT_MAX_LENGTH))


def _targets(stream: TokenStream, span: tuple[int, int] | None) -> dict[str, int]:
    """Returns the first and the last token of an answer; those of none where it is not inside."""
    null = _null_place(stream)
    if span is None:
        return {"start": null, "end": null}
    assert stream.offsets is not None
    assert stream.text_ids is not None
    start, end = span
    inside_N = (
        (stream.text_ids == 1) & (stream.offsets[:, 1] > start) & (stream.offsets[:, 0] < end)
    )
    tokens = np.flatnonzero(inside_N)
    context = np.flatnonzero(stream.text_ids == 1)
    whole = (
        len(tokens) > 0
        and stream.offsets[context[0], 0] <= start
        and stream.offsets[context[-1], 1] >= end
    )
    return {"start": int(tokens[0]), "end": int(tokens[-1])} if whole else _targets(stream, None)


def _null_place(stream: TokenStream) -> int:
    """Returns the token that stands for no answer: the first special one."""
    assert stream.text_ids is not None
    return int((stream.text_ids < 0).argmax())


def _grid(values_N: Tensor, lengths: Sequence[int]) -> Tensor:
    """Returns the logits of each window as a row, filled up with minus infinity."""
    return torch.nn.utils.rnn.pad_sequence(
        values_N.split(list(lengths)), batch_first=True, padding_value=float("-inf")
    )
