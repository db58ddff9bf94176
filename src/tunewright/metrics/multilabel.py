"""The metrics of answers that hold any number of labels, each equal to scikit-learn's.

    MultiLabelReducer(true_RC, predicted_RC, scores_RC)()["f1_micro"]

Shape letters: R rows, C labels, N scored decisions.

Conventions
- A row counts `counts_R` times, as if it stood in the data that often.
- Labels that the model has never seen are together one more label, which is never answered.
- Division by zero gives 0, such as the precision of a label that is never answered.
- Macro averages run over the labels that stand in the sample (average precision: as truth; the
  others: as truth or in an answer).
- Every metric of no rows is NaN, and so is the average precision of a label without rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from tunewright.metrics.spec import Counts, MetricSpec, Statistics

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

MULTI_LABEL_METRICS = (
    MetricSpec("f1_micro", True, "F1 over all decisions"),
    MetricSpec("f1_macro", True, "mean F1 of the labels, each label counting alike"),
    MetricSpec("f1_weighted", True, "mean F1 of the labels, weighted by their rows"),
    MetricSpec("precision_micro", True, "share of the answered labels that are right"),
    MetricSpec("recall_micro", True, "share of the right labels that are answered"),
    MetricSpec("precision_macro", True, "mean precision of the labels"),
    MetricSpec("recall_macro", True, "mean recall of the labels"),
    MetricSpec("subset_accuracy", True, "share of rows whose labels are all right"),
    MetricSpec("hamming_loss", False, "share of decisions (a label of a row) that are wrong"),
    MetricSpec("average_precision", True, "mean average precision of the labels"),
    MetricSpec("average_precision_micro", True, "average precision over all decisions"),
)

MIN_POSITIVES = 5
"""Fewer rows of a label say too little about where its F1 is highest."""


@dataclass(frozen=True, slots=True)
class LabelFigures:
    """How the model does on one label. `index` is its number, -1 for all never seen together."""

    index: int
    num_rows: int
    num_answered: int
    precision: float
    recall: float
    f1: float
    average_precision: float


class MultiLabelReducer:
    """Metrics as a function of how often each row counts.

    `true_RC` and `predicted_RC` are bool, `scores_RC` floats, of which only the order matters.
    `unseen_R` is true for rows with a label that the model has never seen.
    """

    def __init__(
        self,
        true_RC: Flags,
        predicted_RC: Flags,
        scores_RC: npt.NDArray[Any],
        unseen_R: Flags | None = None,
    ) -> None:
        self.num_known = true_RC.shape[1]
        if unseen_R is not None and unseen_R.any():
            never_R1 = np.zeros((len(unseen_R), 1), bool)
            true_RC = np.hstack([true_RC, unseen_R[:, None]])
            predicted_RC = np.hstack([predicted_RC, never_R1])
            scores_RC = np.hstack([scores_RC, never_R1])
        self.num_labels = true_RC.shape[1]
        self._exact_R = (true_RC == predicted_RC).all(axis=1)
        # float32 adds whole numbers exactly up to 2^24 rows, in half the memory of float64.
        self._decisions_R3C = np.hstack(
            [true_RC & predicted_RC, true_RC, predicted_RC], dtype=np.float32
        )
        columns = range(self.num_labels)
        self._rankings = [Ranking.of(scores_RC[:, c], true_RC[:, c]) for c in columns]
        self._overall = Ranking.of(scores_RC.ravel(), true_RC.ravel())

    @classmethod
    def of(cls, statistics: Statistics) -> Self:
        """Reads the figures `true_labels`, `answered_labels`, `scores` and `unseen`."""
        return cls(
            statistics["true_labels"].astype(bool),
            statistics["answered_labels"].astype(bool),
            statistics["scores"],
            statistics["unseen"].astype(bool),
        )

    def __call__(self, counts_R: Counts | None = None) -> dict[str, float]:
        counts_R = np.ones(len(self._exact_R)) if counts_R is None else counts_R
        total = float(counts_R.sum())
        if not total:
            return {spec.name: float("nan") for spec in MULTI_LABEL_METRICS}
        hits_C, true_C, answered_C = self._counted(counts_R)
        wrong = float((true_C + answered_C - 2 * hits_C).sum())
        return {
            **_averages(hits_C, true_C, answered_C),
            "subset_accuracy": float(counts_R @ self._exact_R) / total,
            "hamming_loss": wrong / (total * self.num_labels),
            "average_precision": _defined_mean([each.area(counts_R) for each in self._rankings]),
            "average_precision_micro": self._overall.area(np.repeat(counts_R, self.num_labels)),
        }

    def labels(self) -> list[LabelFigures]:
        """Returns the figures of every label in order; those never seen, if any, come last."""
        counts_R = np.ones(len(self._exact_R))
        hits_C, true_C, answered_C = self._counted(counts_R)
        precision_C, recall_C = _divided(hits_C, answered_C), _divided(hits_C, true_C)
        f1_C = _divided(2 * hits_C, true_C + answered_C)
        return [
            LabelFigures(
                c if c < self.num_known else -1,
                int(true_C[c]),
                int(answered_C[c]),
                float(precision_C[c]),
                float(recall_C[c]),
                float(f1_C[c]),
                self._rankings[c].area(counts_R),
            )
            for c in range(self.num_labels)
        ]

    def _counted(self, counts_R: Counts) -> tuple[Floats, Floats, Floats]:
        """Returns how often each label is answered rightly, stands in a row, and is answered."""
        decisions_3C = counts_R.astype(np.float32) @ self._decisions_R3C
        hits_C, true_C, answered_C = np.split(decisions_3C.astype(np.float64), 3)
        return hits_C, true_C, answered_C


@dataclass(frozen=True)
class Ranking:
    """Where scored decisions stand among the scores of the right ones, the thresholds.

    `place_N` is the first threshold, from the highest down, that each decision reaches, and
    `own_P` numbers the right ones. Neither depends on counts, so areas of any need no sorting.
    Shape letters: P right decisions, T thresholds.
    """

    place_N: npt.NDArray[np.intp]
    own_P: npt.NDArray[np.intp]
    num_thresholds: int

    @classmethod
    def of(cls, scores_N: npt.NDArray[Any], true_N: Flags) -> Self:
        own_P = np.flatnonzero(true_N)
        negative_T = np.unique(-scores_N[own_P])
        return cls(np.searchsorted(negative_T, -scores_N), own_P, len(negative_T))

    def area(self, counts_N: Counts) -> float:
        """Returns the average precision; NaN where nothing is right.

        Decisions of the same score are taken together, as scikit-learn does.
        """
        called_T = np.bincount(self.place_N, counts_N, self.num_thresholds + 1)[:-1].cumsum()
        own_T = np.bincount(self.place_N[self.own_P], counts_N[self.own_P], self.num_thresholds)
        total = float(own_T.sum())
        precision_T = _divided(own_T.cumsum(), called_T)
        return float(own_T @ precision_T) / total if total else float("nan")


def fit_thresholds(
    scores_RC: npt.NDArray[Any], true_RC: Flags, default: float, min_positives: int = MIN_POSITIVES
) -> tuple[float, ...]:
    """Returns the threshold of each label from which on answering it gives its highest F1.

    Macro F1 is highest where that of each label is ("SCut", Yang 2001). A threshold lies half-way
    between two scores in [0, 1]; of equally good ones the highest is taken. Labels with fewer than
    `min_positives` rows keep `default`.
    """
    return tuple(
        default if column.sum() < min_positives else _best_threshold(scores_RC[:, c], column)
        for c, column in enumerate(true_RC.T)
    )


def _best_threshold(scores_R: npt.NDArray[Any], true_R: Flags) -> float:
    order_R = np.argsort(-scores_R, kind="stable")
    sorted_R = np.append(scores_R[order_R].astype(np.float64), 0.0)
    num_answered_R = np.arange(1, len(order_R) + 1)
    f1_R = 2 * np.cumsum(true_R[order_R]) / (num_answered_R + true_R.sum())
    f1_R[:-1][sorted_R[:-2] == sorted_R[1:-1]] = -1  # no threshold parts equal scores
    last = int(f1_R.argmax())
    return float((sorted_R[last] + sorted_R[last + 1]) / 2)


def _averages(hits_C: Floats, true_C: Floats, answered_C: Floats) -> dict[str, float]:
    """Returns precision, recall and F1 over decisions and over labels."""
    stands_C = (true_C + answered_C) > 0
    parts = {
        "f1": (2 * hits_C, true_C + answered_C),
        "precision": (hits_C, answered_C),
        "recall": (hits_C, true_C),
    }
    metrics = {}
    for name, (part_C, whole_C) in parts.items():
        score_C = _divided(part_C, whole_C)
        metrics[f"{name}_micro"] = _ratio(float(part_C.sum()), float(whole_C.sum()))
        metrics[f"{name}_macro"] = _ratio(float(score_C.sum()), float(stands_C.sum()))
    f1_C = _divided(*parts["f1"])
    metrics["f1_weighted"] = _ratio(float(f1_C @ true_C), float(true_C.sum()))
    return metrics


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _divided(part: Floats, whole: Floats) -> Floats:
    """Divides element by element; 0 where the divisor is 0."""
    return np.divide(part, whole, out=np.zeros_like(part, np.float64), where=whole > 0)


def _defined_mean(values: list[float]) -> float:
    defined = [value for value in values if not np.isnan(value)]
    return sum(defined) / len(defined) if defined else float("nan")
