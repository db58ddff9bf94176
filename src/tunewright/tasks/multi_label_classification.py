"""Any number of labels for a text, or for a pair of texts.

{"text": "A cheap hotel near the station", "labels": ["hotel", "train"]}
->  Labels("hotel", "train")
"""

from __future__ import annotations

from collections import Counter
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

from tunewright.answers import Labels, LabelValue
from tunewright.data import check_labels, plain_label
from tunewright.data.cells.lists import find_separator, read_flag, read_list
from tunewright.data.wording import counted
from tunewright.errors import DataError, SettingsError, listed
from tunewright.figures import Figure, Table
from tunewright.metrics import MetricSpec
from tunewright.metrics.multilabel import MULTI_LABEL_METRICS, MultiLabelReducer, fit_thresholds
from tunewright.models.batch import Batch
from tunewright.models.files.architecture import SEQUENCE_CLASSIFIER, Kind
from tunewright.models.files.loading import load_library_model
from tunewright.models.heads import classify
from tunewright.models.text.tokens import Long
from tunewright.tasks import LABELS, TEXT, TEXT_PAIR
from tunewright.tasks.base import Loss, Outputs, Reducer, Scope, Statistics, Task
from tunewright.tasks.shared import stock_limits
from tunewright.tasks.shared.labels import (
    LabelKind,
    Names,
    Weights,
    check_named,
    common_kind,
    joined_labels,
    kind_of,
    name_of,
    ordered,
    place_of,
    value_of,
    weights_of,
)
from tunewright.tasks.shared.texts import fitting_length, optional_text_of, text_of
from tunewright.tasks.shared.windows import (
    Pooling,
    WindowedTask,
    as_features,
    length_field,
    long_field,
    pooled,
    stride_field,
    texts_of,
)
from tunewright.types import Features, Role, Row

HOW_TO_NAME = (
    "Name the column of the labels with data.columns.labels=COLUMN, or columns of zeros and ones "
    'with task.label_columns=["COLUMN", "COLUMN"].'
)

