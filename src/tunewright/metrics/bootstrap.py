"""The 95 % intervals of metrics: the rows are drawn again with replacement, many times.

Percentile bootstrap, Efron & Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13. A
metric that is the same in every resample (all answers right) gets an interval of width 0, although
the truth may lie below it.

Shape letters: R rows, B resamples, M metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from tunewright.metrics.spec import Counts, MetricSpec, Prepare, Reduce, Statistics
from tunewright.types import Estimate

Floats = npt.NDArray[np.float64]
Reducer = Callable[[Counts | None], Mapping[str, float]]

MAX_NUMBERS = 4_000_000_000
"""A bootstrap looks at no more per-row numbers than this: about 10 s on one core."""

MIN_RESAMPLES = 100
"""Fewer give no usable 2.5 % point; with so many numbers the interval is narrow anyway."""


def bootstrap(
    reduce: Reduce,
    statistics: Statistics,
    specs: Sequence[MetricSpec],
    num_resamples: int = 1000,
    seed: int = 0,
    prepare: Prepare | None = None,
) -> dict[str, Estimate]:
    """Returns each metric of `specs` that `reduce` gives, with its 95 % percentile interval.

    `prepare`, where a task has one, does the work that all resamples share only once; it must
    agree with `reduce`. Resamples in which a metric is undefined are left out of its interval;
    the interval is NaN where there are fewer than two rows or two defined resamples. Very large
    data get fewer resamples: `affordable_resamples` says how many.
    """
    reducer = prepared(reduce, statistics, prepare)
    point = reducer(None)
    kept = [spec for spec in specs if spec.name in point]
    num_rows = count_rows(statistics)
    num_resamples = affordable_resamples(statistics, num_resamples)
    values_BM = resampled(reducer, num_rows, [spec.name for spec in kept], num_resamples, seed)
    return {
        spec.name: Estimate(
            float(point[spec.name]), *interval(values_BM[:, column]), spec.higher_is_better
        )
        for column, spec in enumerate(kept)
    }


def prepared(reduce: Reduce, statistics: Statistics, prepare: Prepare | None) -> Reducer:
    """Returns the metrics as a function of the counts alone."""
    if prepare is not None:
        return prepare(statistics)
    return lambda counts_R: reduce(statistics, counts_R)


def count_rows(statistics: Statistics) -> int:
    """Returns R; all figures must have the same number of rows."""
    lengths = {len(figures) for figures in statistics.values()}
    if len(lengths) != 1:
        raise ValueError(f"per-row figures need one common number of rows, not {sorted(lengths)}")
    return lengths.pop()


def affordable_resamples(statistics: Statistics, wanted: int) -> int:
    """Returns how many resamples are drawn: `wanted`, or fewer on very large data.

    1000 are kept up to 4 million per-row numbers, such as 50,000 rows of 77 classes.
    """
    numbers = max(1, sum(figures.size for figures in statistics.values()))
    return min(wanted, max(MIN_RESAMPLES, MAX_NUMBERS // numbers))


def resampled(
    reducer: Reducer, num_rows: int, names: Sequence[str], num_resamples: int, seed: int
) -> Floats:
    """Returns the named metrics of every resample, (B, M); no resamples of fewer than two rows."""
    if num_rows < 2:
        return np.zeros((0, len(names)))
    values_BM = np.empty((num_resamples, len(names)))
    for index, counts_R in enumerate(resample_counts(num_rows, num_resamples, seed)):
        metrics = reducer(counts_R)
        values_BM[index] = [metrics[name] for name in names]
    return values_BM


def resample_counts(num_rows: int, num_resamples: int, seed: int) -> Iterator[Counts]:
    """Yields how often each of R rows is drawn in R draws with replacement, int64."""
    rng = np.random.Generator(np.random.PCG64(seed))
    for _ in range(num_resamples):
        yield np.bincount(rng.integers(num_rows, size=num_rows), minlength=num_rows)


def interval(values_B: Floats) -> tuple[float, float]:
    """Returns the 2.5 % and 97.5 % points of the defined values; NaN for fewer than two."""
    defined = values_B[~np.isnan(values_B)]
    if len(defined) < 2:
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [0.025, 0.975])
    return float(low), float(high)
