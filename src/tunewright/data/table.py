"""`Table`: columns kept in Arrow, and `TableRows`: its rows, made one batch at a time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.ipc

from tunewright.data.arrays import python_values, stack
from tunewright.data.formats.sources import FileStamp, sha256_of
from tunewright.errors import DataError, listed
from tunewright.types import Row

Numbers = npt.NDArray[np.int64]

# Rows turned into Python at once: enough to hide Arrow's cost per call, little memory.
BATCH_ROWS = 1024
DIGEST_ROWS = 16_384


@dataclass(frozen=True, slots=True)
class Batch:
    """Some rows as a reader gives them, and the line (from 1) where each begins."""

    columns: pa.RecordBatch
    lines: Numbers


@dataclass(frozen=True, eq=False)
class Table:
    """A data set's columns, and where each row was read.

    `name` is how the user named the source. `lines` has one number per row (0 = none), or
    `places` has, where a table without lines is a part of another, the place there; `sources`
    and `source_ids` name the file of each row where a table was read from several. `encoding` is
    the codec of text files, "" for others. `notes` are whole sentences on whatever was chosen or
    changed while reading, to be shown to the user. `files` are the files that were read. Where it
    `has_bare_texts`, its rows are lines of plain text, which have no other columns.
    """

    name: str
    columns: pa.Table = field(repr=False)
    lines: Numbers | None = field(default=None, repr=False)
    sources: tuple[str, ...] = field(default=(), repr=False)
    source_ids: Numbers | None = field(default=None, repr=False)
    encoding: str = ""
    notes: tuple[str, ...] = ()
    files: tuple[FileStamp, ...] = field(default=(), repr=False)
    places: Numbers | None = field(default=None, repr=False)
    has_bare_texts: bool = False

    def __getstate__(self) -> dict[str, Any]:
        """Leaves out the pieces, which are made again from the columns."""
        return {key: value for key, value in self.__dict__.items() if key != "_batches"}

    @property
    def column_names(self) -> list[str]:
        return list(self.columns.column_names)

    @property
    def num_rows(self) -> int:
        return int(self.columns.num_rows)

    def __len__(self) -> int:
        return self.num_rows

    def column(self, name: str) -> list[Any]:
        """Returns one whole column as Python values."""
        return python_values(self.columns.schema.field(name), self.columns.column(name))

    def place(self, index: int) -> tuple[str, int]:
        """Returns the (source, line) of a row; line 0 where there is none."""
        source = self.name
        if self.sources:
            source = self.sources[0 if self.source_ids is None else int(self.source_ids[index])]
        return source, 0 if self.lines is None else int(self.lines[index])

    def origin(self, index: int) -> int:
        """Returns the place of a row in the table that this one is a part of, from 0."""
        return index if self.places is None else int(self.places[index])

    def rows(self, columns: Mapping[str, str]) -> TableRows:
        """Returns the rows with `columns` (role to column name) as their values.

        Roles that are left out are absent from a row's values; columns that no role names are
        its extras. Raises: DataError when the table lacks a column.
        """
        missing = [name for name in columns.values() if name not in self.column_names]
        if missing:
            raise DataError(
                self.name,
                f"there is no column {listed(missing)}",
                f"It has {listed(self.column_names)}.",
            )
        return TableRows(self, dict(columns), np.arange(self.num_rows))

    @cached_property
    def _batches(self) -> tuple[list[pa.RecordBatch], Numbers]:
        """The table in the pieces it is stored in, and the row at which each begins."""
        batches = self.columns.to_batches()
        lengths = [batch.num_rows for batch in batches]
        return batches, np.cumsum([0, *lengths])[:-1]

    def taken(self, picked: Numbers) -> pa.Table:
        """Returns the picked rows as an Arrow table; neighbours are cut out without a copy.

        Each piece is taken from by itself: Arrow's own `take` first joins a column's pieces, which
        copies the whole column for every batch of rows.
        """
        steps = np.diff(picked)
        if len(picked) and (steps == 1).all():
            return self.columns.slice(int(picked[0]), len(picked))
        batches, starts = self._batches
        owners = np.searchsorted(starts, picked, side="right") - 1
        order = np.argsort(owners, kind="stable")
        parts = []
        for owner in np.unique(owners):
            mine = picked[owners == owner] - starts[owner]
            parts.append(batches[owner].take(pa.array(mine)))
        grouped = pa.Table.from_batches(parts, self.columns.schema)
        return grouped.take(pa.array(np.argsort(order, kind="stable")))

    def select(self, indices: Iterable[int]) -> Table:
        """Returns a table of some rows, in the given order; each keeps its source and line."""
        picked = np.fromiter(indices, np.int64)
        return replace(
            self,
            columns=self.taken(picked),
            places=picked if self.places is None else self.places[picked],
            lines=None if self.lines is None else self.lines[picked],
            source_ids=None if self.source_ids is None else self.source_ids[picked],
        )

    def fingerprint(self) -> dict[str, Any]:
        """Returns what `data.json` keeps: path, sha256, rows, columns and encoding.

        The digest is that of the file's bytes; for several files, of their names and digests; for
        rows that came from memory (path None), of the Arrow data.

        Raises: DataError when a file is no longer the one that was read.
        """
        return {
            "path": self.name if self.files else None,
            "sha256": self._sha256(),
            "rows": self.num_rows,
            "columns": self.column_names,
            "encoding": self.encoding or None,
        }

    def _sha256(self) -> str:
        for stamp in self.files:
            stamp.check()
        if len(self.files) == 1:
            return sha256_of(self.files[0].path)
        digest = hashlib.sha256()
        for stamp in self.files:
            digest.update(f"{stamp.path.name}\n{sha256_of(stamp.path)}\n".encode())
        if not self.files:
            for name in self.column_names:
                digest.update(name.encode("utf-8", "replace"))
                for value in self.column(name):
                    digest.update(repr(value).encode("utf-8", "replace") + b"\n")
        return digest.hexdigest()


def table_of(name: str, batches: Sequence[Batch], **about: Any) -> Table:
    """Returns the table that the batches make together."""
    columns = stack([batch.columns for batch in batches])
    lines = np.concatenate([batch.lines for batch in batches])
    return Table(name, columns, lines, **about)


def joined(name: str, tables: Sequence[Table]) -> Table:
    """Returns several tables as one; each row keeps its own source and line."""
    batches = [batch for table in tables for batch in table.columns.to_batches()]
    sources = tuple(table.name for table in tables)
    lengths = [table.num_rows for table in tables]
    lines = [np.zeros(len(t), np.int64) if t.lines is None else t.lines for t in tables]
    return Table(
        name,
        stack(batches),
        np.concatenate(lines),
        sources,
        np.repeat(np.arange(len(tables)), lengths),
        ", ".join(dict.fromkeys(table.encoding for table in tables if table.encoding)),
        tuple(note for table in tables for note in table.notes),
        tuple(stamp for table in tables for stamp in table.files),
        has_bare_texts=all(table.has_bare_texts for table in tables),
    )


@dataclass(frozen=True, eq=False)
class TableRows(Sequence[Row]):
    """Some rows of a table, made when they are asked for; memory stays Arrow's.

    A row's id is its place in this data set, counted from 0. A slice, such as the next rows to
    predict, keeps the ids of the rows it was cut from (`first_id` on); `select` makes a data set
    of its own, whose ids count from 0 again.
    """

    table: Table
    columns: Mapping[str, str]
    indices: Numbers = field(repr=False)
    first_id: int = 0

    def __len__(self) -> int:
        return len(self.indices)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> TableRows: ...
    def __getitem__(self, index: int | slice) -> Row | TableRows:
        if isinstance(index, slice):
            start, _, step = index.indices(len(self))
            if step != 1:
                raise ValueError("rows are sliced in steps of 1; select() takes any others")
            return replace(self, indices=self.indices[index], first_id=self.first_id + start)
        place = range(len(self))[index]
        return next(self._made(place, place + 1))

    def __iter__(self) -> Iterator[Row]:
        for start in range(0, len(self), BATCH_ROWS):
            yield from self._made(start, min(start + BATCH_ROWS, len(self)))

    def select(self, places: Iterable[int]) -> TableRows:
        """Returns the rows at these places of this data set, as a data set of their own."""
        picked = np.fromiter(places, np.int64)
        return replace(self, indices=self.indices[picked], first_id=0)

    def values(self, role: str) -> list[Any]:
        """Returns one role's values as Python values, without making rows."""
        name = self.columns[role]
        field, column = self.table.columns.schema.field(name), self.table.columns.column(name)
        if len(self) == self.table.num_rows and (np.diff(self.indices) == 1).all():
            return python_values(field, column)
        return python_values(field, column.take(pa.array(self.indices)))

    def content_digest(self) -> str:
        """Returns a SHA-256 of all values in their order, and of the columns' roles and types.

        Where the rows were read is not in it. Equal values may have several digests (Arrow has
        more than one form of a column without nulls), but different ones never have the same.
        """
        about = {"columns": dict(self.columns), "first_id": self.first_id, "rows": len(self)}
        digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
        for start in range(0, len(self), DIGEST_ROWS):
            part = self.table.taken(self.indices[start : start + DIGEST_ROWS]).combine_chunks()
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, part.schema) as writer:
                writer.write_table(part)
            digest.update(sink.getvalue())
        return digest.hexdigest()

    @property
    def lines(self) -> Numbers:
        """The line of each row, 0 where there is none; shape (rows,), int64."""
        if self.table.lines is None:
            return np.zeros(len(self), np.int64)
        return self.table.lines[self.indices]

    def _made(self, start: int, stop: int) -> Iterator[Row]:
        picked = self.indices[start:stop]
        part = self.table.taken(picked)
        values = {
            field.name: python_values(field, column)
            for field, column in zip(part.schema, part.columns, strict=True)
        }
        extra = [name for name in values if name not in self.columns.values()]
        for offset, index in enumerate(picked):
            source, line = self.table.place(int(index))
            yield Row(
                self.first_id + start + offset,
                {role: values[name][offset] for role, name in self.columns.items()},
                source,
                line,
                {name: values[name][offset] for name in extra},
                None if line else self.table.origin(int(index)),
            )
