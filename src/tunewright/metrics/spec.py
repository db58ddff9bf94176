"""What a metric is called, which way is better, and what it means in one sentence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

Statistics = Mapping[str, npt.NDArray[Any]]
"""Per-row figures by name; every array has R rows."""

Counts = npt.NDArray[Any]
"""How often each of the R rows counts, from 0."""

Reduce = Callable[[Statistics, Counts | None], Mapping[str, float]]
"""Turns per-row figures into metrics; None for the counts means once each."""

Prepare = Callable[[Statistics], Callable[[Counts | None], Mapping[str, float]]]
"""Does once what does not depend on the counts, and returns the rest as a function of them."""


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """The name, the direction and the meaning of a metric."""

    name: str
    higher_is_better: bool = True
    help: str = ""
