"""What a report draws of a classifier: confusion matrix, ROC and PR curves, reliability, classes.

Shape letters: R rows, C classes, P points.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tunewright.metrics.classification import (
    NUM_BINS,
    ClassificationStatistics,
    Floats,
    Ints,
    Ranking,
    confidence_bins,
)


@dataclass(frozen=True, slots=True)
class Curve:
    """Points of a curve and the score from which on a row counts as positive, highest first.

    ROC: `x_P` false positive rate, `y_P` true positive rate. PR: `x_P` recall, `y_P` precision.
    The first threshold is infinite: no row is positive there.
    """

    x_P: Floats
    y_P: Floats
    threshold_P: Floats


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """The rows whose confidence is over `low` and at most `high`: is it deserved?

    `confidence` and `accuracy` are means over the bin's rows, NaN in an empty one.
    """

    low: float
    high: float
    num_rows: int
    confidence: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class ClassFigures:
    """How the model does on one class, against the rest. NaN where undefined.

    `index` is the class's number, -1 for all classes that the model has never seen together.
    """

    index: int
    num_rows: int
    num_predicted: int
    precision: float
    recall: float
    f1: float
    roc_auc: float
    pr_auc: float


def confusion_matrix(statistics: ClassificationStatistics) -> Ints:
    """Returns how many rows of each true class got each prediction, int64 (C, C).

    When some rows are of classes that the model has never seen, they are one more last row.
    """
    num_classes = statistics.num_classes
    has_unseen = bool((statistics.true_R < 0).any())
    matrix = np.zeros((num_classes + has_unseen, num_classes), dtype=np.int64)
    np.add.at(matrix, (statistics.true_R, statistics.predicted_R), 1)
    return matrix


def roc_curve(positive_R: npt.NDArray[Any], scores_R: npt.NDArray[Any]) -> Curve:
    """Returns the ROC curve, one point per distinct score; NaN rates where one side is empty."""
    true_P, false_P, threshold_P = _cumulated(positive_R, scores_R)
    return Curve(_rate(false_P), _rate(true_P), threshold_P)


def pr_curve(positive_R: npt.NDArray[Any], scores_R: npt.NDArray[Any]) -> Curve:
    """Returns the precision-recall curve, one point per distinct score, from recall 0 upwards.

    The precision of no positive rows at all is drawn as 1, as scikit-learn does.
    """
    true_P, false_P, threshold_P = _cumulated(positive_R, scores_R)
    called_P = true_P + false_P
    precision_P = np.divide(true_P, called_P, out=np.ones_like(true_P), where=called_P > 0)
    return Curve(_rate(true_P), precision_P, threshold_P)


def thinned(curve: Curve, max_points: int = 200) -> Curve:
    """Returns at most about `max_points` points of a curve, its ends and corners kept in shape.

    Half of the points are even in x and half in y, so that steep and flat parts both keep theirs.
    """
    num_points = len(curve.x_P)
    if num_points <= max_points:
        return curve
    half = max_points // 2
    kept = np.unique(
        np.concatenate(
            [_even(curve.x_P, half), _even(curve.y_P, half), np.array([0, num_points - 1])]
        )
    )
    return Curve(curve.x_P[kept], curve.y_P[kept], curve.threshold_P[kept])


def reliability_bins(
    statistics: ClassificationStatistics, num_bins: int = NUM_BINS
) -> list[ReliabilityBin]:
    """Returns confidence and accuracy of `num_bins` equally wide bins of confidence in [0, 1]."""
    bin_R = confidence_bins(statistics, num_bins)
    rows = np.bincount(bin_R, minlength=num_bins)
    confidence = np.bincount(bin_R, statistics.confidence, num_bins)
    right = np.bincount(bin_R, statistics.correct, num_bins)
    return [
        ReliabilityBin(
            index / num_bins,
            (index + 1) / num_bins,
            int(rows[index]),
            float(confidence[index] / rows[index]) if rows[index] else float("nan"),
            float(right[index] / rows[index]) if rows[index] else float("nan"),
        )
        for index in range(num_bins)
    ]


def class_figures(statistics: ClassificationStatistics) -> list[ClassFigures]:
    """Returns the table of classes in their order; unseen ones, if any, come last as -1."""
    matrix = confusion_matrix(statistics)
    ranking = Ranking(statistics, None)
    areas = ranking.areas_per_class(np.ones(statistics.num_rows))
    roc, precision = (dict(zip(ranking.classes, area.tolist(), strict=True)) for area in areas)
    table = [
        _figures(matrix, index, roc.get(index), precision.get(index))
        for index in range(statistics.num_classes)
    ]
    if len(matrix) > statistics.num_classes:
        unseen = int(matrix[-1].sum())
        table.append(ClassFigures(-1, unseen, 0, 0.0, 0.0, 0.0, float("nan"), float("nan")))
    return table


def _figures(matrix: Ints, index: int, roc_auc: float | None, pr_auc: float | None) -> ClassFigures:
    num_rows, num_predicted = int(matrix[index].sum()), int(matrix[:, index].sum())
    right = int(matrix[index, index])
    return ClassFigures(
        index,
        num_rows,
        num_predicted,
        right / num_predicted if num_predicted else 0.0,
        right / num_rows if num_rows else 0.0,
        2 * right / (num_rows + num_predicted) if num_rows + num_predicted else 0.0,
        float("nan") if roc_auc is None else roc_auc,
        float("nan") if pr_auc is None else pr_auc,
    )


def _cumulated(
    positive_R: npt.NDArray[Any], scores_R: npt.NDArray[Any]
) -> tuple[Floats, Floats, Floats]:
    """Counts true and false positives at every distinct score from the highest down."""
    order_R = np.argsort(-scores_R, kind="stable")
    scores_R, positive_R = scores_R[order_R], positive_R[order_R].astype(np.float64)
    if not len(scores_R):
        return np.zeros(1), np.zeros(1), np.array([np.inf])
    ends_P = np.append(np.flatnonzero(np.diff(scores_R)), len(scores_R) - 1)
    true_P = np.cumsum(positive_R)[ends_P]
    false_P = ends_P + 1 - true_P
    return (
        np.append(0.0, true_P),
        np.append(0.0, false_P),
        np.append(np.inf, scores_R[ends_P]).astype(np.float64),
    )


def _rate(cumulated_P: Floats) -> Floats:
    """Divides by the last count; NaN when it is 0."""
    if not cumulated_P[-1]:
        return np.full_like(cumulated_P, np.nan)
    return np.asarray(cumulated_P / cumulated_P[-1])


def _even(values_P: Floats, num_points: int) -> Ints:
    """Returns places whose values lie about evenly between the lowest and the highest."""
    if np.isnan(values_P).any():
        return np.zeros(0, dtype=np.int64)
    order_P = np.argsort(values_P, kind="stable")
    wanted = np.linspace(values_P.min(), values_P.max(), num_points)
    places = np.searchsorted(values_P[order_P], wanted).clip(0, len(values_P) - 1)
    return np.asarray(order_P[places], dtype=np.int64)
