from __future__ import annotations

from tunewright.cli.show import HEADLINES, MAX_METRICS, metrics_table
from tunewright.metrics.multilabel import MULTI_LABEL_METRICS
from tunewright.types import Estimate


def names_shown(names):
    table = metrics_table("test", {name: Estimate(0.5, 0.4, 0.6) for name in names}, HEADLINES)
    return list(table.columns[0].cells)


def test_of_many_metrics_the_headlines_are_shown():
    names = ["accuracy", *(f"metric_{n}" for n in range(MAX_METRICS)), "mcc"]
    assert names_shown(names) == ["accuracy", "mcc"]


def test_few_metrics_are_shown_whole_and_so_are_many_without_headlines():
    names = [spec.name for spec in MULTI_LABEL_METRICS]
    assert names_shown(names) == names
    many = [f"metric_{n}" for n in range(MAX_METRICS + 1)]
    assert names_shown(many) == many
