"""The same metrics for parts of the data: where does the model do worse?

Shape letters: R rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tunewright.metrics.bootstrap import bootstrap
from tunewright.metrics.spec import MetricSpec, Prepare, Reduce, Statistics
from tunewright.types import Estimate

MIN_ROWS = 50
"""Below this a slice is flagged: the interval of an accuracy of 0.9 is wider than 0.16."""


@dataclass(frozen=True, slots=True)
class Slice:
    """The metrics of the rows that share a value, or a band of lengths.

    `name` is what is shown. `is_pooled` marks the remaining values taken together, `is_small` a
    slice with so few rows that its figures say little.
    """

    name: str
    num_rows: int
    metrics: Mapping[str, Estimate]
    is_pooled: bool = False
    is_small: bool = False

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "num_rows": self.num_rows,
            "is_pooled": self.is_pooled,
            "is_small": self.is_small,
            "metrics": {name: estimate.to_json() for name, estimate in self.metrics.items()},
        }


class Slicer:
    """Measures slices of one data set; holds what all of them share."""

    def __init__(
        self,
        reduce: Reduce,
        statistics: Statistics,
        specs: Sequence[MetricSpec],
        prepare: Prepare | None = None,
        num_resamples: int = 300,
        seed: int = 0,
        min_rows: int = MIN_ROWS,
    ) -> None:
        """`num_resamples` is lower than for the whole: there are many slices to measure."""
        self._reduce, self._statistics, self._specs = reduce, statistics, specs
        self._prepare, self._num_resamples, self._seed = prepare, num_resamples, seed
        self._min_rows = min_rows

    def by_value(self, values_R: Sequence[Any], top: int = 10) -> list[Slice]:
        """Returns one slice for each of the `top` commonest values, then the others pooled."""
        names = ["(empty)" if value is None or value == "" else str(value) for value in values_R]
        commonest = [name for name, _ in _by_count(Counter(names))[:top]]
        name_R = np.array(names, dtype=object)
        slices = [self._slice(name, name_R == name) for name in commonest]
        num_others = len(set(names)) - len(commonest)
        if num_others:
            rest_R = ~np.isin(name_R, commonest)
            slices.append(self._slice(f"{num_others} others", rest_R, is_pooled=True))
        return slices

    def by_length(
        self, lengths_R: npt.NDArray[Any], unit: str = "tokens", num_bands: int = 4
    ) -> list[Slice]:
        """Returns slices of about equally many rows, from the shortest to the longest."""
        if not len(lengths_R):
            return []
        inner = np.quantile(lengths_R, np.linspace(0, 1, num_bands + 1)[1:-1], method="lower")
        band_R = np.searchsorted(np.unique(inner), lengths_R, side="left")
        slices = []
        for band in np.unique(band_R):
            in_band_R = band_R == band
            low, high = lengths_R[in_band_R].min(), lengths_R[in_band_R].max()
            name = f"{low:,} {unit}" if low == high else f"{low:,} to {high:,} {unit}"
            slices.append(self._slice(name, in_band_R))
        return slices

    def _slice(self, name: str, chosen_R: npt.NDArray[np.bool_], is_pooled: bool = False) -> Slice:
        part = {key: figures[chosen_R] for key, figures in self._statistics.items()}
        metrics = bootstrap(
            self._reduce, part, self._specs, self._num_resamples, self._seed, self._prepare
        )
        num_rows = int(chosen_R.sum())
        return Slice(name, num_rows, metrics, is_pooled, num_rows < self._min_rows)


def _by_count(counts: Counter[str]) -> list[tuple[str, int]]:
    """Sorts from the commonest; equally common ones by name."""
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))
