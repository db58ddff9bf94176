"""Files as blocks of rows, each of which can be read by itself.

A Parquet file lies in row groups, an Arrow file in record batches, and both say how many rows each
has. A file of lines (JSON Lines or plain text) is walked once for the ends of its lines, as fast
as a disk gives it, and cut into stretches of about a mebibyte.

`file.open(block)` reads a block and returns what makes a table of any of its rows: Arrow's columns
as they were read, or the lines, of which only those that are asked for are parsed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet

from tunewright.data.arrays import plain_table, python_values
from tunewright.data.formats.columnar import check_schema, damaged
from tunewright.data.formats.encoding import LINE_OF_TEXTS, Lines, too_long_error
from tunewright.data.formats.jsonfiles import read_json_lines
from tunewright.data.formats.parallel import partner_of
from tunewright.data.formats.sources import FileStamp, format_of
from tunewright.data.large.read_ahead import ReadAhead
from tunewright.data.table import Batch, Numbers, Table, table_of
from tunewright.errors import DataError

Picker = Callable[[Numbers], Table]

BLOCK_BYTES = 1 << 20
# A column of labels is looked through where it is no larger than this, compressed: a second or two.
MAX_SCANNED_BYTES = 128 << 20

_NEWLINE, _BRACE = 10, ord("{")
_BOM = b"\xef\xbb\xbf"


class BlockFile(ABC):
    """A file whose rows lie in blocks: how many rows each has, and about how many bytes."""

    def __init__(self, stamp: FileStamp, num_rows_B: Numbers, num_bytes_B: Numbers) -> None:
        self.stamp, self.num_rows_B, self.num_bytes_B = stamp, num_rows_B, num_bytes_B
        self.first_lines_B = np.cumsum(num_rows_B) - num_rows_B + 1

    @property
    def name(self) -> str:
        return str(self.stamp.path)

    @abstractmethod
    def open(self, block: int) -> Picker:
        """Reads a block; returns what makes a table of the rows at given places in it."""

    def column(self, block: int, name: str) -> pa.Array | None:
        """Returns one column of a block where it can be read by itself soon, else None."""
        return None


class ParquetBlocks(BlockFile):
    """The row groups of a Parquet file."""

    def __init__(self, path: Path) -> None:
        stamp = FileStamp.of(path)
        try:
            with pa.parquet.ParquetFile(path) as file:
                check_schema(file.schema_arrow, path)
                self._metadata = file.metadata
        except (pa.ArrowException, OSError) as error:
            raise damaged(path, "Parquet", error) from None
        groups = [self._metadata.row_group(g) for g in range(self._metadata.num_row_groups)]
        self._packed_bytes: Counter[str] = Counter()  # of each column, in all groups
        for group in groups:
            for place in range(group.num_columns):
                chunk = group.column(place)
                name = chunk.path_in_schema.split(".")[0]
                self._packed_bytes[name] += chunk.total_compressed_size
        super().__init__(
            stamp,
            np.array([group.num_rows for group in groups], np.int64),
            np.array([group.total_byte_size for group in groups], np.int64),
        )

    def open(self, block: int) -> Picker:
        columns = self._read(block, None)
        first = int(self.first_lines_B[block])
        lines = np.arange(first, first + columns.num_rows)
        return Table(self.name, columns, lines).select

    def column(self, block: int, name: str) -> pa.Array | None:
        if self._packed_bytes[name] > MAX_SCANNED_BYTES:
            return None
        return self._read(block, [name]).column(0).combine_chunks()

    def _read(self, block: int, names: list[str] | None) -> pa.Table:
        path = self.stamp.path
        try:
            known = self._metadata
            with pa.parquet.ParquetFile(path, metadata=known, pre_buffer=False) as file:
                found = file.read_row_group(block, columns=names)
                found.validate(full=True)
                metadata = file.schema_arrow.metadata
            return plain_table(found.replace_schema_metadata(metadata), self.name)
        except (pa.ArrowException, OSError) as error:
            raise damaged(path, "Parquet", error) from None


class ArrowBlocks(BlockFile):
    """The record batches of an Arrow file or stream, which is mapped and not read whole."""

    def __init__(self, path: Path) -> None:
        stamp = FileStamp.of(path)
        try:
            self._batches = _mapped_batches(pa.memory_map(str(path)))
            schema = self._batches[0].schema if self._batches else pa.schema([])
            check_schema(schema, path)
        except (pa.ArrowException, OSError) as error:
            raise damaged(path, "Arrow", error) from None
        super().__init__(
            stamp,
            np.array([batch.num_rows for batch in self._batches], np.int64),
            np.array([batch.nbytes for batch in self._batches], np.int64),
        )

    def open(self, block: int) -> Picker:
        first = int(self.first_lines_B[block])
        lines = np.arange(first, first + self._batches[block].num_rows)
        return Table(self.name, self._plain(self._batches[block]), lines).select

    def column(self, block: int, name: str) -> pa.Array | None:
        own = self._batches[block].select([name])
        return self._plain(own).column(0).combine_chunks()

    def _plain(self, batch: pa.RecordBatch) -> pa.Table:
        try:
            batch.validate(full=True)
        except pa.ArrowException as error:
            raise damaged(self.stamp.path, "Arrow", error) from None
        return plain_table(pa.Table.from_batches([batch]), self.name)


def _mapped_batches(mapped: Any) -> list[pa.RecordBatch]:
    """Returns the batches of a mapped file: views of it, unless it is compressed."""
    magic = mapped.read(6)
    mapped.seek(0)
    if magic == b"ARROW1":
        file = pa.ipc.open_file(mapped)
        return [file.get_batch(place) for place in range(file.num_record_batches)]
    return list(pa.ipc.open_stream(mapped))


class LineBlocks(BlockFile):
    """Stretches of a file of lines in UTF-8: JSON Lines, whose blank lines are no rows, or text."""

    def __init__(
        self, path: Path, kind: str, max_text_bytes: int, max_rows: int | None = None
    ) -> None:
        stamp = FileStamp.of(path)
        self._kind, self._max_text_bytes = kind, max_text_bytes
        found = _line_index(stamp, kind, max_text_bytes, max_rows)
        starts_B, ends_B, num_rows_B, self._line_numbers_B = found
        self._ranges = list(zip(starts_B.tolist(), ends_B.tolist(), strict=True))
        super().__init__(stamp, num_rows_B, ends_B - starts_B)

    def open(self, block: int) -> Picker:
        start, end = self._ranges[block]
        with self.stamp.path.open("rb") as stream:
            stream.seek(start)
            data = stream.read(end - start)
        data_N = np.frombuffer(data, np.uint8)
        rows = _row_lines(data_N, _ends_of(data_N), self._kind, start == 0)
        first = int(self._line_numbers_B[block])

        def pick(places: Numbers) -> Table:
            order = np.argsort(places, kind="stable")
            wanted = rows[places[order]]
            spans = wanted[:, :2].tolist()
            numbers = (wanted[:, 2] + first).tolist()
            lines = SomeLines(data, spans, numbers, self.name, self._max_text_bytes)
            batches = list(read_json_lines(lines, []) if self._kind == "jsonl" else _texts(lines))
            table = table_of(self.name, batches)
            if (np.diff(order) == 1).all():
                return table
            return table.select(np.argsort(order, kind="stable"))

        return pick


class SomeLines(Lines):
    """Chosen lines of a part of a file; each keeps its number in the file."""

    def __init__(
        self,
        data: bytes,
        spans: list[list[int]],
        numbers: list[int],
        name: str,
        max_text_bytes: int,
    ) -> None:
        self._data, self._spans, self._numbers = data, spans, numbers
        self._max_characters = LINE_OF_TEXTS * max_text_bytes
        self.name, self.codec, self.max_text_bytes = name, "utf-8", max_text_bytes
        self.num_read = self.num_characters = 0

    def __iter__(self) -> Iterator[str]:
        for (start, end), number in zip(self._spans, self._numbers, strict=True):
            self.num_read = number
            try:
                line = self._data[start:end].decode()
            except UnicodeDecodeError as error:
                raise self.undecodable(error, f"line {number}") from None
            line = line.removeprefix("\ufeff") if number == 1 else line
            self.num_characters += len(line)
            self.check(line)
            yield line


def _texts(lines: Lines) -> Iterator[Batch]:
    texts, numbers = [], []
    for line in lines:
        texts.append(line.rstrip("\r\n"))
        numbers.append(lines.num_read)
    column = pa.array(texts, pa.large_string())
    yield Batch(pa.RecordBatch.from_arrays([column], names=["text"]), np.array(numbers, np.int64))


def _ends_of(data_N: np.ndarray) -> Numbers:
    """Returns where each line ends, (lines,); the last may end without a newline."""
    ends = np.flatnonzero(data_N == _NEWLINE) + 1
    if len(data_N) and (not len(ends) or ends[-1] < len(data_N)):
        ends = np.append(ends, len(data_N))
    return ends


def _row_lines(data_N: np.ndarray, ends: Numbers, kind: str, is_first: bool) -> Numbers:
    """Returns [start, end, number] of each line that is a row, int64 (R, 3); numbers from 0."""
    starts = np.concatenate([np.zeros(min(len(ends), 1), np.int64), ends[:-1]])
    lines = np.stack([starts, ends, np.arange(len(ends))], axis=1)
    if kind == "lines" or not len(lines):
        return lines
    is_row = data_N[starts] == _BRACE
    for place in np.flatnonzero(~is_row):
        text = bytes(data_N[starts[place] : ends[place]])
        text = text.removeprefix(_BOM) if is_first and not place else text
        is_row[place] = bool(text.strip(b" \t\r\n"))
    return lines[is_row]


@lru_cache(maxsize=64)  # a pretraining reads its file for the tokenizer first, then to train
def _line_index(
    stamp: FileStamp, kind: str, max_text_bytes: int, max_rows: int | None
) -> tuple[Numbers, Numbers, Numbers, Numbers]:
    """Returns where each block starts and ends, how many rows it has, and its first line's number.

    Raises: DataError for a line that is longer than `max_text_bytes` allows.
    """
    found: list[tuple[int, int, int, int]] = []
    start, line, left = 0, 1, max_rows
    for data_N, ends in _stretches(stamp, max_text_bytes):
        num_rows = len(_row_lines(data_N, ends, kind, start == 0))
        if left is not None:
            num_rows = min(num_rows, left)
            left -= num_rows
        if num_rows:
            found.append((start, start + len(data_N), num_rows, line))
        start, line = start + len(data_N), line + len(ends)
        if left == 0:
            break
    columns = np.array(found, np.int64).reshape(-1, 4).T
    return columns[0], columns[1], columns[2], columns[3]


def _stretches(stamp: FileStamp, max_text_bytes: int) -> Iterator[tuple[np.ndarray, Numbers]]:
    """Yields the bytes of a file in stretches that end with a line, and where each line ends.

    The bytes are valid until the next stretch.
    """
    limit = LINE_OF_TEXTS * max_text_bytes
    with ReadAhead(stamp.path) as stream:
        buffer = np.empty(BLOCK_BYTES, np.uint8)
        held, line = 0, 1
        while True:
            if held == len(buffer):
                if held > limit:
                    raise too_long_error(str(stamp.path), line, max_text_bytes)
                buffer = np.concatenate([buffer, np.empty_like(buffer)])
            num_read = stream.readinto(buffer[held:].data)
            if not num_read:
                break
            filled = held + num_read
            ends = np.flatnonzero(buffer[held:filled] == _NEWLINE) + held + 1
            if not len(ends):
                held = filled
                continue
            end = int(ends[-1])
            yield buffer[:end], ends
            line += len(ends)
            held = filled - end
            buffer[:held] = buffer[end:filled].copy()
        if held:
            yield buffer[:held], _ends_of(buffer[:held])


def block_file(path: Path, max_text_bytes: int, max_rows: int | None) -> BlockFile | None:
    """Returns a file as blocks, or None for one whose format cannot be read in blocks.

    Raises: DataError for a file that is damaged.
    """
    kind, packing = format_of(path)
    if kind == "parquet":
        return ParquetBlocks(path)
    if kind == "arrow":
        return ArrowBlocks(path)
    if kind in ("jsonl", "lines") and not packing:
        return LineBlocks(path, kind, max_text_bytes, max_rows)
    return None


def can_be_blocks(path: Path) -> bool:
    """Says whether a file can be read in blocks: by its format, and where it stands alone."""
    if partner_of(path) is not None:  # two files, line by line
        return False
    try:
        kind, packing = format_of(path)
    except DataError:
        return False
    return kind in ("parquet", "arrow") or (kind in ("jsonl", "lines") and not packing)


def values_in(column: pa.Array) -> list[Any]:
    """Returns the different values of a column as Python values; [] where they have no order."""
    try:
        unique = column.unique()
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        return []
    return python_values(pa.field("", unique.type), unique)