# How lists of zeros and ones say of each label whether it applies.
_FLAGS = {"0": False, "1": True, "false": False, "true": True}


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class MultiLabelClassification(WindowedTask):
    """Multi-label classification with the library's own sequence classification heads.

    Each label is a decision of its own: binary cross-entropy, optionally focal (Lin et al. 2017).
    The loss counts decisions, so that its mean equals `torch.nn.BCEWithLogitsLoss`.
    """

    name: ClassVar[str] = "multi-label-classification"
    roles: ClassVar[tuple[Role, ...]] = (TEXT, TEXT_PAIR, LABELS)
    metrics: ClassVar[tuple[MetricSpec, ...]] = MULTI_LABEL_METRICS
    kind: ClassVar[Kind] = SEQUENCE_CLASSIFIER
    text_roles: ClassVar[tuple[str, ...]] = ("text", "text_pair")
    own_usage: ClassVar[str] = (
        "import tunewright as tw\n\n"
        '(answer,) = tw.load("path/to/this/folder").predict(["A fine film."])\n'
        "print(answer.labels, answer.scores)"
    )
    stock_usage: ClassVar[str] = (
        "from transformers import pipeline\n\n"
        'model = pipeline("text-classification", model="path/to/this/folder", top_k=None)\n'
        'model("A fine film.", truncation=True)  # every label, with its score'
    )

    max_length: PositiveInt | None = length_field()
    long: Long = long_field()
    stride: NonNegativeInt = stride_field()
    pooling: Pooling = field(
        default="mean",
        metadata={"help": "what the logits of a text's windows become: their mean, or the largest "
                          "of each label"},
    )  # fmt: skip
    pos_weight: Weights = field(
        default=None,
        metadata={"help": '"balanced" (rows without a label / rows with it), or a weight per '
                          "label, of the rows that have it. Off: all 1"},
    )  # fmt: skip
    focal_gamma: float = field(
        default=0.0, metadata={"help": "exponent of the focal loss, >= 0; 0 is cross-entropy"}
    )
    threshold: float = field(
        default=0.5, metadata={"help": "score from which on a label is answered, (0, 1)"}
    )
    tune_thresholds: bool = field(
        default=True,
        metadata={"help": "fit each label's own threshold on validation, to its highest F1"},
    )
    separator: str | None = field(
        default=None,
        metadata={"help": "what joins the labels of a row in one text. Off: found in the training "
                          "rows"},
    )  # fmt: skip
    label_columns: Names = field(
        default=(),
        metadata={"help": "columns of zeros and ones, one for each label. Off: the role labels"},
    )
    labels: Names = field(
        default=(), metadata={"help": "the labels in order. Off: learned from the training rows"}
    )
    flags: Names = field(
        default=(),
        metadata={"help": "the labels that lists of zeros and ones stand for", "fitted": True},
    )
    label_kind: LabelKind = field(
        default="string", metadata={"help": "type of a label in the data", "fitted": True}
    )
    weights: tuple[float, ...] = field(
        default=(), metadata={"help": "weight of the rows with each label", "fitted": True}
    )
    thresholds: tuple[float, ...] = field(
        default=(), metadata={"help": "least score of each label", "fitted": True}
    )

    def __post_init__(self) -> None:
        checks = {
            "focal_gamma": (0 <= self.focal_gamma < 100, "at least 0"),
            "threshold": (0 < self.threshold < 1, "more than 0 and less than 1"),
            "separator": (self.separator != "", "at least one character"),
        }
        if len(set(self.labels)) < len(self.labels):
            raise SettingsError("[task]", "task.labels names a label twice", "Each has one name.")
        for key, (holds, needed) in checks.items():
            if not holds:
                value = getattr(self, key)
                raise SettingsError("[task]", f"task.{key} is {value!r}", f"It must be {needed}.")

    @property
    def scope(self) -> Scope:
        return "document" if self._reading.in_windows else "row"

    def learn(self, rows: Iterable[Row]) -> Self:
        rows = [self._without_texts(row) for row in rows]
        source = rows[0].source if rows else "the training data"
        cells = [row.values.get("labels") for row in rows]
        task = replace(self, separator=self.separator or find_separator(cells), flags=())
        given = [task._given(row) for row in rows]
        if not self.label_columns and _are_flags(given, self.labels):
            task = replace(task, flags=self.labels)
            given = [task._given(row) for row in rows]
        elif not self.label_columns:
            _check_names(given, self.labels, source)
        values = [value for each in given for value in each]
        found = Counter(map(name_of, values))
        if not found:
            raise DataError(source, "no row has a label", "At least one is needed.", HOW_TO_NAME)
        if len(found) > 1:
            check_labels(values, source, "labels")
        check_named(found, self.labels, source)
        kind = kind_of(values)
        labels = self.labels or self.label_columns or ordered(found, kind)
        weights = _weights(self.pos_weight, labels, found, len(rows))
        return replace(task, labels=labels, label_kind=common_kind(kind, labels), weights=weights)

    def unseen_label(self, row: Row) -> LabelValue | None:
        _, unseen = self._truth(row)
        return unseen[0] if unseen else None

    def encode(self, row: Row, processor: Any) -> list[Features]:
        text, pair = text_of(row, "text"), optional_text_of(row, "text_pair")
        streams = self._reading.streams(processor, text, pair, where=row.where)
        targets = {"labels": self._truth(row)[0]} if self._is_labelled(row) else {}
        return as_features(row.id, [(streams, targets)], placed=False)

    def build(
        self, source: Path, processor: Any, *, dropout: float | None, seed: int
    ) -> tuple[Any, tuple[str, ...]]:
        loaded = load_library_model(
            source,
            self.kind,
            self.labels,
            dropout=dropout,
            seed=seed,
            problem_type="multi_label_classification",
            pad_token_id=processor.pad_token_id,
        )
        return loaded.model, (*self._notices(), *loaded.notices)

    def _notices(self) -> tuple[str, ...]:
        found = []
        if self.separator is not None:
            found.append(f'Labels are cut at "{self.separator}" (task.separator names another).')
        if self.flags:
            found.append("Lists of zeros and ones say which of task.labels apply, in its order.")
        return tuple(found)

    def forward(self, model: Any, batch: Batch) -> Outputs:
        return {"logits": classify(model, batch.streams["text"])}

    def loss(self, outputs: Outputs, batch: Batch) -> Loss:
        logits_BC = outputs["logits"].float()
        true_BC = batch.targets["labels"].view_as(logits_BC).float()
        if self._reading.in_windows:
            texts = texts_of(batch)
            logits_BC = pooled(logits_BC, texts, self.pooling)
            true_BC = true_BC[[own[0] for own in texts]]
        weight_C = torch.tensor(self.weights, device=logits_BC.device) if self.weights else None
        loss_BC = functional.binary_cross_entropy_with_logits(
            logits_BC, true_BC, pos_weight=weight_C, reduction="none"
        )
        if self.focal_gamma:
            loss_BC = loss_BC * _focus(logits_BC, true_BC, self.focal_gamma)
        return Loss(loss_BC.sum(), loss_BC.numel())

    def decode(
        self, outputs: Outputs, features: Sequence[Features], processor: Any
    ) -> list[Labels]:
        return self._answers(outputs["logits"].double().cpu())

    def _answers(self, logits_BC: Tensor) -> list[Labels]:
        return [
            self._labels(logits_C, scores_C)
            for logits_C, scores_C in zip(
                logits_BC.numpy(), logits_BC.sigmoid().numpy(), strict=True
            )
        ]

    def join(self, parts: Sequence[Labels], row: Row) -> Labels:
        """Returns the answer to a text from those to its windows, whose logits are pooled."""
        if len(parts) == 1:
            return parts[0]
        logits_WC = torch.tensor([part.logits for part in parts], dtype=torch.float64)
        (answer,) = self._answers(pooled(logits_WC, [range(len(parts))], self.pooling))
        return answer

    def limits(self) -> Sequence[str]:
        how = "mean" if self.pooling == "mean" else "largest, label by label,"
        return (
            *self._reading.limits(how, "transformers", "logits"),
            *stock_limits.of_thresholds(self.labels, self._limits.tolist()),
            *stock_limits.of_label_kind(self.label_kind),
        )

    def calibrate(self, answers: Sequence[Labels], rows: Sequence[Row]) -> Self:
        """Returns the task with the thresholds that give each label its highest F1 on `rows`."""
        if not self.tune_thresholds or not rows:
            return self
        scores_RC = np.array([_scores(answer) for answer in answers])
        true_RC = np.array([self._truth(row)[0] for row in rows])
        return replace(self, thresholds=fit_thresholds(scores_RC, true_RC, self.threshold))

    def statistics(self, answer: Labels, row: Row) -> Mapping[str, Any]:
        scores_C = _scores(answer)
        true_C, unseen = self._truth(row)
        return {
            "true_labels": true_C,
            "answered_labels": self._answered(scores_C),
            "scores": scores_C.astype(np.float32),
            "unseen": bool(unseen),
        }

    def reduce(self, statistics: Statistics, counts: np.ndarray | None = None) -> dict[str, float]:
        return MultiLabelReducer.of(statistics)(counts)

    def prepare(self, statistics: Statistics) -> Reducer:
        return MultiLabelReducer.of(statistics)

    def compared(self, answer: Labels, row: Row) -> tuple[list[LabelValue], list[LabelValue]]:
        true_C, unseen = self._truth(row)
        return [*self._values(true_C), *unseen], list(answer.labels)

    def severity(self, answer: Labels, row: Row) -> float | None:
        """Returns how far scores lie on the wrong side of their thresholds, 1 for unseen labels."""
        scores_C = _scores(answer)
        true_C, unseen = self._truth(row)
        wrong_C = true_C != self._answered(scores_C)
        if not wrong_C.any() and not unseen:
            return None
        return len(unseen) + float(np.abs(scores_C - self._limits)[wrong_C].sum())

    def figures(self, statistics: Statistics) -> Sequence[Figure]:
        header = ("label", "rows", "answered", "threshold", "precision", "recall", "F1",
                  "average precision")  # fmt: skip
        names, limits = [*self.labels, "(never seen in training)"], [*self._limits, float("nan")]
        rows = [
            (names[f.index], f.num_rows, f.num_answered, float(limits[f.index]), f.precision,
             f.recall, f.f1, f.average_precision)
            for f in MultiLabelReducer.of(statistics).labels()
        ]  # fmt: skip
        return [Table("Labels", header, rows)]

    def within(self, limit: int) -> Self:
        return replace(self, max_length=fitting_length(self.max_length, limit))

    def continued(self, previous: Task) -> Self:
        """Returns the task with the earlier model's labels first, and the new ones after them."""
        if not isinstance(previous, MultiLabelClassification):
            return self
        joined = joined_labels(previous.labels, self.labels, self.weights, self.label_kind)
        return replace(self, **joined, max_length=self.max_length or previous.max_length)

    @property
    def _limits(self) -> np.ndarray:
        return np.array(self.thresholds or (self.threshold,) * len(self.labels))

    def _answered(self, scores_C: np.ndarray) -> np.ndarray:
        return scores_C >= self._limits

    def _labels(self, logits_C: np.ndarray, scores_C: np.ndarray) -> Labels:
        scores = dict(zip(self.labels, scores_C.tolist(), strict=True))
        return Labels(self._values(self._answered(scores_C)), scores, tuple(logits_C.tolist()))

    def _values(self, is_given_C: np.ndarray) -> tuple[LabelValue, ...]:
        names = (name for name, given in zip(self.labels, is_given_C, strict=True) if given)
        return tuple(value_of(name, self.label_kind) for name in names)

    def _truth(self, row: Row) -> tuple[np.ndarray, tuple[LabelValue, ...]]:
        """Returns which labels a row has, bool (C,), and those that training never saw."""
        true_C, unseen = np.zeros(len(self.labels), bool), []
        for value in self._given(row):
            place = place_of(value, self.labels)
            if place < 0:
                unseen.append(value)
            else:
                true_C[place] = True
        return true_C, tuple(unseen)

    def _given(self, row: Row) -> list[Any]:
        """Returns the labels of a row as the data has them."""
        if not self.label_columns:
            if "labels" not in row.values:
                raise DataError(row.source, "there is no column of labels", "", HOW_TO_NAME)
            value, where = row.values["labels"], f"{row.where}, labels"
            if value is None:
                none = 'An empty list, or "", says that no label applies.'
                raise DataError(where, "it is missing", "Every row needs its labels.", none)
            return self._named(read_list(value, self.separator, where), where)
        missing = [name for name in self.label_columns if name not in row.extras]
        if missing:
            raise DataError(
                row.source,
                f"there is no column {listed(missing)}, or it plays a role",
                "Each of task.label_columns is a column without a role.",
            )
        return [
            name
            for name in self.label_columns
            if read_flag(row.extras[name], f"{row.where}, {name}")
        ]

    def _named(self, given: list[Any], where: str) -> list[Any]:
        """Returns what a list of zeros and ones says, where training had those; others stay."""
        if not self.flags or not _are_flags([given], self.flags):
            return given
        if len(given) == len(self.flags):
            return [name for name, value in zip(self.flags, given, strict=True) if _flag(value)]
        raise DataError(
            where,
            f"it holds zeros and ones of {counted(len(given), 'label')}",
            f"There are {len(self.flags)}: {listed(self.flags)}.",
            "Mend the list, or write the names of those that apply.",
        )

    def _without_texts(self, row: Row) -> Row:
        values = {name: value for name, value in row.values.items() if name == "labels"}
        extras = {name: row.extras[name] for name in self.label_columns if name in row.extras}
        return replace(row, values=values, extras=extras)

    def _is_labelled(self, row: Row) -> bool:
        if self.label_columns:
            return any(name in row.extras for name in self.label_columns)
        return row.values.get("labels") is not None


