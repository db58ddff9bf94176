"""From a source of labelled data to the rows of training, validation and test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tunewright.data import (
    ColumnChoice,
    DataConfig,
    SplitConfig,
    Table,
    check_rows,
    read_splits,
    read_table,
    resolve_columns,
    split,
)
from tunewright.errors import SettingsError
from tunewright.types import Role, Row, Rows

SPLITS = ("train", "validation", "test")


@dataclass
class Prepared:
    """The rows of each split, where they came from, and what was decided on the way.

    `files` is what `data.json` holds; `notices` are sentences to be shown; `columns` says which
    column each role was read from.
    """

    name: str
    splits: dict[str, Rows]
    columns: Mapping[str, str]
    files: list[dict[str, Any]] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)


def prepare(
    sources: Mapping[str, Any], roles: Sequence[Role], label_role: str | None, config: DataConfig
) -> Prepared:
    """Reads every source and divides the training data where validation or test is not given.

    `sources` maps split names to paths, frames or lists; a source that itself holds several
    splits gives them all. Raises DataError or SettingsError for whatever cannot be read whole.
    """
    tables = _tables(sources, config)
    prepared = Prepared(tables["train"].name, {}, {})
    for name, table in tables.items():
        choice = resolve_columns(roles, table.column_names, config.columns, training=True,
                                 source=table.name)  # fmt: skip
        rows = _checked(table, choice, roles, label_role, config, prepared)
        prepared.splits[name] = rows
        prepared.columns = prepared.columns or choice.mapping
        prepared.files.append({"split": name, **table.fingerprint(), "columns": choice.mapping})
    _divide(prepared, label_role, config.split)
    return prepared


def _tables(sources: Mapping[str, Any], config: DataConfig) -> dict[str, Table]:
    settings = config.reading()
    tables = dict(read_splits(sources["train"], settings))
    if "train" not in tables:
        raise SettingsError(
            "data.train", f"the source holds only {', '.join(tables)}", "Training needs train."
        )
    for name in SPLITS[1:]:
        if sources.get(name) is not None:
            tables[name] = read_table(sources[name], settings)
    return {name: tables[name] for name in SPLITS if name in tables}


def _checked(
    table: Table,
    choice: ColumnChoice,
    roles: Sequence[Role],
    label_role: str | None,
    config: DataConfig,
    prepared: Prepared,
) -> Rows:
    checked = check_rows(
        table.rows(choice.mapping),
        roles,
        drop_unlabelled=config.drop_unlabelled,
        drop_blank=config.drop_blank,
    )
    for sentence in (*table.notes, *choice.notices(table.name), *checked.notices(table.name)):
        if sentence not in prepared.notices:
            prepared.notices.append(sentence)
    return checked.rows


def _divide(prepared: Prepared, label_role: str | None, config: SplitConfig) -> None:
    """Cuts missing splits out of the training rows."""
    rows, splits = prepared.splits["train"], prepared.splits
    wanted = config.model_copy(
        update={name: 0.0 for name in ("validation", "test") if name in splits}
    )
    if wanted.validation == 0 and wanted.test == 0:
        return
    labels = [row.values[label_role] for row in rows] if label_role else None
    parts = split(
        labels,
        len(rows),
        wanted,
        groups=_column(rows, config.group_column),
        times=_column(rows, config.time_column),
    )
    whole: Any = rows
    for name in ("validation", "test"):
        indices = getattr(parts, name)
        if name not in splits and len(indices):
            splits[name] = whole.select(indices)
            prepared.notices.append(
                f"{name}: {len(indices):,} of the {len(rows):,} rows of {prepared.name} were set "
                f"aside ({config.method}, seed {config.seed})."
            )
    splits["train"] = whole.select(parts.train)
    prepared.splits = {name: splits[name] for name in SPLITS if name in splits}


def _column(rows: Rows, name: str | None) -> list[Any] | None:
    if name is None:
        return None
    first: Row = rows[0]
    if name in first.extras:
        return [row.extras[name] for row in rows]
    for role in first.values:
        if role == name:
            return [row.values[role] for row in rows]
    raise SettingsError(
        "data.split", f'there is no column "{name}"', f"There is {', '.join(first.extras)}."
    )
