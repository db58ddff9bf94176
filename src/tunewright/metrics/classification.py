"""The metrics of a classifier, each equal to scikit-learn's, for rows that may count many times.

    classification_metrics(true_R, predicted_R, probabilities_RC)["f1_macro"]

Shape letters: R rows, C classes that the model knows, T distinct thresholds of all classes one
after another, S slots between and at these thresholds.

Conventions
- A row counts `counts_R` times, as if it stood in the data that often. For counts over 0 that is
  scikit-learn's `sample_weight`; a row that counts 0 times is absent, and so is a class all of
  whose rows are absent.
- A class that the model has never seen is -1 in `true_R`. All such rows together are one more class
  that is never predicted: they are wrong, and their class had probability 0.
- Division by zero gives 0: the precision of a class never predicted, the recall and F1 of a class
  without rows, MCC with a single class.
- Macro averages run over the classes that stand in the sample (precision, recall, F1: as truth or
  as prediction; ROC-AUC and PR-AUC: those with rows, one against the rest). scikit-learn gives NaN
  for the whole macro ROC-AUC when one class has no rows.
- NaN stands for what is undefined: every metric of no rows, ROC-AUC when no class has rows both in
  it and outside it, PR-AUC when no class (of two: the positive one) has rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from tunewright.metrics.spec import Counts, MetricSpec, Statistics

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

NUM_BINS = 15  # as in Guo et al. 2017, "On calibration of modern neural networks"

CLASSIFICATION_METRICS = (
    MetricSpec("accuracy", True, "share of rows whose class is right"),
    MetricSpec("f1_macro", True, "mean F1 of the classes, each class counting alike"),
    MetricSpec("f1_micro", True, "F1 over all decisions; accuracy for single labels"),
    MetricSpec("f1_weighted", True, "mean F1 of the classes, weighted by their rows"),
    MetricSpec("precision_macro", True, "mean precision of the classes"),
    MetricSpec("precision_micro", True, "precision over all decisions"),
    MetricSpec("precision_weighted", True, "mean precision, weighted by the classes' rows"),
    MetricSpec("recall_macro", True, "mean recall of the classes (balanced accuracy)"),
    MetricSpec("recall_micro", True, "recall over all decisions"),
    MetricSpec("recall_weighted", True, "mean recall, weighted by the classes' rows"),
    MetricSpec("precision", True, "share of rows called positive that are (two classes)"),
    MetricSpec("recall", True, "share of positive rows that are found (two classes)"),
    MetricSpec("f1", True, "harmonic mean of precision and recall (two classes)"),
    MetricSpec("mcc", True, "Matthews correlation of truth and prediction, -1 to 1"),
    MetricSpec("roc_auc", True, "area under the ROC curve; one against the rest, macro"),
    MetricSpec("pr_auc", True, "average precision; one against the rest, macro"),
    MetricSpec("log_loss", False, "mean negative log probability of the right class, in nats"),
    MetricSpec("brier", False, "mean squared error of the probabilities"),
    MetricSpec(
        "expected_calibration_error",
        False,
        "mean distance of confidence and accuracy over 15 bins of confidence",
    ),
    MetricSpec("coverage", True, "share of rows that were answered, not abstained from"),
    MetricSpec("accuracy_answered", True, "accuracy over the rows that were answered"),
)


@dataclass(frozen=True, slots=True)
class ClassificationStatistics:
    """The per-row figures from which every metric here is made.

    `true_R` holds the index of the right class, -1 for a class that the model has never seen;
    `predicted_R` the index of the answer; `probabilities_RC` float32 or float64 in [0, 1] with
    rows that add up to 1. `abstained_R` is true where the model gave no answer; None when it
    always gives one.
    """

    true_R: npt.NDArray[Any]
    predicted_R: npt.NDArray[Any]
    probabilities_RC: npt.NDArray[Any]
    abstained_R: npt.NDArray[Any] | None = None

    def __post_init__(self) -> None:
        num_rows, num_classes = self.probabilities_RC.shape
        for column in (self.true_R, self.predicted_R, self.abstained_R):
            if column is not None and column.shape != (num_rows,):
                raise ValueError(f"{column.shape} figures for {num_rows} rows")
        if num_rows and not (0 <= self.predicted_R.min() <= self.predicted_R.max() < num_classes):
            raise ValueError(f"a predicted class lies outside 0..{num_classes - 1}")
        if num_rows and not (-1 <= self.true_R.min() <= self.true_R.max() < num_classes):
            raise ValueError(f"a true class lies outside -1..{num_classes - 1}")

    @classmethod
    def of(cls, statistics: Statistics) -> Self:
        """Reads the figures `true`, `predicted`, `probabilities` and, if there, `abstained`."""
        abstained_R = statistics.get("abstained")
        return cls(
            statistics["true"].astype(np.int64),
            statistics["predicted"].astype(np.int64),
            statistics["probabilities"],
            None if abstained_R is None else abstained_R.astype(bool),
        )

    def to_mapping(self) -> dict[str, npt.NDArray[Any]]:
        """Returns the figures by name, as `of` reads them."""
        figures = {
            "true": self.true_R,
            "predicted": self.predicted_R,
            "probabilities": self.probabilities_RC,
        }
        return figures if self.abstained_R is None else {**figures, "abstained": self.abstained_R}

    @property
    def num_rows(self) -> int:
        return len(self.true_R)

    @property
    def num_classes(self) -> int:
        return int(self.probabilities_RC.shape[1])

    @property
    def correct(self) -> npt.NDArray[np.bool_]:
        """Whether each row's prediction is right, (R,)."""
        return np.asarray(self.true_R == self.predicted_R)

    @property
    def confidence(self) -> Floats:
        """The highest probability of each row, float64 (R,)."""
        return np.asarray(self.probabilities_RC.max(axis=1), dtype=np.float64)


