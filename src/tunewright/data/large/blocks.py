"""A data set that is too large for memory: its files stay where they are, read block by block.

    table = block_table("train.parquet", [Path("train.parquet")], settings)
    rows = table.rows({"text": "review", "label": "stars"})
    rows.read([17, 4_000_000])      # reads the two blocks, and holds them while they are wanted

Rows keep their numbers and lines, and a row that cannot be used ends the run with the usual message
when it is met. `sample_places` draws from blocks all over the data, so that it never reads much.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tunewright.data.formats.sources import FileStamp
from tunewright.data.large.block_files import BlockFile, Picker, block_file, values_in
from tunewright.data.readers import ReadSettings, check_text_sizes
from tunewright.data.table import Numbers, Table, TableRows, joined
from tunewright.errors import DataError, listed
from tunewright.types import Row

# A window, within which rows are mixed, has about so many bytes: it is in memory, and so is the
# next. Row groups can be larger; four of them make a window as long as that is not too much.
WINDOW_BYTES, MAX_WINDOW_BYTES, MIN_WINDOW_BLOCKS = 64 << 20, 512 << 20, 4

# A sample is drawn from so many blocks, and from fewer where they are larger than this together.
SAMPLE_BLOCKS, MIN_SAMPLE_BLOCKS, MAX_SAMPLED_BYTES = 32, 4, 256 << 20

# What a fingerprint reads of a file: so many stretches of so many bytes, evenly spread.
STRETCHES, STRETCH_BYTES = 64, 64 << 10


@dataclass(frozen=True, eq=False)
class BlockTable:
    """A data set's files as blocks, numbered through all of them.

    `name` is how the user named the source; `column_names` are those of its first rows.
    """

    name: str
    files: tuple[BlockFile, ...] = field(repr=False)
    settings: ReadSettings
    column_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    has_bare_texts: bool = False

    @cached_property
    def starts_B1(self) -> Numbers:
        """The number of the row at which each block begins, and that of all rows."""
        counts = np.concatenate([file.num_rows_B for file in self.files])
        if self.settings.max_rows is not None:
            ends = np.minimum(np.cumsum(counts), self.settings.max_rows)
            counts = np.diff(np.concatenate([np.zeros(1, np.int64), ends]))
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])

    @cached_property
    def num_bytes_B(self) -> Numbers:
        return np.concatenate([file.num_bytes_B for file in self.files])

    @property
    def num_rows(self) -> int:
        return int(self.starts_B1[-1])

    @property
    def num_bytes(self) -> int:
        return int(self.num_bytes_B.sum())

    @property
    def window_blocks(self) -> int:
        """How many blocks a window has; it depends on the files alone."""
        mean = max(1.0, self.num_bytes / len(self.num_bytes_B))
        wanted = max(MIN_WINDOW_BLOCKS, round(WINDOW_BYTES / mean))
        return max(1, min(wanted, int(MAX_WINDOW_BYTES / mean)))

    def open(self, block: int) -> Picker:
        """Reads a block; returns what makes a table of rows by their places in it.

        Raises: DataError for a file that changed since it was looked at, or is damaged.
        """
        file, own = self._file_of(block)
        file.stamp.check()
        pick = file.open(own)

        def checked(places: Numbers) -> Table:
            table = self._whole(pick(places), file)
            check_text_sizes(table, self.settings.max_text_bytes)
            return table

        return checked

    def _whole(self, table: Table, file: BlockFile) -> Table:
        """Gives a table the columns that its own rows lack, as nulls."""
        columns = table.columns
        for name in self.column_names:
            if name not in columns.column_names:
                columns = columns.append_column(name, pa.nulls(columns.num_rows))
        return replace(table, columns=columns, files=(file.stamp,))

    def _file_of(self, block: int) -> tuple[BlockFile, int]:
        for file in self.files:
            if block < len(file.num_rows_B):
                return file, block
            block -= len(file.num_rows_B)
        raise IndexError(block)

    def column(self, block: int, name: str) -> pa.Array | None:
        """Returns a block's column where it can be read by itself soon, else None."""
        file, own = self._file_of(block)
        found = file.column(own, name)
        return None if found is None else found.slice(0, int(np.diff(self.starts_B1)[block]))

    def rows(self, columns: Mapping[str, str]) -> BlockRows:
        """Returns all rows with `columns` (role to column name) as their values."""
        missing = [name for name in columns.values() if name not in self.column_names]
        if missing:
            raise DataError(
                self.name,
                f"there is no column {listed(missing)}",
                f"It has {listed(self.column_names)}.",
            )
        return BlockRows(self, dict(columns))

    def fingerprint(self) -> dict[str, Any]:
        """Returns what `data.json` keeps, with the `digest` of stretches in place of a sha256."""
        return {
            "path": self.name,
            "sha256": None,
            "stretches_sha256": self.digest,
            "rows": self.num_rows,
            "columns": list(self.column_names),
            "encoding": None,
        }

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of each file's size, blocks, and stretches that are evenly spread over it.

        Reading all of a very large file would hold up the first step. Two files of one size that
        differ only between the stretches have the same digest.
        """
        digest = hashlib.sha256()
        for file in self.files:
            digest.update(f"file {file.stamp.size_bytes}".encode() + file.num_rows_B.tobytes())
            for stretch in _stretches_of(file.stamp):
                digest.update(stretch)
        return digest.hexdigest()


def _stretches_of(stamp: FileStamp) -> Iterator[bytes]:
    stamp.check()
    last = max(0, stamp.size_bytes - STRETCH_BYTES)
    with stamp.path.open("rb") as stream:
        for place in sorted({index * last // (STRETCHES - 1) for index in range(STRETCHES)}):
            stream.seek(place)
            yield stream.read(STRETCH_BYTES)


@dataclass(eq=False)
class BlockRows(Sequence[Row]):
    """The rows of a data set in blocks, but for those `held_out`, which are places in the table.

    A row's id is its place among the rows that are left, counted from 0. Blocks that were read are
    held while `keep` names them.
    """

    table: BlockTable
    columns: Mapping[str, str]
    held_out: Numbers = field(default_factory=lambda: np.zeros(0, np.int64), repr=False)
    sample: TableRows | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[int, Picker] = {}
        self._wanted: frozenset[int] = frozenset()

    @cached_property
    def starts_B1(self) -> Numbers:
        """The place at which each block begins among the rows that are left."""
        whole = self.table.starts_B1
        return whole - np.searchsorted(self.held_out, whole)

    def __len__(self) -> int:
        return int(self.starts_B1[-1])

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return self.read(np.arange(len(self))[index])
        return self.read(np.array([range(len(self))[index]]))[0]

    def __iter__(self) -> Iterator[Row]:
        for start, stop in zip(self.starts_B1[:-1], self.starts_B1[1:], strict=True):
            yield from self.read(np.arange(start, stop))

    def blocks_of(self, places: Numbers) -> frozenset[int]:
        """Returns the blocks in which rows lie."""
        return frozenset(np.unique(self._owners(places)).tolist())

    def _owners(self, places: Numbers) -> Numbers:
        return np.searchsorted(self.starts_B1, places, side="right") - 1

    def keep(self, blocks: frozenset[int]) -> None:
        """Holds these blocks from when they are read on, and lets go of all others."""
        with self._lock:
            self._wanted = blocks
            self._open = {block: pick for block, pick in self._open.items() if block in blocks}

    def _opened(self, block: int) -> Picker:
        with self._lock:
            found = self._open.get(block)
        if found is None:
            found = self.table.open(block)
            with self._lock:
                if block in self._wanted:
                    self._open[block] = found
        return found

    def read(self, places: Numbers) -> list[Row]:
        """Returns the rows at these places, in their order."""
        made: dict[int, Row] = {}
        owners = self._owners(places)
        for block in np.unique(owners).tolist():
            own = np.unique(places[owners == block])
            for place, row in zip(own.tolist(), self._table_of(block, own), strict=True):
                made[place] = replace(row, id=place)
        return [made[place] for place in places.tolist()]

    def _table_of(self, block: int, places: Numbers) -> TableRows:
        return self._opened(block)(self._within(block, places)).rows(self.columns)

    def _within(self, block: int, places: Numbers) -> Numbers:
        """Returns where rows of one block stand in it, with the rows that are held out."""
        # So many rows are left before each that is held out; those stand before a place.
        left_H = self.held_out - np.arange(len(self.held_out))
        before = np.searchsorted(left_H, places, side="right")
        return places + before - self.table.starts_B1[block]

    def tables(self, places: Numbers) -> Table:
        """Returns the rows at these sorted places as one table in memory."""
        owners = self._owners(places)
        parts = [
            self.table.open(block)(self._within(block, places[owners == block]))
            for block in np.unique(owners).tolist()
        ]
        stamps = {stamp.path: stamp for part in parts for stamp in part.files}
        whole = parts[0] if len(parts) == 1 else joined(self.table.name, parts)
        sources = whole.sources or (whole.name,)
        files = tuple(stamps.values())
        return replace(whole, name=self.table.name, sources=sources, files=files)

    def without(self, places: Iterable[int], sample: TableRows) -> BlockRows:
        """Returns the rows but those at these places of the table, with a sample of them."""
        held_out = np.unique(np.fromiter(places, np.int64))
        return BlockRows(self.table, self.columns, held_out, sample)

    def first_with_others(self, role: str, known: Iterable[Any]) -> tuple[list[Row], bool]:
        """Looks through a role's column for values that are not `known`.

        Returns the first row with each, and whether all rows were looked at: a column is not where
        it cannot be read without the rest, or is very large.
        """
        seen, found = set(map(repr, known)), list[int]()
        for block in range(len(self.starts_B1) - 1):
            column = self.table.column(block, self.columns[role])
            if column is None or pa.types.is_nested(column.type):
                return [], False
            for value in values_in(column):
                if value is not None and repr(value) not in seen:
                    seen.add(repr(value))
                    place = int(self.table.starts_B1[block]) + pc.index(column, value).as_py()
                    found.append(place)
        whole = BlockRows(self.table, self.columns)
        return whole.read(np.array(found, np.int64)) if found else [], True


def sample_places(rows: BlockRows, num_rows: int, seed: int) -> Numbers:
    """Returns the places of about `num_rows` rows from blocks spread over the data, sorted."""
    rng = np.random.Generator(np.random.PCG64(seed))
    sizes_B = np.diff(rows.starts_B1)
    filled = np.flatnonzero(sizes_B)
    mean = max(1.0, rows.table.num_bytes / max(1, len(filled)))
    wanted = min(SAMPLE_BLOCKS, max(MIN_SAMPLE_BLOCKS, int(MAX_SAMPLED_BYTES / mean)))
    strata = np.array_split(filled, min(wanted, len(filled)))
    chosen = np.array([rng.choice(stratum) for stratum in strata])
    if sizes_B[chosen].sum() < num_rows:  # blocks of a few rows: as many more as are needed
        others = rng.permutation(np.setdiff1d(filled, chosen))
        needed = np.searchsorted(np.cumsum(sizes_B[others]), num_rows - sizes_B[chosen].sum()) + 1
        chosen = np.concatenate([chosen, others[:needed]])
    places = np.concatenate(
        [np.arange(rows.starts_B1[block], rows.starts_B1[block + 1]) for block in chosen]
    )
    return np.sort(rng.permutation(places)[:num_rows])


def block_table(name: str, paths: Sequence[Path], settings: ReadSettings) -> BlockTable:
    """Returns files as one data set in blocks.

    Raises: DataError for a file that is damaged or holds no row.
    """
    files = [block_file(path, settings.max_text_bytes, settings.max_rows) for path in paths]
    table = BlockTable(name, tuple(file for file in files if file is not None), settings)
    if not table.num_rows:
        raise DataError(name, "there is no row", "At least one row is needed.")
    rows = BlockRows(table, {})
    head = rows.tables(np.arange(min(100, int(rows.starts_B1[rows.starts_B1 > 0][0]))))
    return replace(table, column_names=tuple(head.column_names))
