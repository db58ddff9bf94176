"""One label for a text, or for a pair of texts.

{"text": "A fine film.", "label": "positive"}
->  Label("positive", 0.98)

Shape letters: W windows, R rows, B either (a text that fits is one window), C classes.
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

from tunewright.answers import Label, LabelValue
from tunewright.data import check_labels
from tunewright.errors import DataError, SettingsError, listed
from tunewright.metrics import (
    ANSWERS_NOTHING,
    CLASSIFICATION_METRICS,
    MetricSpec,
    fit_abstention,
    fit_temperature,
    prepare_classification,
    softmax,
)
from tunewright.models.batch import Batch
from tunewright.models.files.architecture import SEQUENCE_CLASSIFIER, Kind
from tunewright.models.files.loading import load_classifier
from tunewright.models.heads import classify
from tunewright.models.text.tokens import Long
from tunewright.tasks import LABEL, TEXT, TEXT_PAIR
from tunewright.tasks.base import Loss, Outputs, Reducer, Scope, Statistics, Task
from tunewright.tasks.shared import stock_limits
from tunewright.tasks.shared.labels import (
    LabelKind,
    Names,
    Weights,
    check_named,
    column_of,
    common_kind,
    joined_labels,
    kind_of,
    label_of,
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
    first_windows,
    length_field,
    long_field,
    pooled,
    stride_field,
    texts_of,
)
from tunewright.types import Features, Role, Row


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class TextClassification(WindowedTask):
    """Text classification with the library's own sequence classification heads.

    The loss is cross-entropy, optionally weighted, smoothed (Szegedy et al. 2016) or focal (Lin et
    al. 2017); its count is the sum of the rows' class weights, so that the mean equals
    `torch.nn.CrossEntropyLoss`.
    """

    name: ClassVar[str] = "text-classification"
    roles: ClassVar[tuple[Role, ...]] = (TEXT, TEXT_PAIR, LABEL)
    metrics: ClassVar[tuple[MetricSpec, ...]] = CLASSIFICATION_METRICS
    kind: ClassVar[Kind] = SEQUENCE_CLASSIFIER
    text_roles: ClassVar[tuple[str, ...]] = ("text", "text_pair")
    label_role: ClassVar[str | None] = "label"

    max_length: PositiveInt | None = length_field()
    long: Long = long_field()
    stride: NonNegativeInt = stride_field()
    pooling: Pooling = field(
        default="mean",
        metadata={"help": "what the logits of a text's windows become: their mean, or the largest "
                          "of each class"},
    )  # fmt: skip
    class_weights: Weights = field(
        default=None,
        metadata={"help": '"balanced" (inverse frequency), or a weight per label. Off: all 1'},
    )
    label_smoothing: float = field(
        default=0.0, metadata={"help": "share of the target spread over all classes, [0, 1)"}
    )
    focal_gamma: float = field(
        default=0.0, metadata={"help": "exponent of the focal loss, >= 0; 0 is cross-entropy"}
    )
    calibrated: bool = field(
        default=True, metadata={"help": "fit a temperature on validation, used by every answer"}
    )
    target_accuracy: float | None = field(
        default=None,
        metadata={"help": "accuracy that answers must reach on validation, (0, 1]: less certain "
                          "texts are marked as abstained. Off: never abstain"},
    )  # fmt: skip
    labels: Names = field(
        default=(), metadata={"help": "the classes in order. Off: learned from the training rows"}
    )
    label_kind: LabelKind = field(
        default="string", metadata={"help": "type of a label in the data", "fitted": True}
    )
    weights: tuple[float, ...] = field(
        default=(), metadata={"help": "weight of each class", "fitted": True}
    )
    temperature: float = field(default=1.0, metadata={"help": "divides the logits", "fitted": True})
    abstain_below: float = field(
        default=0.0, metadata={"help": "least score answered", "fitted": True}
    )

    def __post_init__(self) -> None:
        checks = {
            "label_smoothing": (0 <= self.label_smoothing < 1, "at least 0 and less than 1"),
            "focal_gamma": (0 <= self.focal_gamma < 100, "at least 0"),
            "temperature": (0 < self.temperature < 1e6, "more than 0"),
            "target_accuracy": (0 < (self.target_accuracy or 1) <= 1, "more than 0 and at most 1"),
        }
        if len(set(self.labels)) < len(self.labels):
            raise SettingsError("[task]", "task.labels names a label twice", "Each has one name.")
        for key, (holds, needed) in checks.items():
            if not holds:
                value = getattr(self, key)
                raise SettingsError("[task]", f"task.{key} is {value}", f"It must be {needed}.")

    @property
    def scope(self) -> Scope:
        return "document" if self._reading.in_windows else "row"

    def learn(self, rows: Iterable[Row]) -> Self:
        values: list[str | int | float] = []
        source = "the training data"
        for row in rows:
            values.append(label_of(row))
            source = row.source
        check_labels(values, source, column_of(rows, "label"))
        kind = kind_of(values)
        found = Counter(name_of(value) for value in values)
        check_named(found, self.labels, source)
        labels = self.labels or ordered(found, kind)
        weights = _weights(self.class_weights, labels, found)
        return replace(self, labels=labels, label_kind=common_kind(kind, labels), weights=weights)

    def unseen_label(self, row: Row) -> LabelValue | None:
        return row.values["label"] if self._index(row) < 0 else None

    def encode(self, row: Row, processor: Any) -> list[Features]:
        targets = {}
        if row.values.get("label") is not None:
            targets["label"] = self._index(row)
        text, pair = text_of(row, "text"), optional_text_of(row, "text_pair")
        streams = self._reading.streams(processor, text, pair, where=row.where)
        return as_features(row.id, [(streams, targets)], placed=False)

    def build(
        self, source: Path, processor: Any, *, dropout: float | None, seed: int
    ) -> tuple[Any, tuple[str, ...]]:
        loaded = load_classifier(
            source,
            self.labels,
            dropout=dropout,
            seed=seed,
            pad_token_id=processor.pad_token_id,
        )
        return loaded.model, loaded.notices

    def forward(self, model: Any, batch: Batch) -> Outputs:
        return {"logits": classify(model, batch.streams["text"])}

    def loss(self, outputs: Outputs, batch: Batch) -> Loss:
        logits_BC, label_B = outputs["logits"].float(), batch.targets["label"]
        if self._reading.in_windows:
            texts = texts_of(batch)
            logits_BC = pooled(logits_BC, texts, self.pooling)
            label_B = first_windows(batch, texts).targets["label"]
        if (batch.on_host("label") < 0).any():
            raise DataError(
                "the training data",
                "a label was not there when the labels were learned",
                f"The model knows {listed(self.labels)}.",
            )
        weight_C = torch.tensor(self.weights, device=logits_BC.device) if self.weights else None
        loss_B = functional.cross_entropy(
            logits_BC, label_B, weight_C, reduction="none", label_smoothing=self.label_smoothing
        )
        if self.focal_gamma:
            loss_B = loss_B * _focus(logits_BC, label_B, self.focal_gamma)
        count = len(label_B) if weight_C is None else float(weight_C[label_B].sum())
        return Loss(loss_B.sum(), count)

    def decode(self, outputs: Outputs, features: Sequence[Features], processor: Any) -> list[Label]:
        logits_BC = outputs["logits"].float().cpu().numpy()
        probabilities_BC = softmax(logits_BC / self.temperature)
        return [
            self._label(logits, probabilities)
            for logits, probabilities in zip(logits_BC, probabilities_BC, strict=True)
        ]

    def join(self, parts: Sequence[Label], row: Row) -> Label:
        """Returns the answer to a text from those to its windows, whose logits are pooled."""
        if len(parts) == 1:
            return parts[0]
        logits_WC = torch.tensor([part.logits for part in parts])
        (logits_C,) = pooled(logits_WC, [range(len(parts))], self.pooling).numpy()
        return self._label(logits_C, softmax(logits_C / self.temperature))

    def limits(self) -> Sequence[str]:
        how = "mean" if self.pooling == "mean" else "largest, class by class,"
        return (
            *self._reading.limits(how, "transformers", "logits"),
            *stock_limits.of_temperature(self.temperature),
            *stock_limits.of_abstention(self.abstain_below, self.target_accuracy),
            *stock_limits.of_label_kind(self.label_kind),
        )

    def calibrate(self, answers: Sequence[Label], rows: Sequence[Row]) -> Self:
        """Returns the task with temperature (Guo et al. 2017) and threshold fitted on `rows`."""
        true_R = np.array([self._index(row) for row in rows])
        known = true_R >= 0
        if not known.any():
            return self
        logits_RC = np.array([answer.logits for answer in answers])
        temperature = fit_temperature(logits_RC[known], true_R[known]) if self.calibrated else 1.0
        if self.target_accuracy is None:
            return replace(self, temperature=temperature)
        probabilities_RC = softmax(logits_RC / temperature)
        correct_R = probabilities_RC.argmax(1) == true_R
        threshold = fit_abstention(probabilities_RC.max(1), correct_R, self.target_accuracy)
        return replace(self, temperature=temperature, abstain_below=threshold)

    def fitted_as(self) -> Sequence[str]:
        if self.abstain_below != ANSWERS_NOTHING:
            return ()
        return (
            f"On the validation rows no least score gives an accuracy of {self.target_accuracy} "
            "(task.target_accuracy) for ten answers or more: the model abstains from every text.",
        )

    def statistics(self, answer: Label, row: Row) -> Mapping[str, Any]:
        probabilities = np.fromiter(answer.scores.values(), np.float32, len(self.labels))
        true = self._index(row)
        figures = {
            "true": true,
            "predicted": int(probabilities.argmax()),
            "probabilities": probabilities,
        }
        return figures | ({"abstained": answer.abstained} if self.abstain_below else {})

    def reduce(self, statistics: Statistics, counts: np.ndarray | None = None) -> dict[str, float]:
        return prepare_classification(statistics)(counts)

    def prepare(self, statistics: Statistics) -> Reducer:
        return prepare_classification(statistics)

    def compared(self, answer: Label, row: Row) -> tuple[LabelValue, LabelValue]:
        index = self._index(row)
        return row.values["label"] if index < 0 else self._value(self.labels[index]), answer.label

    def within(self, limit: int) -> Self:
        return replace(self, max_length=fitting_length(self.max_length, limit))

    def continued(self, previous: Task) -> Self:
        """Returns the task with the earlier model's labels first, and the new ones after them."""
        if not isinstance(previous, TextClassification):
            return self
        joined = joined_labels(previous.labels, self.labels, self.weights, self.label_kind)
        return replace(self, **joined, max_length=self.max_length or previous.max_length)

    def _index(self, row: Row) -> int:
        return place_of(label_of(row), self.labels)

    def _label(self, logits_C: np.ndarray, probabilities_C: np.ndarray) -> Label:
        best = int(probabilities_C.argmax())
        score = float(probabilities_C[best])
        scores = {name: float(p) for name, p in zip(self.labels, probabilities_C, strict=True)}
        return Label(self._value(self.labels[best]), score, scores, score < self.abstain_below,
                     tuple(float(x) for x in logits_C))  # fmt: skip

    def _value(self, name: str) -> LabelValue:
        return value_of(name, self.label_kind)


def _weights(
    choice: Weights, labels: Sequence[str], counts: Mapping[str, int]
) -> tuple[float, ...]:
    """Returns a weight for each label; `balanced` is rows / (classes x rows of the class)."""
    if choice is None:
        return ()
    if choice == "balanced":
        total = sum(counts.values())
        return tuple(total / (len(counts) * counts[n]) if n in counts else 1.0 for n in labels)
    return weights_of(choice, labels, "class_weights")


def _focus(logits_BC: Tensor, label_B: Tensor, gamma: float) -> Tensor:
    """Returns (1 - p)^gamma with p the probability of the true class."""
    p_B = logits_BC.softmax(-1).gather(1, label_B[:, None])[:, 0]
    return (1 - p_B) ** gamma