def classification_metrics(
    true_R: npt.NDArray[Any],
    predicted_R: npt.NDArray[Any],
    probabilities_RC: npt.NDArray[Any],
    counts_R: Counts | None = None,
    positive: int | None = None,
) -> dict[str, float]:
    """Returns every metric of `CLASSIFICATION_METRICS` that applies, by name.

    `positive` is the class that precision, recall, F1 and the curves of two classes are about;
    None means the second. The arguments are those of `ClassificationStatistics`.
    """
    statistics = ClassificationStatistics(true_R, predicted_R, probabilities_RC)
    return ClassificationReducer(statistics, positive)(counts_R)


def prepare_classification(statistics: Statistics) -> ClassificationReducer:
    """Returns the metrics as a function of counts: the `prepare` of `bootstrap`."""
    return ClassificationReducer(ClassificationStatistics.of(statistics))


class ClassificationReducer:
    """Metrics as a function of how often each row counts, for the many resamples of a bootstrap.

    What does not depend on the counts is computed once. A call then costs one pass over R rows,
    and for the ranking metrics one over R x C numbers; they stay exact.
    """

    def __init__(self, statistics: ClassificationStatistics, positive: int | None = None) -> None:
        self._statistics = statistics
        self._positive = _positive(statistics.num_classes, positive)
        self._cell_R = _cells(statistics)
        self._log_loss_R = _log_loss(statistics)
        self._brier_R = _brier(statistics)
        self._bin_R = confidence_bins(statistics, NUM_BINS)
        self._gap_R = statistics.confidence - statistics.correct
        self._ranking = Ranking(statistics, self._positive)

    def __call__(self, counts_R: Counts | None = None) -> dict[str, float]:
        num_rows = self._statistics.num_rows
        counted_R = np.ones(num_rows) if counts_R is None else counts_R.astype(np.float64)
        total = float(counted_R.sum())
        metrics = _decision_metrics(self._confusion(counted_R), self._positive)
        metrics["roc_auc"], metrics["pr_auc"] = self._ranking.areas(counted_R)
        metrics["log_loss"] = _ratio(float(self._log_loss_R @ counted_R), total)
        metrics["brier"] = _ratio(float(self._brier_R @ counted_R), total)
        gap_bins = np.bincount(self._bin_R, self._gap_R * counted_R, NUM_BINS)
        metrics["expected_calibration_error"] = _ratio(float(np.abs(gap_bins).sum()), total)
        return metrics | self._abstention(counted_R, total)

    def _confusion(self, counted_R: Floats) -> Floats:
        num_classes = self._statistics.num_classes
        cells = np.bincount(self._cell_R, counted_R, (num_classes + 1) * num_classes)
        return np.asarray(cells.reshape(num_classes + 1, num_classes), dtype=np.float64)

    def _abstention(self, counted_R: Floats, total: float) -> dict[str, float]:
        if self._statistics.abstained_R is None:
            return {}
        answered_R = ~self._statistics.abstained_R
        answered = float(counted_R @ answered_R)
        right = float(counted_R @ (answered_R & self._statistics.correct))
        return {
            "coverage": _ratio(answered, total),
            "accuracy_answered": _ratio(right, answered),
        }