def _flag(value: LabelValue | float) -> bool | None:
    return _FLAGS.get(plain_label(value).lower())


def _are_flags(given: Sequence[Sequence[LabelValue]], labels: Sequence[str]) -> bool:
    """Says whether lists hold zeros and ones alone, and these are no labels themselves."""
    if not labels or any(_flag(name) is not None for name in labels):
        return False
    return any(given) and all(_flag(item) is not None for each in given for item in each)


def _check_names(given: Sequence[Sequence[LabelValue]], labels: Sequence[str], source: str) -> None:
    """Raises DataError for lists of zeros and ones, one for each label: they do not name any.

    Where `labels` are named, and a zero or a one is among them, they name some if they are fewer.
    """
    sizes = set(map(len, given))
    flags = (name_of(item) in _FLAGS for each in given for item in each)
    if len(sizes) != 1 or not sizes.isdisjoint({0, 1}) or not all(flags):
        return
    (size,) = sizes
    if labels and len(labels) != size:
        return
    raise DataError(
        source,
        f"the labels of every row are {size} zeros and ones",
        "They may be names of labels, or say which of task.labels apply."
        if labels
        else "They say which labels apply, but not what these are called.",
        f"{'Write' if labels else 'Name the labels in that order with task.labels, or write'} the "
        "names of those that apply, as a list, or a column of zeros and ones for each label, named "
        "in task.label_columns.",
    )


def _scores(answer: Labels) -> np.ndarray:
    return np.fromiter(answer.scores.values(), np.float64, len(answer.scores))


def _weights(
    choice: Weights, labels: Sequence[str], counts: Mapping[str, int], num_rows: int
) -> tuple[float, ...]:
    """Returns a weight for each label; `balanced` is rows without the label / rows with it."""
    if choice is None:
        return ()
    if choice == "balanced":
        return tuple(
            (num_rows - counts[name]) / counts[name] if 0 < counts[name] < num_rows else 1.0
            for name in labels
        )
    return weights_of(choice, labels, "pos_weight")


def _focus(logits_BC: Tensor, true_BC: Tensor, gamma: float) -> Tensor:
    """Returns (1 - p)^gamma with p the probability of what is true of each decision."""
    p_BC = torch.sigmoid(torch.where(true_BC > 0, logits_BC, -logits_BC))
    return (1 - p_BC) ** gamma
