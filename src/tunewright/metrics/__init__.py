"""Measures answers: metrics, their intervals, comparisons, calibration, slices. Numpy only."""

from tunewright.metrics.bootstrap import bootstrap
from tunewright.metrics.calibration import (
    ANSWERS_NOTHING,
    fit_abstention,
    fit_temperature,
    softmax,
)
from tunewright.metrics.classification import (
    CLASSIFICATION_METRICS,
    ClassificationReducer,
    ClassificationStatistics,
    classification_metrics,
    prepare_classification,
)
from tunewright.metrics.compare import mcnemar, paired_bootstrap
from tunewright.metrics.slices import Slice, Slicer
from tunewright.metrics.spec import MetricSpec

__all__ = [
    "ANSWERS_NOTHING",
    "CLASSIFICATION_METRICS",
    "ClassificationReducer",
    "ClassificationStatistics",
    "MetricSpec",
    "Slice",
    "Slicer",
    "bootstrap",
    "classification_metrics",
    "fit_abstention",
    "fit_temperature",
    "mcnemar",
    "paired_bootstrap",
    "prepare_classification",
    "softmax",
]
