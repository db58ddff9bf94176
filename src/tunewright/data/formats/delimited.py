"""Reads CSV and TSV with Python's `csv` module; every value stays the text that was written.

Python's reader and not Arrow's, because it knows the physical line of every row and refuses a
quote that is never closed, which Arrow's takes to end with the file. It reads about 65 MB/s, a
quarter of Arrow's speed, and far more than any training takes in.
"""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from tunewright.data.arrays import check_names
from tunewright.data.formats.encoding import Lines, too_long_error
from tunewright.data.table import Batch
from tunewright.data.wording import counted
from tunewright.errors import DataError

DELIMITERS = (",", ";", "\t", "|")
FLUSH_ROWS = 8192
# A batch also ends after this many characters, so that long texts do not pile up.
FLUSH_CHARACTERS = 16 << 20

_EXCEL = re.compile(r"sep=([^'\"]) *", re.IGNORECASE)

Record = tuple[int, list[str]]


def read_delimited(
    lines: Lines,
    notes: list[str],
    delimiter: str | None = None,
    quote: str = '"',
    header: bool = True,
) -> Iterator[Batch]:
    """Yields the rows below the header, all columns as text.

    `delimiter` None is found from the header line; `quote` "" makes quotes plain characters.
    Without a `header` the first line is a row, and the columns are column_1, column_2 and so on.
    What was found or skipped is added to `notes`.

    Raises: DataError for an empty file, a header with a name twice, a row with too many or too
    few fields, and a quote that is never closed, each with its line.
    """
    walk = iter(lines)
    first = next(walk, None)
    if first is None:
        raise empty_file(lines.name)
    if told := _EXCEL.fullmatch(
        first.rstrip("\r\n")
    ):  # Excel's own line: the next one is the header
        delimiter, first = delimiter or told[1], next(walk, "\n")
    dialect = Dialect(delimiter or sniffed(first, quote), quote)
    if delimiter is None and dialect.delimiter != ",":
        notes.append(f"{lines.name}: the columns are separated by {dialect.shown}.")
    records = _records(lines, itertools.chain([first], walk), dialect, lines.num_read)
    filled = _without_blanks(records, lines.name, notes)
    start, fields = next(filled, (1, [""]))
    names = _column_names(fields if header else [""] * len(fields), lines.name)
    if not header:
        filled = itertools.chain([(start, fields)], filled)
    yield from _batches(_checked(filled, names, lines.name, dialect), names, lines)


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a file separates its fields and quotes them."""

    delimiter: str
    quote: str

    @property
    def shown(self) -> str:
        return "tabs" if self.delimiter == "\t" else f'"{self.delimiter}"'

    def fields(self, lines: Iterator[str]) -> Iterator[list[str]]:
        """Returns Python's reader of this dialect; it has `line_num`."""
        if not self.quote:
            return csv.reader(lines, delimiter=self.delimiter, quoting=csv.QUOTE_NONE)
        return csv.reader(lines, delimiter=self.delimiter, quotechar=self.quote, strict=True)


def empty_file(name: str) -> DataError:
    """Returns the error for a file without a byte of data."""
    return DataError(name, "the file is empty", "A header line and at least one row are needed.")


def sniffed(header: str, quote: str) -> str:
    """Returns the delimiter that cuts the header into the most fields; a comma when none does."""

    def num_fields(delimiter: str) -> int:
        try:
            return len(next(Dialect(delimiter, quote).fields(iter([header])), []))
        except csv.Error:
            return 0

    return max(DELIMITERS, key=num_fields)


def _records(lines: Lines, walk: Iterator[str], dialect: Dialect, start: int) -> Iterator[Record]:
    """Yields each record with the physical line where it begins; the first begins at `start`."""
    # The limit is one for the whole process; it is only ever raised here.
    csv.field_size_limit(max(csv.field_size_limit(), lines.max_text_bytes))
    fields = dialect.fields(walk)
    try:
        for record in fields:
            yield start, record
            start = lines.num_read + 1
    except csv.Error as error:
        raise _parse_error(lines, start, str(error), dialect) from None


def _parse_error(lines: Lines, start: int, words: str, dialect: Dialect) -> DataError:
    where = f"{lines.name}, line {start}"
    remedy = 'If quotes are plain characters in this file, pass data.quote="".'
    if "field limit" in words:
        return too_long_error(lines.name, start, lines.max_text_bytes)
    if "unexpected end" in words:
        found = f"a quote ({dialect.quote}) is opened here and never closed"
        return DataError(where, found, "It takes the rest of the file as one value.", remedy)
    at = "" if lines.num_read == start else f" (in line {lines.num_read})"
    found = f"a quoted value is followed by other characters{at}"
    needed = f"A quote inside a quoted value is written twice ({dialect.quote * 2})."
    return DataError(where, found, needed, remedy)


def _without_blanks(records: Iterator[Record], name: str, notes: list[str]) -> Iterator[Record]:
    num_blank = 0
    for start, record in records:
        if record:
            yield start, record
        else:
            num_blank += 1
    if num_blank:
        notes.append(f"{name}: skipped {counted(num_blank, 'blank line')}.")


def _column_names(header: list[str], name: str) -> list[str]:
    """Returns the header's names without blanks around them; nameless ones are numbered."""
    names = [field.strip() or f"column_{place}" for place, field in enumerate(header, 1)]
    check_names(names, name)
    return names


def _checked(
    records: Iterator[Record], names: list[str], name: str, dialect: Dialect
) -> Iterator[Record]:
    for start, record in records:
        if len(record) != len(names):
            raise DataError(
                f"{name}, line {start}",
                f"there are {len(record)} fields where the header has {len(names)}",
                "Every row needs as many fields as the header.",
                f"Put texts that contain {dialect.shown} in quotes.",
            )
        if record == names and len(names) > 1:
            raise DataError(
                f"{name}, line {start}",
                "it repeats the header",
                "A file has one header; several may have been joined into this one.",
                "Remove the line.",
            )
        yield start, record


def _batches(records: Iterator[Record], names: list[str], lines: Lines) -> Iterator[Batch]:
    rows: list[list[str]] = []
    starts: list[int] = []
    mark = lines.num_characters
    for start, record in records:
        starts.append(start)
        rows.append(record)
        if len(rows) >= FLUSH_ROWS or lines.num_characters - mark >= FLUSH_CHARACTERS:
            yield _batch(rows, starts, names)
            rows, starts, mark = [], [], lines.num_characters
    yield _batch(rows, starts, names)


def _batch(rows: list[list[str]], starts: list[int], names: list[str]) -> Batch:
    columns = zip(*rows, strict=True) if rows else [()] * len(names)
    arrays = [pa.array(column, pa.large_string()) for column in columns]
    return Batch(pa.RecordBatch.from_arrays(arrays, names=names), np.array(starts, np.int64))
