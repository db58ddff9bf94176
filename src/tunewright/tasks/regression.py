"""One number for a text, or for a pair of texts: a rating, a price, how alike they are.

{"text": "A man eats.", "text_pair": "A man dines.", "score": 4.5}
->  Number(4.4, 3.6, 5.2)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import ConfigDict, NonNegativeInt, PositiveInt
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn import functional

from tunewright.answers import Number
from tunewright.data.checks import read_number
from tunewright.errors import DataError, SettingsError
from tunewright.figures import Figure, Scatter
from tunewright.metrics import MetricSpec
from tunewright.metrics.regression import REGRESSION_METRICS, RegressionReducer
from tunewright.models.batch import Batch
from tunewright.models.files.architecture import (
    SEQUENCE_CLASSIFIER,
    Kind,
    backbone_prefix,
    is_backbone,
)
from tunewright.models.files.loading import load_library_model
from tunewright.models.heads import classify
from tunewright.models.text.tokens import Long
from tunewright.tasks import SCORE, TEXT, TEXT_PAIR
from tunewright.tasks.base import Loss, Outputs, Reducer, Scope, Statistics
from tunewright.tasks.shared.texts import fitting_length, optional_text_of, text_of
from tunewright.tasks.shared.windows import (
    WindowedTask,
    as_features,
    length_field,
    long_field,
    pooled,
    stride_field,
    texts_of,
)
from tunewright.types import Features, Role, Row

# The share of validation rows whose true value lies in an answer's interval.
COVERAGE = 0.9
LOSSES: dict[str, Callable[..., Tensor]] = {
    "mse": functional.mse_loss,
    "mae": functional.l1_loss,
    "huber": functional.huber_loss,
}


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Regression(WindowedTask):
    """Regression with the library's sequence classifier of one output.

    The model learns targets of mean 0 and deviation 1, so that a learning rate suits stars and
    prices alike. At the end mean and scale move into the last layer: the saved model puts out the
    data's own unit, in stock transformers too.
    """

    name: ClassVar[str] = "regression"
    roles: ClassVar[tuple[Role, ...]] = (TEXT, TEXT_PAIR, SCORE)
    metrics: ClassVar[tuple[MetricSpec, ...]] = REGRESSION_METRICS
    kind: ClassVar[Kind] = SEQUENCE_CLASSIFIER
    text_roles: ClassVar[tuple[str, ...]] = ("text", "text_pair")

    max_length: PositiveInt | None = length_field()
    long: Long = long_field()
    stride: NonNegativeInt = stride_field()
    loss_type: Literal["mse", "mae", "huber"] = field(
        default="mse",
        metadata={"help": "squared error, absolute error, or squared near 0 and absolute beyond "
                          "one deviation of the targets"},
    )  # fmt: skip
    symmetric: bool = field(
        default=False,
        metadata={"help": "the order of a pair means nothing: both orders are learned, and an "
                          "answer is the mean of theirs"},
    )  # fmt: skip
    mean: float = field(
        default=0.0, metadata={"help": "added to the model's output", "fitted": True}
    )
    scale: float = field(
        default=1.0, metadata={"help": "multiplies the model's output", "fitted": True}
    )
    half_width: float | None = field(
        default=None,
        metadata={"help": "distance from an answer to both ends of its interval", "fitted": True},
    )

    def __post_init__(self) -> None:
        if not 0 < self.scale < float("inf"):
            raise SettingsError("[task]", f"task.scale is {self.scale}", "It must be more than 0.")

    @property
    def scope(self) -> Scope:
        return "document" if self._reading.in_windows else "row"

    def learn(self, rows: Iterable[Row]) -> Self:
        values_R = np.array([self._target(row) for row in rows])
        if len(np.unique(values_R)) < 2:
            raise DataError(
                "the training data",
                f"every score is {values_R[0] if len(values_R) else 'missing'}",
                "At least two different ones are needed.",
            )
        return replace(self, mean=float(values_R.mean()), scale=float(values_R.std()))

    def encode(self, row: Row, processor: Any) -> list[Features]:
        text, pair = text_of(row, "text"), optional_text_of(row, "text_pair")
        targets = {} if row.values.get("score") is None else {"score": self._target(row)}
        orders = [(self._reading.streams(processor, text, pair, where=row.where), targets)]
        if self.symmetric and pair is not None:
            others = self._reading.streams(processor, pair, text, where=row.where)
            again = [replace(each, num_repeated=len(each), num_cut=0) for each in others]
            orders.append((again, targets))
        return as_features(row.id, orders, placed=self._reading.in_windows)

    def build(
        self, source: Path, processor: Any, *, dropout: float | None, seed: int
    ) -> tuple[Any, tuple[str, ...]]:
        loaded = load_library_model(
            source,
            self.kind,
            ("score",),
            by_place=True,
            dropout=dropout,
            seed=seed,
            problem_type="regression",
            pad_token_id=processor.pad_token_id,
        )
        return loaded.model, loaded.notices

    def forward(self, model: Any, batch: Batch) -> Outputs:
        return {"logits": classify(model, batch.streams["text"])[:, 0]}

    def loss(self, outputs: Outputs, batch: Batch) -> Loss:
        target_B = (batch.targets["score"] - self.mean) / self.scale
        found_B = outputs["logits"].float()
        if self._reading.in_windows:
            texts = texts_of(batch)
            found_B, target_B = pooled(found_B, texts), target_B[[own[0] for own in texts]]
        return Loss(LOSSES[self.loss_type](found_B, target_B, reduction="sum"), len(target_B))

    def decode(
        self, outputs: Outputs, features: Sequence[Features], processor: Any
    ) -> list[Number]:
        values_B = outputs["logits"].double().cpu().numpy() * self.scale + self.mean
        return [self._number(float(value)) for value in values_B]

    def join(self, parts: Sequence[Number], row: Row) -> Number:
        """Returns the mean of both orders of a pair, and of all windows of a text."""
        return self._number(float(np.mean([part.value for part in parts])))

    def limits(self) -> Sequence[str]:
        found = [*self._reading.limits("mean", "transformers", "numbers")]
        if self.symmetric:
            found.append(
                "A pair of texts is read in both orders, and the answer is the mean of the two "
                "numbers. Stock `transformers` gives the number of one order."
            )
        if (self.scale, self.mean) != (1, 0):
            found.append(
                f"An answer is the model's output times {self.scale:.6g} plus {self.mean:.6g}. "
                "Stock `transformers` gives the output alone; both are kept in `task.json`."
            )
        if self.half_width is not None:
            found.append(
                f"An answer's interval reaches {self.half_width:.6g} to each side, so that it "
                f"held the true number of {COVERAGE * 100:.0f} % of the validation rows. Stock "
                "`transformers` gives the number alone; the width is kept in `task.json`."
            )
        return tuple(found)

    def calibrate(self, answers: Sequence[Number], rows: Sequence[Row]) -> Self:
        """Returns the task with intervals that hold COVERAGE of new rows.

        Split conformal prediction (Vovk et al. 2005; Lei et al. 2018): the interval's half width
        is the ceil((n + 1) · COVERAGE)-th smallest absolute error of n validation rows.
        """
        errors = sorted(
            abs(a.value - self._target(row)) for a, row in zip(answers, rows, strict=True)
        )
        place = int(np.ceil((len(errors) + 1) * COVERAGE))
        return replace(self, half_width=errors[place - 1] if place <= len(errors) else None)

    def statistics(self, answer: Number, row: Row) -> Mapping[str, Any]:
        return {"true": self._target(row), "predicted": answer.value}

    def reduce(self, statistics: Statistics, counts: np.ndarray | None = None) -> dict[str, float]:
        return RegressionReducer.of(statistics)(counts)

    def prepare(self, statistics: Statistics) -> Reducer:
        return RegressionReducer.of(statistics)

    def compared(self, answer: Number, row: Row) -> tuple[float, float]:
        return self._target(row), answer.value

    def severity(self, answer: Number, row: Row) -> float | None:
        """Returns the absolute error of an answer whose interval misses the true value."""
        error = abs(answer.value - self._target(row))
        return None if self.half_width is not None and error <= self.half_width else error

    def figures(self, statistics: Statistics) -> Sequence[Figure]:
        true_R, predicted_R = (statistics[name].tolist() for name in ("true", "predicted"))
        return [Scatter("True and answered", true_R, predicted_R, "true", "answered", True)]

    def within(self, limit: int) -> Self:
        return replace(self, max_length=fitting_length(self.max_length, limit))

    @torch.no_grad()
    def settle(self, model: Any) -> Self:
        last = _last_layer(model)
        if last is None:
            return self
        last.weight.mul_(self.scale)
        last.bias.mul_(self.scale).add_(self.mean)
        return replace(self, mean=0.0, scale=1.0)

    def _target(self, row: Row) -> float:
        return read_number(row.values["score"], f"{row.where}, score")

    def _number(self, value: float) -> Number:
        if self.half_width is None:
            return Number(value)
        return Number(value, value - self.half_width, value + self.half_width)


def _last_layer(model: Any) -> nn.Linear | None:
    """Returns the head's layer of one output, where it has a bias to move a mean into."""
    prefix = backbone_prefix(model)
    found = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module.out_features == 1
        if not is_backbone(f"{name}.", prefix) and module.bias is not None
    ]
    return found[-1] if found else None
