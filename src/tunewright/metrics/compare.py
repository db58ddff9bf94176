"""Is one model better than another on the same rows? Paired bootstrap and McNemar's test."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tunewright.metrics.bootstrap import (
    Floats,
    affordable_resamples,
    count_rows,
    interval,
    prepared,
    resampled,
)
from tunewright.metrics.spec import MetricSpec, Prepare, Reduce, Statistics
from tunewright.types import Estimate

MAX_EXACT = 1000
"""Discordant rows up to which McNemar's test is exact; beyond, chi-square agrees to 3 digits."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A metric of two models on the same rows.

    `difference` is b - a with its 95 % interval. `p_value` is two-sided: how often resampling
    crosses from one side of no difference to the other; 1 for equal models, NaN where undefined.
    """

    a: float
    b: float
    difference: Estimate
    p_value: float


@dataclass(frozen=True, slots=True)
class McNemar:
    """McNemar's test of two models' right answers.

    `only_a` and `only_b` count rows that one model alone has right. `statistic` is chi-square with
    continuity correction. `p_value` is the exact binomial one when `exact`, else chi-square's.
    """

    only_a: int
    only_b: int
    statistic: float
    p_value: float
    exact: bool


def paired_bootstrap(
    reduce: Reduce,
    statistics_a: Statistics,
    statistics_b: Statistics,
    specs: Sequence[MetricSpec],
    num_resamples: int = 1000,
    seed: int = 0,
    prepare: Prepare | None = None,
) -> dict[str, Difference]:
    """Returns b - a for each metric of `specs` that both have; both see the same resamples.

    Row k of both statistics must be the same row. The p-value is 2 min(P(d <= 0), P(d >= 0))
    over the resampled differences d, at least 2 / (B + 1) (Efron & Tibshirani 1993, chapter 15).
    """
    num_rows = count_rows(statistics_a)
    if num_rows != count_rows(statistics_b):
        raise ValueError(f"{num_rows} rows cannot be paired with {count_rows(statistics_b)}")
    num_resamples = min(
        affordable_resamples(statistics, num_resamples)
        for statistics in (statistics_a, statistics_b)
    )
    reduce_a = prepared(reduce, statistics_a, prepare)
    reduce_b = prepared(reduce, statistics_b, prepare)
    point_a, point_b = reduce_a(None), reduce_b(None)
    kept = [spec for spec in specs if spec.name in point_a and spec.name in point_b]
    names = [spec.name for spec in kept]
    values_BM = resampled(reduce_b, num_rows, names, num_resamples, seed) - resampled(
        reduce_a, num_rows, names, num_resamples, seed
    )
    return {
        spec.name: _difference(
            float(point_a[spec.name]), float(point_b[spec.name]), values_BM[:, column], spec
        )
        for column, spec in enumerate(kept)
    }


def _difference(a: float, b: float, values_B: Floats, spec: MetricSpec) -> Difference:
    estimate = Estimate(b - a, *interval(values_B), spec.higher_is_better)
    return Difference(a, b, estimate, _two_sided(values_B))


def _two_sided(values_B: Floats) -> float:
    """Counts the point estimate as one more resample on each side, so that p is never 0."""
    defined = values_B[~np.isnan(values_B)]
    if len(defined) < 2:
        return float("nan")
    fewer = min(int((defined <= 0).sum()), int((defined >= 0).sum()))
    return min(1.0, 2 * (fewer + 1) / (len(defined) + 1))


def mcnemar(correct_a_R: npt.NDArray[Any], correct_b_R: npt.NDArray[Any]) -> McNemar:
    """Returns whether two models are right on different rows by more than chance (McNemar 1947).

    Exact two-sided binomial up to 1,000 discordant rows, beyond that chi-square with continuity
    correction (Edwards 1948), which is the same to three digits there.
    """
    right_a_R, right_b_R = correct_a_R.astype(bool), correct_b_R.astype(bool)
    only_a = int((right_a_R & ~right_b_R).sum())
    only_b = int((~right_a_R & right_b_R).sum())
    discordant = only_a + only_b
    statistic = max(0, abs(only_a - only_b) - 1) ** 2 / discordant if discordant else 0.0
    exact = discordant <= MAX_EXACT
    p_value = _binomial(only_a, only_b) if exact else math.erfc(math.sqrt(statistic / 2))
    return McNemar(only_a, only_b, statistic, p_value, exact)


def _binomial(successes: int, failures: int) -> float:
    """Returns the two-sided p-value of a fair coin, in whole numbers until the last division."""
    tosses = successes + failures
    tail = sum(math.comb(tosses, k) for k in range(min(successes, failures) + 1))
    return float(min(1.0, 2 * tail / 2**tosses))
