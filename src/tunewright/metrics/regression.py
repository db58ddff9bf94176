"""The metrics of a regression, each equal to scipy's or scikit-learn's, for weighted rows.

    regression_metrics({"true": true_R, "predicted": predicted_R})["spearman"]

A row counts `counts_R` times, as if it stood in the data that often. Correlations of constant
values are NaN. Shape letters: R rows, U distinct values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from tunewright.metrics.spec import Counts, MetricSpec, Statistics

Floats = npt.NDArray[np.float64]

REGRESSION_METRICS = (
    MetricSpec("spearman", True, "correlation of the ranks of truth and prediction, -1 to 1"),
    MetricSpec("pearson", True, "linear correlation of truth and prediction, -1 to 1"),
    MetricSpec("mae", False, "mean absolute error, in the unit of the data"),
    MetricSpec("rmse", False, "root of the mean squared error, in the unit of the data"),
    MetricSpec("mse", False, "mean squared error"),
    MetricSpec("r2", True, "share of the variance explained; 0 is answering the mean"),
)


@dataclass(frozen=True)
class Ranks:
    """The values of rows by their order, so that ranks of any counts need no sorting.

    `place_R` is the place of each row's value among the distinct ones.
    """

    place_R: npt.NDArray[np.intp]
    num_distinct: int

    @classmethod
    def of(cls, values_R: Floats) -> Self:
        distinct, place_R = np.unique(values_R, return_inverse=True)
        return cls(place_R, len(distinct))

    def ranks(self, counts_R: Counts) -> Floats:
        """Returns each row's mean rank among rows that count `counts_R` times, from 1."""
        counts_U = np.bincount(self.place_R, counts_R, self.num_distinct)
        before_U = np.cumsum(counts_U) - counts_U
        return (before_U + (counts_U + 1) / 2)[self.place_R]


@dataclass(frozen=True)
class RegressionReducer:
    """The metrics of R rows as a function of their counts."""

    true_R: Floats
    predicted_R: Floats
    true_ranks: Ranks
    predicted_ranks: Ranks

    @classmethod
    def of(cls, statistics: Statistics) -> Self:
        true_R, predicted_R = (
            np.asarray(statistics[name], np.float64) for name in ("true", "predicted")
        )
        return cls(true_R, predicted_R, Ranks.of(true_R), Ranks.of(predicted_R))

    def __call__(self, counts_R: Counts | None = None) -> dict[str, float]:
        counts_R = np.ones(len(self.true_R)) if counts_R is None else counts_R
        total = float(counts_R.sum())
        if not total:
            return {spec.name: float("nan") for spec in REGRESSION_METRICS}
        error_R = self.predicted_R - self.true_R
        mse = float(counts_R @ error_R**2) / total
        spread = self.true_R - float(counts_R @ self.true_R) / total
        variance = float(counts_R @ spread**2) / total
        true_ranks_R = self.true_ranks.ranks(counts_R)
        predicted_ranks_R = self.predicted_ranks.ranks(counts_R)
        return {
            "spearman": correlation(true_ranks_R, predicted_ranks_R, counts_R),
            "pearson": correlation(self.true_R, self.predicted_R, counts_R),
            "mae": float(counts_R @ np.abs(error_R)) / total,
            "rmse": mse**0.5,
            "mse": mse,
            "r2": 1 - mse / variance if variance else float("nan"),
        }


def regression_metrics(statistics: Statistics, counts_R: Counts | None = None) -> dict[str, float]:
    """Returns every metric of rows with the figures `true` and `predicted`, each (R,)."""
    return RegressionReducer.of(statistics)(counts_R)


def correlation(left_R: Floats, right_R: Floats, counts_R: Counts) -> float:
    """Returns Pearson's correlation of rows that count `counts_R` times; NaN for constants."""
    total = float(counts_R.sum())
    left_R, right_R = (each - float(counts_R @ each) / total for each in (left_R, right_R))
    scale = float(counts_R @ left_R**2) * float(counts_R @ right_R**2)
    return float(counts_R @ (left_R * right_R)) / scale**0.5 if scale > 0 else float("nan")
