from __future__ import annotations

import numpy as np
import pytest

from tests.metrics.test_bootstrap import MEAN, mean
from tunewright.metrics import Slicer

VALUES = np.array([1.0, 0.0, 1.0, 1.0, 0.0, 0.0])
SLICER = Slicer(mean, {"value": VALUES}, MEAN, num_resamples=20, min_rows=2)


def summary(slices):
    return [(each.name, each.num_rows, each.metrics["mean"].value) for each in slices]


def test_each_value_of_a_column_is_measured_alone():
    found = SLICER.by_value(["web", "shop", "web", "web", "shop", "shop"])
    assert summary(found) == [("shop", 3, 0.0), ("web", 3, 1.0)]


def test_rare_values_are_pooled():
    found = SLICER.by_value(["a", "a", "a", "b", "c", "d"], top=1)
    assert summary(found) == [("a", 3, pytest.approx(2 / 3)), ("3 others", 3, pytest.approx(1 / 3))]
    assert [each.is_pooled for each in found] == [False, True]


def test_small_slices_are_flagged():
    found = SLICER.by_value(["a", "a", "a", "b", "b", "c"])
    assert [(each.name, each.is_small) for each in found] == [
        ("a", False),
        ("b", False),
        ("c", True),
    ]


def test_rows_without_a_value_are_a_slice_of_their_own():
    found = SLICER.by_value([None, "", "a", "a", 7, 7.5])
    assert [(each.name, each.num_rows) for each in found] == [
        ("(empty)", 2),
        ("a", 2),
        ("7", 1),
        ("7.5", 1),
    ]


def test_slices_have_intervals():
    (found,) = SLICER.by_value(["all"] * 6)
    assert found.metrics["mean"].low < 0.5 < found.metrics["mean"].high


def test_lengths_are_cut_into_bands_of_equally_many_rows():
    slicer = Slicer(mean, {"value": np.ones(1200)}, MEAN, num_resamples=5)
    found = slicer.by_length(np.arange(1200) + 1, num_bands=3)
    assert [(each.name, each.num_rows) for each in found] == [
        ("1 to 400 tokens", 400),
        ("401 to 800 tokens", 400),
        ("801 to 1,200 tokens", 400),
    ]


def test_a_length_never_stands_in_two_bands():
    found = SLICER.by_length(np.array([5, 5, 5, 5, 5, 9]), unit="characters")
    assert [(each.name, each.num_rows) for each in found] == [
        ("5 characters", 5),
        ("9 characters", 1),
    ]


def test_no_rows_have_no_bands():
    assert Slicer(mean, {"value": np.zeros(0)}, MEAN).by_length(np.zeros(0, int)) == []


def test_a_slice_is_plain_json():
    (found,) = SLICER.by_value(["all"] * 6)
    metric = found.metrics["mean"]
    assert found.to_json() == {
        "name": "all",
        "num_rows": 6,
        "is_pooled": False,
        "is_small": False,
        "metrics": {
            "mean": {
                "value": 0.5,
                "low": metric.low,
                "high": metric.high,
                "higher_is_better": True,
            }
        },
    }
