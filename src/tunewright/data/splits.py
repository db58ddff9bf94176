"""Cuts one data set into training, validation and test rows: stratified, random, grouped, by time.

Only row numbers are made here; no row is read or copied. The same rows, settings and seed give the
same parts on every machine: the only randomness is numpy's PCG64, whose stream is fixed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from tunewright.errors import DataError, SettingsError

Indices = npt.NDArray[np.int64]


Method = Literal["stratified", "random", "group", "time"]


class SplitConfig(BaseModel):
    """How the rows are divided when no validation or test file is given."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Method | None = Field(
        default=None,
        description="How rows are chosen: 'stratified' keeps each class's share in every part, "
        "'random' ignores classes, 'group' keeps the rows of one group in one part, 'time' puts "
        "the newest rows in test and the next newest in validation; when absent 'group' or 'time' "
        "if its column is named, else 'stratified'.",
    )
    validation: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        description="Share of all rows for validation, 0 <= share < 1; 0 makes none.",
    )
    test: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        description="Share of all rows for test, 0 <= share < 1; 0 makes none.",
    )
    seed: int = Field(
        default=42,
        ge=0,
        description="Seed of the split, an integer from 0; the same seed gives the same split. "
        "'time' does not use it.",
    )
    group_column: str | None = Field(
        default=None,
        description="Column that names a row's group (author, document, patient) for "
        "method = 'group', which it asks for; off when absent.",
    )
    time_column: str | None = Field(
        default=None,
        description="Column with a number or an ISO 8601 date for method = 'time', which it asks "
        "for; off when absent.",
    )

    @model_validator(mode="after")
    def _check_whole(self) -> Self:
        if self.validation + self.test >= 1:
            raise ValueError("validation + test must stay under 1, so that rows are left to train")
        if self.method == "group" and self.group_column is None:
            raise ValueError("method 'group' needs group_column")
        if self.method == "time" and self.time_column is None:
            raise ValueError("method 'time' needs time_column")
        if self.method is None and None not in (self.group_column, self.time_column):
            raise ValueError("group_column and time_column are named: say which method is meant")
        return self

    @property
    def chosen(self) -> Method:
        """The method: that which is named, or whose column is."""
        named = (name for name, column in self._columns.items() if column is not None)
        return self.method if self.method is not None else next(named, "stratified")

    def check_columns(self) -> None:
        """Raises SettingsError for a column that the method does not read.

        What belongs together would be divided.
        """
        for name, column in self._columns.items():
            if column is not None and name != self.chosen:
                raise SettingsError(
                    f"data.split.{name}_column",
                    f"it is given, and data.split.method is {self.chosen}",
                    f"It is read by the method {name}.",
                    f"Write data.split.method={name}, or leave the column out.",
                )

    @property
    def _columns(self) -> dict[Method, str | None]:
        return {"group": self.group_column, "time": self.time_column}


@dataclass(frozen=True, slots=True)
class Split:
    """Row numbers of the three parts: int64, sorted, disjoint, together every row."""

    train: Indices
    validation: Indices
    test: Indices


def split(
    labels: Sequence[Any] | None,
    num_rows: int,
    config: SplitConfig,
    groups: Sequence[Any] | None = None,
    times: Sequence[Any] | None = None,
) -> Split:
    """Returns which rows train, which validate and which test.

    `labels` are the classes of the rows, or None for tasks that have none: 'stratified' is
    'random' then. A part whose share is over 0 gets at least one row as long as training keeps
    one; a stratified split also leaves every class at least one training row, so that a class with
    a single row is never tested on.

    Raises DataError when a row has no group or no readable time, or when there are fewer groups
    than parts.
    """
    for column in (labels, groups, times):
        if column is not None and len(column) != num_rows:
            raise ValueError(f"{len(column)} values for {num_rows} rows")
    rng = np.random.Generator(np.random.PCG64(config.seed))
    if config.chosen == "group":
        parts = _by_group(_required(groups, "groups"), config, rng)
    elif config.chosen == "time":
        parts = _by_time(_required(times, "times"), config)
    elif config.chosen == "stratified" and labels is not None:
        parts = _stratified(_numbered(labels), config, rng)
    else:
        parts = _in_order(rng.permutation(num_rows), config)
    return _sorted_split(parts)


