"""From a source of labelled data to the rows of training, validation and test."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tunewright.data import (
    DataConfig,
    SplitConfig,
    Table,
    TableRows,
    as_rows,
    check_rows,
    read_splits,
    read_table,
    split,
)
from tunewright.data.large.blocks import BlockRows, BlockTable
from tunewright.data.wording import once
from tunewright.errors import SettingsError, listed, nearest
from tunewright.run.preparing.streamed import check_settings, divide_blocks, find_blocks
from tunewright.types import Role, Rows

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
    blocks, notices = find_blocks(sources["train"], config)
    tables = _tables(sources, config, blocks)
    prepared = Prepared(tables["train"].name, {}, {}, [], notices)
    say = once(prepared.notices.append)
    unread = [name for name in tables if name not in SPLITS]
    if unread:
        prepared.notices.append(
            f"{prepared.name}: the splits {listed(unread)} are not read; {listed(SPLITS)} are."
        )
    for name, table in tables.items():
        if name not in SPLITS:
            continue
        is_first = name == "train"  # others have its columns, or those by usual names
        rows = as_rows(
            table,
            roles,
            config.columns if is_first else {},
            training=True,
            before=prepared.columns,
            can_name=is_first,
            say=say,
        )
        assert isinstance(rows, TableRows | BlockRows)
        columns = rows.columns
        for role, column in config.columns.items():
            if role not in columns:
                say(f'{table.name}: there is no column "{column}"; {role} is not read.')
        if isinstance(table, BlockTable):
            check_settings(table, config, tables)
        if isinstance(rows, TableRows):
            rows = _checked(rows, roles, config, say)
        prepared.splits[name] = rows
        prepared.columns = prepared.columns or columns
        prepared.files.append({"split": name, **table.fingerprint(), "columns": columns})
    train = prepared.splits["train"]
    if isinstance(train, BlockRows):
        missing = [name for name in SPLITS[1:] if name not in prepared.splits]
        parts = divide_blocks(train, roles, label_role, config, missing)
        for name in missing:
            if name in parts:
                prepared.notices.append(
                    _set_aside(name, parts[name], train, prepared, config.split, label_role)
                )
        splits = {**prepared.splits, **parts}
        prepared.splits = {name: splits[name] for name in SPLITS if name in splits}
    else:
        _divide(prepared, label_role, config.split)
    return prepared


def _tables(
    sources: Mapping[str, Any], config: DataConfig, blocks: BlockTable | None
) -> dict[str, Table | BlockTable]:
    settings = config.reading()
    without = () if blocks is None else ("train",)
    tables: dict[str, Table | BlockTable] = {**read_splits(sources["train"], settings, without)}
    if blocks is not None:
        tables["train"] = blocks
    if "train" not in tables:
        raise SettingsError(
            "data.train", f"the source holds only {', '.join(tables)}", "Training needs train."
        )
    for name in SPLITS[1:]:
        if sources.get(name) is not None:
            tables[name] = read_table(sources[name], settings)
    order = [*SPLITS, *(name for name in tables if name not in SPLITS)]
    return {name: tables[name] for name in order if name in tables}


def _checked(
    rows: TableRows, roles: Sequence[Role], config: DataConfig, say: Callable[[str], None]
) -> TableRows:
    checked = check_rows(
        rows, roles, drop_unlabelled=config.drop_unlabelled, drop_blank=config.drop_blank
    )
    for sentence in checked.notices(rows.table.name):
        say(sentence)
    return checked.rows


def _divide(prepared: Prepared, label_role: str | None, config: SplitConfig) -> None:
    """Cuts missing splits out of the training rows."""
    rows, splits = prepared.splits["train"], prepared.splits
    wanted = config.model_copy(
        update={name: 0.0 for name in ("validation", "test") if name in splits}
    )
    if wanted.validation == 0 and wanted.test == 0:
        return
    config.check_columns()
    labels = [row.values[label_role] for row in rows] if label_role else None
    parts = split(
        labels,
        len(rows),
        wanted,
        groups=_optional(rows, config.group_column),
        times=_optional(rows, config.time_column),
    )
    whole: Any = rows
    for name in ("validation", "test"):
        indices = getattr(parts, name)
        if name not in splits and len(indices):
            splits[name] = whole.select(indices)
            prepared.notices.append(
                _set_aside(name, splits[name], rows, prepared, config, label_role)
            )
    splits["train"] = whole.select(parts.train)
    prepared.splits = {name: splits[name] for name in SPLITS if name in splits}


def _set_aside(
    name: str,
    part: Rows,
    rows: Rows,
    prepared: Prepared,
    config: SplitConfig,
    label_role: str | None,
) -> str:
    has_classes = label_role is not None
    method = "random" if config.chosen == "stratified" and not has_classes else config.chosen
    return (
        f"{name}: {len(part):,} of the {len(rows):,} rows of {prepared.name} were set "
        f"aside ({method}, seed {config.seed})."
    )


def _optional(rows: Rows, name: str | None) -> list[Any] | None:
    return None if name is None else column_of(rows, name)


def column_of(rows: Rows, name: str) -> list[Any]:
    """Returns the values of a column, whether a role reads it or not.

    Raises SettingsError when the rows have no such column.
    """
    check_column(rows, name)
    if name in rows[0].extras:
        return [row.extras[name] for row in rows]
    role = _roles(rows).get(name, name)
    return [row.values[role] for row in rows]


def _roles(rows: Rows) -> dict[str, str]:
    """Returns the role of each column that has one."""
    columns = rows.columns if isinstance(rows, TableRows | BlockRows) else {}
    return {column: role for role, column in columns.items()}


def check_column(rows: Rows, name: str) -> None:
    """Raises SettingsError, with the nearest name, when rows have no column of this name."""
    role, first = _roles(rows), rows[0]
    if name in first.extras or role.get(name, name) in first.values:
        return
    names = [*(role or first.values), *first.extras]
    hint = nearest(name, names)
    raise SettingsError(
        first.source,
        f'there is no column "{name}"',
        f"It has {listed(names)}.",
        f'Did you mean "{hint}"?' if hint else "",
    )
