"""The way in: any source of labelled text becomes a `Table`."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tunewright.data.formats.columnar import read_arrow, read_parquet
from tunewright.data.formats.conll import read_conll, read_conllu
from tunewright.data.formats.delimited import FLUSH_ROWS, read_delimited
from tunewright.data.formats.encoding import (
    Lines,
    check_encoding,
    find_encoding,
    holds_windows,
    too_long_error,
)
from tunewright.data.formats.folders import (
    NEEDED,
    class_folders,
    is_saved_dataset,
    metadata_entries,
    read_class_folders,
    saved_files,
    split_entries,
    visible,
)
from tunewright.data.formats.frames import memory_splits
from tunewright.data.formats.hub import fetch_hub_splits, is_hub_id, read_saved
from tunewright.data.formats.jsonfiles import read_json, read_json_lines
from tunewright.data.formats.parallel import paired, partner_of
from tunewright.data.formats.sources import (
    MIB,
    FileStamp,
    check_is_file,
    format_of,
    is_data_file,
    os_errors_named,
    text_file,
)
from tunewright.data.formats.starter import STARTER_DATA, bbc_news
from tunewright.data.table import Batch, Table, joined, table_of
from tunewright.data.wording import counted
from tunewright.errors import DataError, listed

COLUMNAR = {"parquet": read_parquet, "arrow": read_arrow}
STANDARD_INPUT = "standard input"
TAGGED = {"conll": read_conll, "conllu": read_conllu}


@dataclass(frozen=True, slots=True)
class ReadSettings:
    """How files are read; `DataConfig` explains each setting.

    `usual_encoding` is that of files which are not UTF-8, where `encoding` names none.
    """

    encoding: str | None = None
    delimiter: str | None = None
    quote: str = '"'
    header: bool = True
    subset: str | None = None
    max_rows: int | None = None
    max_text_bytes: int = 64 * MIB
    max_file_expansion: float = 100.0
    usual_encoding: str | None = None

    def of_others(self) -> ReadSettings:
        """Returns how other files are read than those which the settings were made for."""
        return replace(self, encoding=None, usual_encoding=self.encoding or self.usual_encoding)


DEFAULTS = ReadSettings()


def read_table(source: object, settings: ReadSettings = DEFAULTS, split: str = "") -> Table:
    """Returns one data set as a table.

    `source` is a path or Hub id (str or PathLike), a pandas or polars frame, a `pyarrow.Table`, a
    `datasets.Dataset`, a list of texts or dicts, a dict of lists, or a pair (texts, labels).
    `split` ("train", "validation", "test") chooses from a source that holds several.

    Raises: DataError for anything that cannot be read whole and without doubt, naming file, line
    and value where there are such.
    """
    splits = read_splits(source, settings)
    if split in splits:
        return splits[split]
    if len(splits) == 1 and not split:
        return next(iter(splits.values()))
    name = next(iter(splits.values())).name if len(splits) == 1 else str(source)
    found = f"it holds the splits {listed(splits)}"
    needed = f'There is no split "{split}".' if split else "One of them is needed here."
    raise DataError(name, found, needed, "Name the file of the split that is meant.")


def split_paths(source: object) -> dict[str, list[Path]]:
    """Returns the files of each split, for a source that is a file or a folder of such files."""
    if not isinstance(source, str | os.PathLike) or source == STARTER_DATA:
        return {}
    path = Path(os.fsdecode(source))
    with os_errors_named(str(path)):
        if path.is_dir():
            if is_saved_dataset(path):
                return saved_files(path)
            return metadata_entries(path) or split_entries(path)
        return {"train": [path]} if path.is_file() else {}


def is_source(name: str) -> bool:
    """Says whether a text names something to read: a path, what looks like one, or a Hub id."""
    with suppress(OSError, ValueError):
        looks_like_one = is_data_file(Path(name)) or is_hub_id(name)
        return name == STARTER_DATA or looks_like_one or os.path.lexists(name)
    return False


def read_splits(
    source: object, settings: ReadSettings = DEFAULTS, without: Collection[str] = ()
) -> dict[str, Table]:
    """Returns every split of a source by its usual name: "train", "validation", "test".

    A source that is one data set, such as a file or a frame, is called "train". The splits of a
    file or folder that `without` names are not read.
    Raises: DataError as `read_table` does, also for a data set without rows.
    """
    if isinstance(source, Table):
        splits = {"train": source}
    elif without:
        paths = {split: own for split, own in split_paths(source).items() if split not in without}
        splits = {split: _entry_table(own, settings) for split, own in paths.items()}
    elif isinstance(source, str | os.PathLike):
        with os_errors_named(os.fsdecode(source)):
            splits = _splits_at(os.fsdecode(source), settings)
    else:
        splits = memory_splits(source)
    return {split: _finished(table, settings) for split, table in splits.items()}


def _splits_at(name: str, settings: ReadSettings) -> dict[str, Table]:
    if not name:
        raise DataError("data", "the path is empty", "A file, folder or Hub id is needed.")
    path = Path(name)
    if name == STARTER_DATA:
        return {"train": bbc_news()}
    if not os.path.lexists(path) and is_hub_id(name):
        return fetch_hub_splits(name, settings.subset)
    if path.is_dir():
        return _folder_splits(path, settings)
    check_is_file(path)
    return {"train": _file_table(path, settings)}


def _folder_splits(folder: Path, settings: ReadSettings) -> dict[str, Table]:
    if is_saved_dataset(folder):
        return read_saved(folder)
    if entries := metadata_entries(folder) or split_entries(folder):
        return {split: _entry_table(paths, settings) for split, paths in entries.items()}
    if class_folders(folder):
        return {"train": read_class_folders(folder, settings.encoding, settings.max_text_bytes)}
    held = listed(entry.name for entry in visible(folder))
    found = f"the folder holds {held}" if held else "the folder is empty"
    raise DataError(str(folder), found, NEEDED)


def _entry_table(paths: list[Path], settings: ReadSettings) -> Table:
    tables = [_single_table(path, settings) for path in paths]
    return tables[0] if len(tables) == 1 else joined(str(paths[0].parent), tables)


def _single_table(path: Path, settings: ReadSettings) -> Table:
    splits = _splits_at(str(path), settings)
    if len(splits) > 1:
        raise DataError(str(path), f"it holds the splits {listed(splits)} itself", NEEDED)
    return next(iter(splits.values()))


def _file_table(path: Path, settings: ReadSettings) -> Table:
    partner = partner_of(path)
    if partner is None:
        return _one_file(path, settings)
    return paired(_one_file(path, settings), _one_file(partner, settings))


def _one_file(path: Path, settings: ReadSettings) -> Table:
    stamp = FileStamp.of(path)
    notes: list[str] = []
    with _opened(path, settings, notes) as (batches, about):
        table = table_of(str(path), list(_first_rows(batches, settings.max_rows)), **about)
    stamp.check()
    return replace(table, notes=tuple(notes), files=(stamp,))


@contextmanager
def _opened(
    path: Path, settings: ReadSettings, notes: list[str]
) -> Iterator[tuple[Iterator[Batch], dict[str, Any]]]:
    """Opens a file and gives its batches, and what a table of them says of it."""
    kind, _ = format_of(path)
    if kind in COLUMNAR:
        yield COLUMNAR[kind](path), {}
        return
    file = text_file(path, settings.max_file_expansion)
    codec = find_encoding(file.open, file.name, settings.encoding, settings.usual_encoding)
    if codec not in ("utf-8", "utf-8-sig"):
        is_windows = codec == "iso8859-1" and holds_windows(file.open)
        more = "; some of it looks like encoding=cp1252 instead" if is_windows else ""
        notes.append(f"{file.name}: the text is read as {codec.upper()}{more}.")
    with file.open() as stream:
        lines = Lines(stream, codec, file.name, settings.max_text_bytes)
        try:
            yield text_batches(lines, file.format, settings, notes), _about(file.format, codec)
        finally:
            lines.close()


def _about(kind: str, codec: str) -> dict[str, Any]:
    return {"encoding": codec, "has_bare_texts": kind == "lines"}


def text_batches(
    lines: Lines, kind: str, settings: ReadSettings, notes: list[str]
) -> Iterator[Batch]:
    """Returns the batches of a text stream of the format `kind`, one of `TEXT_FORMATS`."""
    if kind in TAGGED:
        return TAGGED[kind](lines)
    if kind == "jsonl":
        return read_json_lines(lines, notes)
    if kind == "json":
        return read_json(lines, notes)
    if kind == "lines":
        return read_text_lines(lines)
    delimiter = settings.delimiter or ("\t" if kind == "tsv" else None)
    return read_delimited(lines, notes, delimiter, settings.quote, settings.header)


def read_text_lines(lines: Lines) -> Iterator[Batch]:
    """Yields one row per line of plain text, in the column text; blank lines are blank texts."""
    texts: list[str] = []
    for line in lines:
        texts.append(line.rstrip("\r\n"))
        if len(texts) == FLUSH_ROWS:
            yield _text_batch(texts, lines.num_read)
            texts = []
    yield _text_batch(texts, lines.num_read)


def _text_batch(texts: list[str], last_line: int) -> Batch:
    columns = pa.RecordBatch.from_arrays([pa.array(texts, pa.large_string())], names=["text"])
    return Batch(columns, np.arange(last_line - len(texts) + 1, last_line + 1))


def _first_rows(batches: Iterable[Batch], max_rows: int | None) -> Iterator[Batch]:
    left = max_rows
    for batch in batches:
        if left is not None and batch.columns.num_rows >= left:
            yield Batch(batch.columns.slice(0, left), batch.lines[:left])
            return
        yield batch
        left = None if left is None else left - batch.columns.num_rows


def _finished(table: Table, settings: ReadSettings) -> Table:
    """Applies the limits that hold for every source."""
    limit = settings.max_rows
    if limit is not None and table.num_rows > limit:
        table = table.select(range(limit))
    if limit is not None and table.num_rows == limit:
        note = f"{table.name}: only {counted(limit, 'row')} read (data.max_rows)."
        table = replace(table, notes=(*table.notes, note))
    check_has_rows(table)
    check_text_sizes(table, settings.max_text_bytes)
    return table


def check_has_rows(table: Table) -> None:
    """Raises DataError when a table has no rows."""
    if not table.num_rows:
        found = (
            "there is a header but no row"
            if table.files and table.column_names
            else "there is no row"
        )
        raise DataError(table.name, found, "At least one row is needed.")


def check_text_sizes(table: Table, max_text_bytes: int) -> None:
    """Raises DataError, with the row, when a text is longer than `max_text_bytes`."""
    for column in table.columns.columns:
        if pa.types.is_large_string(column.type):
            sizes = pc.binary_length(column)
            if (pc.max(sizes).as_py() or 0) > max_text_bytes:
                source, line = table.place(
                    pc.index(pc.greater(sizes, max_text_bytes), True).as_py()
                )
                raise too_long_error(source, line, max_text_bytes)


def stream_tables(
    source: str | os.PathLike[str] | BinaryIO,
    settings: ReadSettings = DEFAULTS,
    kind: str = "jsonl",
) -> Iterator[Table]:
    """Yields a file's rows as small tables, one after the other: memory does not grow with it.

    `source` may be a binary stream, such as standard input, whose format `kind` names (csv, tsv,
    jsonl, json, lines, conll, conllu); it is read as `settings.encoding`, or as UTF-8. A row's line
    counts from the beginning of the file.

    Raises: DataError as `read_table` does, when the rows before the fault have been given.
    """
    if not isinstance(source, str | os.PathLike):
        codec = check_encoding(settings.encoding or "utf-8")
        lines = Lines(source, codec, STANDARD_INPUT, settings.max_text_bytes)
        try:
            notes: list[str] = []
            batches = text_batches(lines, kind, settings, notes)
            about = _about(kind, codec)
            yield from _small_tables(STANDARD_INPUT, batches, about, settings, notes)
        finally:
            lines.close()
        return
    yield from _file_tables(Path(source), settings)


def _file_tables(path: Path, settings: ReadSettings) -> Iterator[Table]:
    if path.is_dir():
        raise DataError(str(path), "this is a folder", "A file is needed here.")
    stamp = FileStamp.of(path)
    notes: list[str] = []
    with os_errors_named(str(path)), _opened(path, settings, notes) as (batches, about):
        yield from _small_tables(str(path), batches, about, settings, notes)
    stamp.check()


def _small_tables(
    name: str,
    batches: Iterable[Batch],
    about: Mapping[str, Any],
    settings: ReadSettings,
    notes: list[str],
) -> Iterator[Table]:
    for batch in _first_rows(batches, settings.max_rows):
        if batch.columns.num_rows:
            table = table_of(name, [batch], notes=tuple(notes), **about)
            check_text_sizes(table, settings.max_text_bytes)
            yield table
