"""The right one of several answers to a question; each row has choices of its own.

{"question": "What barks?", "choices": ["a cat", "a dog"], "label": 1}
->  Choice(1, "a dog", 0.98)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field, replace
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from pydantic import ConfigDict, NonNegativeInt, PositiveInt
from pydantic.dataclasses import dataclass
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from tunewright.answers import Choice, LabelValue
from tunewright.data.cells.choices import FORMS, Choices, Form, filled, find_choice_columns
from tunewright.errors import DataError, SettingsError, listed
from tunewright.figures import Figure, Table
from tunewright.metrics import MetricSpec, fit_temperature, softmax
from tunewright.metrics.choices import CHOICE_METRICS, choice_metrics
from tunewright.models.batch import Batch
from tunewright.models.files.architecture import CHOOSER, Kind
from tunewright.models.files.loading import load_library_model
from tunewright.models.heads import choice_logits
from tunewright.models.text.tokens import Long
from tunewright.tasks import CHOICE_ROLES
from tunewright.tasks.base import Loss, Outputs, Scope, Statistics, Task
from tunewright.tasks.shared import stock_limits
from tunewright.tasks.shared.texts import fitting_length, optional_text_of, text_of
from tunewright.tasks.shared.windows import (
    Pooling,
    Window,
    WindowedTask,
    as_features,
    by_text,
    first_windows,
    in_windows,
    length_field,
    long_field,
    pooled,
    stride_field,
    texts_of,
)
from tunewright.types import Features, Role, Row

# The logit of a choice that a row has not, where rows of more choices stand beside it.
ABSENT = -1e4


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class MultipleChoice(WindowedTask):
    """Multiple choice with the library's own heads of one output.

    Every choice is read with its question as a sequence of its own; the loss is the cross-entropy
    of the choices of a row. With a context, that is the first text and question and choice
    together the second (Radford et al. 2018, "Improving language understanding").
    """

    name: ClassVar[str] = "multiple-choice"
    roles: ClassVar[tuple[Role, ...]] = CHOICE_ROLES
    metrics: ClassVar[tuple[MetricSpec, ...]] = CHOICE_METRICS
    kind: ClassVar[Kind] = CHOOSER
    pipeline_tag: ClassVar[str] = "multiple-choice"
    text_roles: ClassVar[tuple[str, ...]] = ("context", "question", "choices")
    own_usage: ClassVar[str] = (
        "import tunewright as tw\n\n"
        'row = {"question": "What barks?", "choices": ["a cat", "a dog"]}\n'
        'print(tw.load("path/to/this/folder").predict([row]))'
    )
    stock_usage: ClassVar[str] = (
        "from transformers import AutoModelForMultipleChoice, AutoTokenizer\n\n"
        'tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")\n'
        'model = AutoModelForMultipleChoice.from_pretrained("path/to/this/folder")\n'
        'pairs = ["What barks?"] * 2, ["a cat", "a dog"]\n'
        'inputs = tokenizer(*pairs, padding=True, truncation=True, return_tensors="pt")\n'
        "print(model(**{name: ids[None] for name, ids in inputs.items()}).logits)"
    )

    max_length: PositiveInt | None = length_field(
        "tokens of a question with one choice that are read at once"
    )
    long: Long = long_field()
    stride: NonNegativeInt = stride_field()
    pooling: Pooling = field(
        default="max",
        metadata={"help": "what the logits of a choice's windows become: the largest, or their "
                          "mean"},
    )  # fmt: skip
    choice_columns: tuple[str, ...] = field(
        default=(),
        metadata={"help": "columns that hold a choice each. Off: the role choices, or columns such "
                          "as choice_a and choice_b, or ending0 and ending1"},
    )  # fmt: skip
    label_form: Form | None = field(
        default=None,
        metadata={"help": 'what a label is: "place" (from 0), "number" (from 1), "letter", "text", '
                          'or "key". Off: found in the training rows'},
    )  # fmt: skip
    is_doubtful: bool = field(
        default=False,
        metadata={"help": "whether labels may count from 0 or from 1", "fitted": True},
    )
    calibrated: bool = field(
        default=True, metadata={"help": "fit a temperature on validation, used by every answer"}
    )
    temperature: float = field(default=1.0, metadata={"help": "divides the logits", "fitted": True})

    def __post_init__(self) -> None:
        if not 0 < self.temperature < 1e6:
            found = f"task.temperature is {self.temperature}"
            raise SettingsError("[task]", found, "It must be more than 0.")

    @property
    def scope(self) -> Scope:
        return "document"

    def learn(self, rows: Iterable[Row]) -> Self:
        task, forms = self, (self.label_form,) if self.label_form else tuple(FORMS)
        for row in rows:
            if not task.choice_columns and "choices" not in row.values:
                task = replace(task, choice_columns=find_choice_columns(row.extras))
            choices, label = task._choices(row), row.values["label"]
            fitting = tuple(form for form in forms if choices.place_of(label, form) is not None)
            if not fitting:
                raise _no_choice(row, label, forms, choices)
            forms = fitting
        return replace(task, label_form=forms[0], is_doubtful={"place", "number"} <= {*forms})

    def encode(self, row: Row, processor: Any) -> list[Features]:
        choices = self._choices(row)
        question, context = text_of(row, "question"), optional_text_of(row, "context")
        is_labelled = row.values.get("label") is not None
        right = self._right(row, choices) if is_labelled else None
        texts = []
        for place, text in enumerate(choices.texts):
            first, second = (question, text) if context is None else (context, f"{question} {text}")
            streams = self._reading.streams(processor, first, second, where=row.where)
            texts.append((streams, {"right": int(place == right)} if is_labelled else {}))
        return as_features(row.id, texts, placed=self._reading.in_windows)

    def build(
        self, source: Path, processor: Any, *, dropout: float | None, seed: int
    ) -> tuple[Any, tuple[str, ...]]:
        loaded = load_library_model(
            source, self.kind, dropout=dropout, seed=seed, pad_token_id=processor.pad_token_id
        )
        return loaded.model, (*self._notices(), *loaded.notices)

    def _notices(self) -> tuple[str, ...]:
        columns = f"The choices are read from {listed(self.choice_columns)}."
        form = f"A label is {FORMS[self.label_form or 'place']} (task.label_form names another)."
        if self.is_doubtful:
            form += (
                " No label is that of the first choice from 0, or of the last from 1: should they "
                'count from 1, write task.label_form="number".'
            )
        return (columns, form) if self.choice_columns else (form,)

    def forward(self, model: Any, batch: Batch) -> Outputs:
        return {"logits": choice_logits(model, batch.streams["text"])}

    def loss(self, outputs: Outputs, batch: Batch) -> Loss:
        logits_T = outputs["logits"].float()
        if self._reading.in_windows:
            texts = texts_of(batch)
            logits_T, batch = pooled(logits_T, texts, self.pooling), first_windows(batch, texts)
        sizes = [len(list(choices)) for _, choices in groupby(batch.row_ids)]
        logits_RK = _by_row(logits_T, sizes, float("-inf"))
        right_R = _by_row(batch.targets["right"], sizes, 0).argmax(1)
        return Loss(functional.cross_entropy(logits_RK, right_R, reduction="sum"), len(sizes))

    def decode(
        self, outputs: Outputs, features: Sequence[Features], processor: Any
    ) -> list[Window]:
        return in_windows(outputs["logits"].double().tolist(), features)

    def join(self, parts: Sequence[Window], row: Row) -> Choice:
        choices = self._choices(row)
        pool = np.max if self.pooling == "max" else np.mean
        logits = tuple(float(pool(own)) for own in by_text(parts))
        scores = softmax(np.array(logits), self.temperature)
        place = int(scores.argmax())
        return Choice(
            choices.label(place, self._form(choices)),
            place,
            choices.texts[place],
            float(scores[place]),
            tuple(scores.tolist()),
            logits,
        )

    def limits(self) -> Sequence[str]:
        how = "mean" if self.pooling == "mean" else "largest"
        return (
            *self._reading.limits(how, "transformers", "logits"),
            *stock_limits.of_temperature(self.temperature),
        )

    def calibrate(self, answers: Sequence[Choice], rows: Sequence[Row]) -> Self:
        """Returns the task with the temperature (Guo et al. 2017) fitted on `rows`."""
        if not self.calibrated or not rows:
            return self
        width = max(len(answer.logits) for answer in answers)
        logits_RK = np.full((len(answers), width), ABSENT)
        for logits_K, answer in zip(logits_RK, answers, strict=True):
            logits_K[: len(answer.logits)] = answer.logits
        right_R = np.array([self._right(row, self._choices(row)) for row in rows])
        return replace(self, temperature=fit_temperature(logits_RK, right_R))

    def statistics(self, answer: Choice, row: Row) -> Mapping[str, Any]:
        right = self._right(row, self._choices(row))
        scores_K = np.array(answer.scores)
        return {
            "true": right,
            "predicted": answer.place,
            "rank": 1 + int((scores_K > scores_K[right]).sum()),
            "log_probability": float(np.log(max(scores_K[right], np.finfo(float).tiny))),
            "num_choices": len(scores_K),
        }

    def reduce(self, statistics: Statistics, counts: np.ndarray | None = None) -> dict[str, float]:
        return choice_metrics(statistics, counts)

    def compared(self, answer: Choice, row: Row) -> tuple[LabelValue, LabelValue]:
        choices = self._choices(row)
        return choices.label(self._right(row, choices), self._form(choices)), answer.label

    def figures(self, statistics: Statistics) -> Sequence[Figure]:
        true_R, answered_R = statistics["true"], statistics["predicted"]
        chance = float((1 / statistics["num_choices"]).mean())
        rows = [
            (
                str(place + 1),
                int((true_R == place).sum()),
                int((answered_R == place).sum()),
                int(((true_R == place) & (answered_R == place)).sum()),
            )
            for place in range(int(statistics["num_choices"].max()))
        ]
        header = ("place of the choice", "right", "answered", "answered rightly")
        note = f"Choosing at random is right in {chance:.1%} of these rows."
        return [Table("Places", header, rows, note)]

    def within(self, limit: int) -> Self:
        return replace(self, max_length=fitting_length(self.max_length, limit))

    def continued(self, previous: Task) -> Self:
        if not isinstance(previous, MultipleChoice):
            return self
        return replace(self, max_length=self.max_length or previous.max_length)

    def _choices(self, row: Row) -> Choices:
        """Returns what a row has to choose from; raises DataError where it has nothing."""
        where = f"{row.where}, choices"
        if not self.choice_columns:
            if "choices" not in row.values:
                raise DataError(
                    row.source,
                    "there are no choices",
                    "They are a column of lists, or a column for each.",
                    "Name them with data.columns.choices=COLUMN or "
                    'task.choice_columns=["COLUMN", "COLUMN"].',
                )
            return Choices.of(row.values["choices"], where)
        missing = [name for name in self.choice_columns if name not in row.extras]
        if missing:
            raise DataError(
                row.source,
                f"there is no column {listed(missing)}, or it plays a role",
                "Each of task.choice_columns is a column without a role.",
            )
        return Choices.of(filled([row.extras[name] for name in self.choice_columns]), where)

    def _right(self, row: Row, choices: Choices) -> int:
        """Returns the place of the right choice; raises DataError where the label names none."""
        label = row.values["label"]
        place = choices.place_of(label, self._form(choices))
        if place is None:
            raise _no_choice(row, label, (self._form(choices),), choices)
        return place

    def _form(self, choices: Choices) -> Form:
        """Returns the form of labels; rows without keys are answered by letters instead."""
        form = self.label_form or "place"
        return "letter" if form == "key" and not choices.keys else form


def _by_row(values_N: Tensor, sizes: Sequence[int], filler: float) -> Tensor:
    """Lays the values of each row's choices side by side, (R, K), and fills up shorter rows."""
    return pad_sequence(list(values_N.split(list(sizes))), batch_first=True, padding_value=filler)


def _no_choice(row: Row, label: Any, forms: Sequence[Form], choices: Choices) -> DataError:
    meant = " or ".join(FORMS[form] for form in forms)
    return DataError(
        f"{row.where}, label",
        "it is empty" if label is None else f"it is {label!r:.60}",
        f"It must be {meant}; there are {len(choices.texts)} choices.",
    )