TRAIN, VALIDATION, TEST = 0, 1, 2


def _required(column: Sequence[Any] | None, name: str) -> Sequence[Any]:
    if column is None:
        raise ValueError(f"this split method needs {name}")
    return column


def _sorted_split(part_R: npt.NDArray[np.int8]) -> Split:
    """Turns the part of each row into the row numbers of each part."""
    train, validation, test = (
        np.flatnonzero(part_R == part).astype(np.int64) for part in (TRAIN, VALIDATION, TEST)
    )
    return Split(train, validation, test)


def _wanted(num_rows: int, config: SplitConfig) -> tuple[int, int]:
    """Returns how many rows validation and test get; training always keeps one."""
    room = max(num_rows - 1, 0)
    test = min(_share(num_rows, config.test), room)
    return min(_share(num_rows, config.validation), room - test), test


def _share(num_rows: int, fraction: float) -> int:
    return max(1, round(num_rows * fraction)) if fraction > 0 else 0


def _in_order(order_R: npt.NDArray[np.int64], config: SplitConfig) -> npt.NDArray[np.int8]:
    """Gives the last rows of an order to test, those before them to validation."""
    num_rows = len(order_R)
    validation, test = _wanted(num_rows, config)
    part_R = np.zeros(num_rows, dtype=np.int8)
    part_R[order_R[num_rows - test :]] = TEST
    part_R[order_R[num_rows - test - validation : num_rows - test]] = VALIDATION
    return part_R


def _numbered(values: Sequence[Any]) -> npt.NDArray[np.int64]:
    """Numbers equal values alike in order of appearance; 1, "1" and True stay apart."""
    known: dict[str, int] = {}
    return np.fromiter(
        (known.setdefault(repr(value), len(known)) for value in values), np.int64, len(values)
    )


def _stratified(
    class_R: npt.NDArray[np.int64], config: SplitConfig, rng: np.random.Generator
) -> npt.NDArray[np.int8]:
    """Divides each class by itself; the parts' sizes still add up to the shares of the whole."""
    num_rows = len(class_R)
    rows_C = np.bincount(class_R)
    validation, test = _wanted(num_rows, config)
    tie_C = rng.permutation(len(rows_C))
    test_C = _apportioned(rows_C, config.test, test, rows_C - 1, tie_C)
    validation_C = _apportioned(rows_C, config.validation, validation, rows_C - 1 - test_C, tie_C)
    order_R = rng.permutation(num_rows)
    order_R = order_R[np.argsort(class_R[order_R], kind="stable")]
    starts_C = np.cumsum(rows_C) - rows_C
    place_R = np.arange(num_rows) - np.repeat(starts_C, rows_C)
    in_test_R = place_R < np.repeat(test_C, rows_C)
    in_either_R = place_R < np.repeat(test_C + validation_C, rows_C)
    part_R = np.zeros(num_rows, dtype=np.int8)
    part_R[order_R] = np.where(in_test_R, TEST, np.where(in_either_R, VALIDATION, TRAIN))
    return part_R


def _apportioned(
    rows_C: npt.NDArray[np.int64],
    fraction: float,
    total: int,
    room_C: npt.NDArray[np.int64],
    tie_C: npt.NDArray[np.int64],
) -> npt.NDArray[np.int64]:
    """Shares `total` rows among classes by the largest remainder, never past a class's room.

    `tie_C` is a random order that decides between equal remainders.
    """
    exact_C = rows_C * fraction
    given_C: Indices = np.minimum(np.floor(exact_C).astype(np.int64), room_C)
    remainder_C = exact_C - given_C
    for class_ in np.lexsort((tie_C, -remainder_C)):
        if given_C.sum() >= total:
            break
        if given_C[class_] < room_C[class_]:
            given_C[class_] += 1
    return given_C