def _ratio(part: float, whole: float) -> float:
    """Returns part / whole, NaN for nothing of nothing."""
    return part / whole if whole else float("nan")


def _positive(num_classes: int, positive: int | None) -> int | None:
    """Returns the class that two-class metrics are about; None for other numbers of classes."""
    if num_classes != 2:
        return None
    return 1 if positive is None else positive


def _cells(statistics: ClassificationStatistics) -> Ints:
    """Numbers the cell of the confusion matrix of each row; unseen classes are its last row."""
    num_classes = statistics.num_classes
    true_R = np.where(statistics.true_R < 0, num_classes, statistics.true_R)
    return np.asarray(true_R * num_classes + statistics.predicted_R, dtype=np.int64)


def _true_probability(statistics: ClassificationStatistics) -> npt.NDArray[Any]:
    """The probability given to the right class; 0 where the model does not know that class."""
    chosen_R = statistics.probabilities_RC[
        np.arange(statistics.num_rows), np.maximum(statistics.true_R, 0)
    ]
    return np.asarray(np.where(statistics.true_R < 0, chosen_R.dtype.type(0), chosen_R))


def _log_loss(statistics: ClassificationStatistics) -> Floats:
    """Nats per row; as in scikit-learn, probabilities stay one machine step from 0 and 1."""
    true_R = _true_probability(statistics)
    step = np.finfo(true_R.dtype).eps
    return np.asarray(-np.log(np.clip(true_R, step, 1 - step).astype(np.float64)))


def _brier(statistics: ClassificationStatistics) -> Floats:
    """Squared error per row over all classes; half of it for two classes (Brier 1950)."""
    probabilities_RC = statistics.probabilities_RC
    true_R = _true_probability(statistics).astype(np.float64)
    squares_R = np.einsum("rc,rc->r", probabilities_RC, probabilities_RC, dtype=np.float64)
    error_R = squares_R - 2 * true_R + 1
    return np.asarray(error_R / 2 if statistics.num_classes == 2 else error_R)


def confidence_bins(statistics: ClassificationStatistics, num_bins: int) -> Ints:
    """Numbers the bin (k / n, (k + 1) / n] of each row's confidence, (R,)."""
    place_R = np.ceil(statistics.confidence * num_bins).astype(np.int64) - 1
    return np.clip(place_R, 0, num_bins - 1)


def _divided(part: Floats, whole: Floats) -> Floats:
    """Divides element by element; 0 where the divisor is 0."""
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def _decision_metrics(confusion: Floats, positive: int | None) -> dict[str, float]:
    """Metrics of the decisions alone, from a (C + 1, C) matrix of truth by prediction."""
    num_classes = confusion.shape[1]
    support_C1 = confusion.sum(axis=1)
    predicted_C1 = np.append(confusion.sum(axis=0), 0.0)
    right_C1 = np.append(confusion.diagonal(), 0.0)
    total = float(support_C1.sum())
    if not total:
        return dict.fromkeys(_decision_names(positive), float("nan"))
    accuracy = float(right_C1.sum()) / total
    scores = {
        "f1": _divided(2 * right_C1, support_C1 + predicted_C1),
        "precision": _divided(right_C1, predicted_C1),
        "recall": _divided(right_C1, support_C1),
    }
    stands_C1 = (support_C1 + predicted_C1) > 0
    metrics = {"accuracy": accuracy}
    for name, score_C1 in scores.items():
        metrics[f"{name}_macro"] = float(score_C1[stands_C1].mean())
        metrics[f"{name}_micro"] = accuracy
        metrics[f"{name}_weighted"] = float(score_C1 @ support_C1) / total
    if positive is not None and num_classes == 2:
        metrics |= {name: float(scores[name][positive]) for name in ("precision", "recall", "f1")}
    metrics["mcc"] = _matthews(right_C1, support_C1, predicted_C1)
    return metrics


def _decision_names(positive: int | None) -> list[str]:
    averaged = [
        f"{name}_{average}"
        for name in ("f1", "precision", "recall")
        for average in ("macro", "micro", "weighted")
    ]
    two_classes = ["precision", "recall", "f1"] if positive is not None else []
    return ["accuracy", *averaged, *two_classes, "mcc"]


def _matthews(right_C1: Floats, support_C1: Floats, predicted_C1: Floats) -> float:
    """The multi-class correlation of Gorodkin 2004; 0 where either side has a single class."""
    total = support_C1.sum()
    agreement = right_C1.sum() * total - support_C1 @ predicted_C1
    spread = (total**2 - support_C1 @ support_C1) * (total**2 - predicted_C1 @ predicted_C1)
    return float(agreement / np.sqrt(spread)) if spread > 0 else 0.0


