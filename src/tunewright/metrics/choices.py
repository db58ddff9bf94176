"""The metrics of choosing one of several answers, whose number may differ from row to row.

    choice_metrics({"rank": rank_R, "log_probability": log_probability_R})["accuracy"]

Shape letters: R rows.
"""

from __future__ import annotations

import numpy as np

from tunewright.metrics.spec import Counts, MetricSpec, Statistics

CHOICE_METRICS = (
    MetricSpec("accuracy", True, "share of rows whose choice is right"),
    MetricSpec("mrr", True, "mean of 1 / rank of the right choice"),
    MetricSpec("log_loss", False, "mean negative log probability of the right choice, in nats"),
)


def choice_metrics(statistics: Statistics, counts_R: Counts | None = None) -> dict[str, float]:
    """Returns every metric of rows that count `counts_R` times; NaN of no rows.

    `rank` is 1 where the right choice has the highest score, and `log_probability` its, in nats.
    """
    rank_R = statistics["rank"]
    counts_R = np.ones(len(rank_R)) if counts_R is None else counts_R
    total = float(counts_R.sum())
    figures = {
        "accuracy": rank_R == 1,
        "mrr": 1 / rank_R,
        "log_loss": -statistics["log_probability"],
    }
    return {
        name: float(counts_R @ figure_R) / total if total else float("nan")
        for name, figure_R in figures.items()
    }