def _by_group(
    groups: Sequence[Any], config: SplitConfig, rng: np.random.Generator
) -> npt.NDArray[np.int8]:
    """Fills test, then validation, with whole groups in random order; the rest trains.

    A group joins a part while that brings the part's size nearer to its share. A part that would
    stay empty because all groups are too large takes the smallest one.
    """
    _check_groups(groups, config)
    group_R = _numbered(groups)
    rows_G = np.bincount(group_R)
    _check_group_count(len(rows_G), config)
    part_G = np.zeros(len(rows_G), dtype=np.int8)
    order_G = rng.permutation(len(rows_G))
    for part, fraction in ((TEST, config.test), (VALIDATION, config.validation)):
        free_G = order_G[part_G[order_G] == TRAIN]
        reserved = 1 + (part == TEST and config.validation > 0)
        chosen = _filled(free_G, rows_G, _share(len(groups), fraction), reserved)
        part_G[chosen] = part
    return part_G[group_R]


def _filled(
    free_G: npt.NDArray[np.int64], rows_G: npt.NDArray[np.int64], target: int, reserved: int
) -> list[int]:
    """Returns groups whose rows add up to about `target`, leaving `reserved` groups untouched."""
    chosen: list[int] = []
    size = 0
    for group in free_G.tolist():
        if len(free_G) - len(chosen) <= reserved:
            break
        if size + rows_G[group] / 2 <= target and size < target:
            chosen.append(group)
            size += int(rows_G[group])
    if not chosen and target and len(free_G) > reserved:
        chosen.append(int(free_G[np.argmin(rows_G[free_G])]))
    return chosen


def _check_groups(groups: Sequence[Any], config: SplitConfig) -> None:
    missing = [index for index, group in enumerate(groups) if _is_missing(group)]
    if missing:
        raise DataError(
            f'column "{config.group_column}"',
            f"{len(missing)} of {len(groups)} rows have no group (first: row {missing[0]})",
            "A split by group needs one for every row.",
            "Fill the column, or choose another data.split.method.",
        )


def _check_group_count(num_groups: int, config: SplitConfig) -> None:
    num_parts = 1 + (config.validation > 0) + (config.test > 0)
    if 0 < num_groups < num_parts:
        raise DataError(
            f'column "{config.group_column}"',
            f"{num_groups} different group{'s' * (num_groups > 1)}",
            f"A split into {num_parts} parts needs at least {num_parts} groups.",
            "Choose another data.split.group_column, or set data.split.validation=0 or "
            "data.split.test=0.",
        )


def _is_missing(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def _by_time(times: Sequence[Any], config: SplitConfig) -> npt.NDArray[np.int8]:
    """Gives the newest rows to test; of equal times the later row counts as newer."""
    seconds_R = _read_times(times, config)
    return _in_order(np.argsort(seconds_R, kind="stable"), config)


def _read_times(times: Sequence[Any], config: SplitConfig) -> npt.NDArray[np.float64]:
    """Reads every time as a number, or else every time as a date in seconds since 1970 UTC."""
    numbers = [_number(value) for value in times]
    if None not in numbers:
        return np.array(numbers, dtype=np.float64)
    dates = [_timestamp(value) for value in times]
    if None in dates:
        bad = dates.index(None)
        raise DataError(
            f'column "{config.time_column}"',
            f"row {bad} holds {times[bad]!r}",
            "A split by time needs a number in every row, or a date such as 2024-05-31 or "
            "2024-05-31T18:00 in every row.",
            "Correct the column, or choose another data.split.method.",
        )
    return np.array(dates, dtype=np.float64)


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (str, int, float, np.number)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _timestamp(value: Any) -> float | None:
    """Returns seconds since 1970; a time without a zone is taken as UTC."""
    try:
        if isinstance(value, np.datetime64):
            value = value.astype("datetime64[us]").item()
        if isinstance(value, str):
            value = datetime.fromisoformat(value.strip())
        if isinstance(value, date) and not isinstance(value, datetime):
            value = datetime(value.year, value.month, value.day)
        if not isinstance(value, datetime):
            return None
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