class Ranking:
    """Exact ROC-AUC and average precision of each class against the rest, for any counts.

    Only the scores of a class's own rows can change its areas, so they are its thresholds. They
    cut the scores of all rows into slots: 2t is below threshold t and above t - 1, 2t + 1 is at
    threshold t. Where a row falls does not depend on how often it counts, so a resample costs one
    weighted count of slots per class, and no sorting. `classes` are those with rows, or with two
    classes the positive one.
    """

    def __init__(self, statistics: ClassificationStatistics, positive: int | None) -> None:
        true_R = statistics.true_R
        classes = np.unique(true_R[true_R >= 0]) if positive is None else np.array([positive])
        self.classes = [int(class_) for class_ in classes if (true_R == class_).any()]
        self._slot_CR: list[npt.NDArray[np.int32]] = []
        self._row_ids: list[Ints] = []
        self._row_thresholds: list[Ints] = []
        thresholds_C = [self._add(statistics, class_) for class_ in self.classes]
        self._ends_C = np.cumsum(np.array(thresholds_C, dtype=np.int64))
        self._starts_C = self._ends_C - thresholds_C
        self._class_T = np.repeat(np.arange(len(self.classes)), thresholds_C)
        own = [ids + start for ids, start in zip(self._row_thresholds, self._starts_C, strict=True)]
        self._own_R = np.concatenate([*self._row_ids, np.zeros(0, np.int64)])
        self._own_threshold_R = np.concatenate([*own, np.zeros(0, np.int64)])

    def _add(self, statistics: ClassificationStatistics, class_: int) -> int:
        """Finds the slots of one class; returns how many thresholds it has."""
        scores_R = statistics.probabilities_RC[:, class_]
        own_R = np.flatnonzero(statistics.true_R == class_)
        thresholds, place = np.unique(scores_R[own_R], return_inverse=True)
        below_R = np.searchsorted(thresholds, scores_R, side="left")
        not_above_R = np.searchsorted(thresholds, scores_R, side="right")
        self._slot_CR.append((below_R + not_above_R).astype(np.int32))
        self._row_ids.append(own_R)
        self._row_thresholds.append(place)
        return len(thresholds)

    def areas(self, counted_R: Floats) -> tuple[float, float]:
        """Returns the macro ROC-AUC and average precision over the classes that define them."""
        roc_C, precision_C = self.areas_per_class(counted_R)
        return _defined_mean(roc_C), _defined_mean(precision_C)

    def areas_per_class(self, counted_R: Floats) -> tuple[Floats, Floats]:
        """Returns ROC-AUC and average precision for each of `classes`; NaN where undefined."""
        if not self.classes:
            return np.zeros(0), np.zeros(0)
        total = counted_R.sum()
        below_T, at_T = self._all_rows(counted_R)
        own_T = np.bincount(
            self._own_threshold_R, counted_R[self._own_R], minlength=len(self._class_T)
        )
        own_C = np.add.reduceat(own_T, self._starts_C)
        own_below_T = np.cumsum(own_T) - own_T - (np.cumsum(own_C) - own_C)[self._class_T]
        others_T = (below_T - own_below_T) + 0.5 * (at_T - own_T)
        found_T = own_C[self._class_T] - own_below_T
        precision_T = _divided(found_T, total - below_T)
        roc_C = np.add.reduceat(own_T * others_T, self._starts_C)
        area_C = np.add.reduceat(own_T * precision_T, self._starts_C)
        return _or_nan(roc_C, own_C * (total - own_C)), _or_nan(area_C, own_C)

    def _all_rows(self, counted_R: Floats) -> tuple[Floats, Floats]:
        """Returns how much counts strictly below, and exactly at, every threshold."""
        below_T = np.empty(len(self._class_T))
        at_T = np.empty(len(self._class_T))
        for slot_R, start, end in zip(self._slot_CR, self._starts_C, self._ends_C, strict=True):
            slots_S = np.bincount(slot_R, counted_R, 2 * int(end - start) + 1)
            at_T[start:end] = slots_S[1::2]
            below_T[start:end] = np.cumsum(slots_S)[0::2][:-1]
        return below_T, at_T


def _or_nan(part: Floats, whole: Floats) -> Floats:
    """Divides element by element; NaN where the divisor is 0."""
    return np.divide(part, whole, out=np.full_like(part, np.nan), where=whole > 0)


def _defined_mean(values: Floats) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")
