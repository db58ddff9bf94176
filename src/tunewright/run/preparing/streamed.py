"""Training rows that do not fit into memory: whether they are, and what is taken from them first.

Nothing here reads more than a few blocks of the data, so that the first step is seconds away.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tunewright.answers import LabelValue
from tunewright.data import DataConfig, SplitConfig, check_rows, split
from tunewright.data.config import Streaming
from tunewright.data.formats.encoding import marked_encoding
from tunewright.data.formats.sources import format_of
from tunewright.data.large.block_files import can_be_blocks
from tunewright.data.large.blocks import BlockRows, BlockTable, block_table, sample_places
from tunewright.data.readers import split_paths
from tunewright.devices.memory import free_bytes
from tunewright.errors import DataError, SettingsError, listed
from tunewright.tasks.base import Task
from tunewright.types import Role, Row, Rows

# Rows in memory take about three times their text: the columns, and what they are encoded to. They
# may take a quarter of what is free; the rest is the model's.
BYTES_IN_MEMORY, MAX_SHARE = 3.0, 0.25

# The rows of each part that is cut out of a stream: no more than these, and no more bytes than
# are tokenised in a few seconds, but at least a few.
MAX_ROWS, MIN_ROWS, MAX_BYTES = 10_000, 500, 4 << 20

# Rows of each part that are encoded before the first update, to tell how long they are.
ENCODED_FIRST = 2000

IN_BLOCKS = (
    "Parquet and Arrow files can be, and JSONL and TXT files in UTF-8 that are not compressed."
)


def find_blocks(source: Any, config: DataConfig) -> tuple[BlockTable | None, list[str]]:
    """Returns the training rows as blocks where they are to stay on the disk, and what to say.

    Raises: SettingsError when that is asked for and cannot be.
    """
    streaming = decide_streaming(source, config)
    if streaming == "off":
        return None, []
    paths = split_paths(source).get("train", [])
    unfit = [path for path in paths if not _fits(path, config)]
    if streaming == "on" and (unfit or not paths):
        name = str(unfit[0]) if unfit else "data.train"
        raise SettingsError(
            name,
            "it cannot be read in blocks, and data.streaming is on",
            IN_BLOCKS,
            "Write it as one of these, or pass data.streaming=off.",
        )
    if streaming == "auto":
        return None, [
            f"{path}: the data may be too large for the free memory, and this file cannot be "
            f"read from the disk block by block. {IN_BLOCKS}"
            for path in unfit[:1]
            if _is_large(_size_of(paths))
        ]
    table = block_table(str(source), paths, config.reading())
    return table, _notes(table)


def decide_streaming(source: Any, config: DataConfig) -> Streaming:
    """Returns `on` or `off` for `auto`, by the free memory; `auto` where rows cannot be in blocks.

    Memory changes, and machines differ, so a run decides it once.
    """
    paths = split_paths(source).get("train", [])
    if config.streaming != "auto" or not paths or any(not _fits(p, config) for p in paths):
        return config.streaming
    if _is_large(_size_of(paths)):
        return "on"
    if all(format_of(path)[0] not in ("parquet", "arrow") for path in paths):
        return "off"
    table = block_table(str(source), paths, config.reading())
    return "on" if _is_large(table.num_bytes) else "off"  # columnar files may be packed tightly


def _size_of(paths: Sequence[Path]) -> int:
    return sum(path.stat().st_size for path in paths if path.is_file())


def _is_large(num_bytes: int) -> bool:
    free = free_bytes("cpu")
    return free is not None and BYTES_IN_MEMORY * num_bytes > MAX_SHARE * free


def _fits(path: Path, config: DataConfig) -> bool:
    """Says whether a file can be read in blocks: by its format and its encoding."""
    if not path.is_file() or not can_be_blocks(path):
        return False
    if format_of(path)[0] in ("parquet", "arrow"):
        return True
    with path.open("rb") as stream:
        marked = marked_encoding(stream.read(4))
    return (config.encoding or marked or "utf-8") in ("utf-8", "utf-8-sig")


def _notes(table: BlockTable) -> list[str]:
    window = table.window_blocks * table.num_rows // (len(table.starts_B1) - 1)
    window = min(window, table.num_rows)
    notes = [
        f"{table.name}: its {table.num_rows:,} rows stay on the disk and are read as they are "
        f"needed (data.streaming). They are mixed in windows of about {window:,} rows, which "
        f"{'lie' if table.window_blocks == 1 else 'come'} "
        f"{'together in one block' if table.window_blocks == 1 else 'from blocks all over'}."
    ]
    if table.window_blocks == 1 and len(table.starts_B1) > 2:
        notes.append(
            f"{table.name}: its row groups are so large that rows are mixed within one only. If "
            "neighbours are alike, write it with smaller ones, such as row_group_size=50_000."
        )
    return notes


def limit_of(table: BlockTable) -> int:
    """Returns how many rows a part in memory may have; it depends on the files alone."""
    mean = max(1.0, table.num_bytes / table.num_rows)
    return min(MAX_ROWS, max(MIN_ROWS, int(MAX_BYTES / mean)))


def check_settings(table: BlockTable, config: DataConfig, given: Collection[str]) -> None:
    """Raises SettingsError for settings that need to see every row first."""
    method = config.split.chosen
    if method in ("group", "time") and not {"validation", "test"}.issubset(given):
        raise SettingsError(
            f"data.split.method={method}",
            f"it needs to see every row of {table.name} first, and they stay on the disk",
            "Rows are read as they are needed.",
            "Give validation and test files, or pass data.streaming=off where memory allows.",
        )


def divide_blocks(
    rows: BlockRows,
    roles: Sequence[Role],
    label_role: str | None,
    data: DataConfig,
    missing: Sequence[str],
) -> dict[str, Rows]:
    """Cuts the splits that are `missing` out of the training rows, and a sample of the rest.

    They are rows in memory from blocks all over the data. Raises: DataError for rows among them
    that cannot be used.
    """
    config = data.split
    limit, total = limit_of(rows.table), len(rows)
    sizes = {
        name: min(limit, max(1, round(total * getattr(config, name))))
        if name in missing and getattr(config, name)
        else 0
        for name in ("validation", "test")
    }
    if any(sizes.values()):
        config.check_columns()
    places = sample_places(rows, min(total, sum(sizes.values()) + limit), config.seed)
    pool = check_rows(
        rows.tables(places).rows(rows.columns),
        roles,
        drop_unlabelled=data.drop_unlabelled,
        drop_blank=data.drop_blank,
    ).rows
    places = places[pool.indices]
    shares = {name: size / len(pool) for name, size in sizes.items()}
    labels = [row.values[label_role] for row in pool] if label_role else None
    parts = split(labels, len(pool), config.model_copy(update={**shares, **_random(config)}))
    found: dict[str, Rows] = {
        name: pool.select(getattr(parts, name)) for name in missing if sizes[name]
    }
    gone = np.concatenate([parts.validation, parts.test])
    return {"train": rows.without(places[gone], pool.select(parts.train)), **found}


def _random(config: SplitConfig) -> dict[str, str]:
    return {} if config.chosen in ("stratified", "random") else {"method": "random"}


def in_memory(rows: Rows) -> Rows:
    """Returns rows that can be walked at once: of those on the disk a sample."""
    return rows if not isinstance(rows, BlockRows) or rows.sample is None else rows.sample


def few_of(rows: Rows) -> Iterator[Row]:
    """Yields so many rows, evenly spread, as are soon encoded before the first update."""
    for place in range(0, len(rows), max(1, -(-len(rows) // ENCODED_FIRST))):
        yield rows[place]


def learned_from(task: Task, rows: BlockRows) -> tuple[Task, str]:
    """Returns the task with what a sample has to tell, and a sentence on that.

    The labels are those of all rows where they are soon found, as in a Parquet file.
    """
    examples: list[Row] = list(in_memory(rows))
    seen = f"{len(examples):,} of the {len(rows):,} training rows"
    sentence = f"{rows.table.name}: the task is learned from {seen}"
    role = task.label_role
    if role is None or role not in rows.columns:
        return task.learn(examples), f"{sentence}."
    known = [row.values[role] for row in examples]
    if all(isinstance(value, str | int | float) for value in known):
        others, is_whole = rows.first_with_others(role, known)
        if is_whole:
            return task.learn([*examples, *others]), f"{sentence}, its labels from all."
    return (
        task.learn(examples),
        f"{sentence}. A label that none of these has ends the run when it is met; task.labels can "
        "name them all.",
    )


def unseen_label_error(row: Row, label: LabelValue, labels: Sequence[str]) -> DataError:
    """Returns the error for a training row with a label that the sample did not have."""
    return DataError(
        row.where,
        f"it has the label {listed([str(label)])}, which was not there to be learned",
        f"From a sample of the rows the task has learned {listed(labels)}." if labels else "",
        "Name all labels with task.labels, or correct the row.",
    )
