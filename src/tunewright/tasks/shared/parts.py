"""The parts of a multi-task, and what belongs to which: streams, outputs, figures and rows.

{"mood/text": stream}  <->  "mood", {"text": stream}
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
from torch.nn import ModuleDict

from tunewright.data import is_blank, is_missing
from tunewright.errors import DataError, SettingsError, listed
from tunewright.models.batch import Batch
from tunewright.tasks import LABELS, find_task
from tunewright.tasks.base import Statistics, Task, build_task
from tunewright.types import Features, Row, Rows

# Stands between a part's name and what belongs to it: a stream, an output, a figure, a metric.
BETWEEN = "/"


def build_part(name: str, settings: Mapping[str, Any]) -> Task:
    """Returns a part from its settings; raises SettingsError for what cannot be one."""
    where = f"[task.parts.{name}]"
    options = {key: value for key, value in settings.items() if key != "name"}
    if not name or BETWEEN in name or "." in name or hasattr(ModuleDict(), name):
        raise SettingsError(
            where,
            f'a part is called "{name}"',
            f'It must not hold "{BETWEEN}" or ".", or be a word that PyTorch has taken.',
            "Call it otherwise.",
        )
    if "name" not in settings:
        raise SettingsError(where, "it has no name", 'Name its task: name = "text-classification".')
    task_class = find_task(settings["name"])
    if task_class.name == "multi-task":
        raise SettingsError(where, "a part cannot be a multi-task itself")
    if task_class.picture_roles:
        raise SettingsError(
            where,
            f"{task_class.name} reads pictures",
            "The parts share a backbone that reads texts.",
            "Train it by itself.",
        )
    return build_task(task_class, options, where)


def part_settings(task: Task) -> dict[str, Any]:
    """Returns the settings that make a part again."""
    known = {item.name: getattr(task, item.name) for item in fields(task)}  # type: ignore[arg-type]
    return {"name": task.name, **known}


def own_folder(source: Path, name: str) -> Path:
    """Returns the folder that a part begins from: its own where the model is a multi-task's."""
    own = source / folder_of(name)
    return own if own.is_dir() else source


def has_own(task: Task, method: str) -> bool:
    """Says whether a task does something in a way of its own."""
    return getattr(type(task), method) is not getattr(Task, method)


def folder_of(name: str) -> str:
    """Returns where a part's model lies in the folder of the multi-task, unless it is the first."""
    return f"parts/{name}"


def joined(name: str, key: str) -> str:
    return f"{name}{BETWEEN}{key}"


def split_key(key: str) -> tuple[str, str]:
    """Returns the part of a key, and what is left of it."""
    name, _, rest = key.partition(BETWEEN)
    return name, rest


def prefixed(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {joined(name, key): value for key, value in values.items()}


def bare(values: Mapping[str, Any]) -> dict[str, Any]:
    return {split_key(key)[1]: value for key, value in values.items()}


def name_in(features: Features) -> str:
    """Returns the part that features belong to."""
    return split_key(next(iter(features.streams)))[0]


def named(name: str, features: Features) -> Features:
    return replace(features, streams=prefixed(name, features.streams))


def plain(features: Features) -> Features:
    """Returns features as the part itself made them."""
    return replace(features, streams=bare(features.streams))


def plain_batch(batch: Batch) -> tuple[str, Batch]:
    """Returns the part that a batch belongs to, and the batch as the part itself would have it."""
    name, _ = split_key(next(iter(batch.streams)))
    return name, replace(batch, streams=bare(batch.streams))


def own_statistics(name: str, statistics: Statistics) -> dict[str, np.ndarray]:
    """Returns the figures of a part, its own rows alone."""
    here = statistics[joined(name, "")].astype(bool)
    own = {key: values for key, values in statistics.items() if split_key(key)[0] == name}
    return {split_key(key)[1]: values[here] for key, values in own.items() if split_key(key)[1]}


@dataclass(frozen=True)
class PlainRows(Sequence[Sequence[Features]]):
    """Encoded rows as the parts themselves made them."""

    rows: Sequence[Sequence[Features]]

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Sequence[Features]: ...
    @overload
    def __getitem__(self, index: slice) -> PlainRows: ...
    def __getitem__(self, index: int | slice) -> Sequence[Features] | PlainRows:
        if isinstance(index, slice):
            return PlainRows(self.rows[index])
        return [plain(item) for item in self.rows[index]]


def own_row(task: Task, row: Row) -> Row:
    """Returns a row as a part would have read it from a file of its own.

    In one with the columns of all parts, those of others are blank, in CSV blank texts: of a
    column that the part can do without, such a text is none. A blank cell of labels is no labels.

    Raises DataError where a column that the part needs is not there, or holds nothing.
    """
    values = {}
    for role in task.roles:
        if role.required and not role.only_training and row.values.get(role.name) is None:
            raise DataError(
                row.where,
                f'it has no "{role.name}" ({role.help})',
                f"Its part, of {task.name}, needs one.",
                "Fill it in, or leave the row out."
                if role.name in row.values
                else f"Name the column with data.columns.{role.name}=COLUMN.",
            )
        if role.name in row.values:
            value = row.values[role.name]
            is_blank = isinstance(value, str) and not value
            is_left_out = is_blank and not role.required and role.name != LABELS.name
            values[role.name] = None if is_left_out else value
    return replace(row, values=values)


def check_labelled(task: Task, row: Row) -> None:
    """Raises DataError for a row, as its part reads it, that does not say what is right."""
    needed = [role.name for role in task.roles if role.required and role.only_training]
    either = [role for role in task.roles if role.labels]
    lacks = [name for name in needed if is_blank(row.values.get(name))]
    if either and all(is_missing(row.values.get(role.name), role) for role in either):
        lacks += [role.name for role in either]
    if lacks:
        raise DataError(
            row.where,
            f"it has no {listed(lacks)}",
            f"Its part, of {task.name}, needs it to be learnt or judged.",
            "Fill it in, or leave the row out.",
        )


@dataclass(frozen=True)
class AuditedRows(Sequence[Row]):
    """Rows as their parts have them audited, without what only other parts read."""

    rows: Rows
    own: Callable[[Row], tuple[Task, Row]]

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> AuditedRows: ...
    def __getitem__(self, index: int | slice) -> Row | AuditedRows:
        if isinstance(index, slice):
            return replace(self, rows=self.rows[index])
        task, row = self.own(self.rows[index])
        (audited,) = task.audited([row])
        return audited
