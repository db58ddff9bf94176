"""What a report may show of an evaluation, as plain values: pictures of it, tables and mistakes.

A task makes them from its statistics; the report only draws them. Nothing here knows torch, a
task, or a page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells under a header; numbers are set right and rounded by whoever draws it."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str | int | float]]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Bars:
    """One bar for each name; `unit` is what the values count or measure."""

    title: str
    values: Mapping[str, float]
    unit: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Scatter:
    """Points (x, y), such as true and predicted values; with `diagonal` the line x = y."""

    title: str
    x: Sequence[float]
    y: Sequence[float]
    x_label: str = ""
    y_label: str = ""
    diagonal: bool = False
    note: str = ""


@dataclass(frozen=True, slots=True)
class Lines:
    """Curves by name, each a list of (x, y)."""

    title: str
    curves: Mapping[str, Sequence[tuple[float, float]]]
    x_label: str = ""
    y_label: str = ""
    note: str = ""


Figure = Table | Bars | Scatter | Lines


@dataclass(frozen=True, slots=True)
class Mistake:
    """A wrong answer, how sure the model was of it, where the row stands and what it says."""

    where: str
    text: str
    true: Any
    predicted: Any
    score: float | None
