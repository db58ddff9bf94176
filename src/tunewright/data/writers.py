"""Writes rows as JSON Lines or CSV, one at a time, so that memory does not grow with them."""

from __future__ import annotations

import csv
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, Literal, TextIO, get_args

from tunewright.errors import DataError

Format = Literal["jsonl", "csv"]
# A spreadsheet runs what begins with one of these.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def write_rows(
    rows: Iterable[Mapping[str, Any]], target: str | os.PathLike[str], kind: Format | None = None
) -> int:
    """Writes rows to a file, or to standard output when `target` is "-"; returns their number.

    `kind` None is told by the suffix (.jsonl, .ndjson, .csv), and is jsonl for standard output. A
    file appears under its name only when every row is written: until then, what was there stays.
    In CSV the first row's keys are the header, nested values are JSON, and texts that a spreadsheet
    would run as a formula are escaped.

    Raises: DataError for another suffix, a folder that is missing or cannot be written to, and a
    CSV row with keys that the first has not.
    """
    name = os.fspath(target)
    kind = kind or _format_of(name)
    write = _write_jsonl if kind == "jsonl" else _write_csv
    if name == "-":
        num_rows = write(rows, sys.stdout)
        sys.stdout.flush()
        return num_rows
    with replacing(Path(name)) as stream:
        return write(rows, stream)


def check_output(target: str | os.PathLike[str]) -> None:
    """Raises DataError, before any work is done, for what `write_rows` would not write to."""
    name = os.fspath(target)
    _format_of(name)
    path = Path(name)
    if not path.parent.is_dir():
        raise DataError(name, "its folder does not exist", "", "Make the folder first.")
    if name != "-" and (path.is_dir() or not os.access(path.parent, os.W_OK)):
        raise DataError(name, "it cannot be written", "", "Name another file.")


def _format_of(name: str) -> Format:
    if name == "-":
        return "jsonl"
    suffix = Path(name).suffix.lower().replace(".ndjson", ".jsonl")
    for kind in get_args(Format):
        if suffix == f".{kind}":
            return kind
    raise DataError(
        name, "this suffix is not one that is written", "It has to end in .jsonl or .csv."
    )


@contextmanager
def replacing(path: Path) -> Iterator[TextIO]:
    """Opens a new UTF-8 text file that takes the place of `path` when all went well.

    The text goes to a temporary file in the same folder, is flushed to disk, and is then renamed;
    after an error the temporary file is removed and `path` is as it was.

    Raises: DataError when the file cannot be made, written or put in place.
    """
    temporary: Path | None = None
    try:
        handle, made = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        temporary = Path(made)
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        raise DataError(str(path), f"it cannot be written ({error.strerror or error})") from None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _umask() -> int:
    """Returns the process's file mode mask, which can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _write_jsonl(rows: Iterable[Mapping[str, Any]], stream: TextIO) -> int:
    num_rows = 0
    for num_rows, row in enumerate(rows, 1):  # noqa: B007
        stream.write(json.dumps(row, ensure_ascii=False, allow_nan=False, default=str) + "\n")
    return num_rows


def _write_csv(rows: Iterable[Mapping[str, Any]], stream: TextIO) -> int:
    walk = iter(rows)
    first = next(walk, None)
    if first is None:
        return 0
    names = list(first)
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([escape_formula(name) for name in names])
    num_rows = 0
    for num_rows, row in enumerate(chain([first], walk), 1):
        if row.keys() != first.keys():
            raise DataError(
                f"row {num_rows} to write",
                f"its columns are {', '.join(row)}, the first row's {', '.join(names)}",
                "In CSV all rows need the same columns.",
                "Write .jsonl instead.",
            )
        writer.writerow([_cell(row[name]) for name in names])
    return num_rows


def _cell(value: Any) -> Any:
    if isinstance(value, str):
        return escape_formula(value)
    if isinstance(value, dict | list | tuple):
        return json.dumps(value, ensure_ascii=False, allow_nan=False, default=str)
    return value


def escape_formula(text: str) -> str:
    """Returns text that no spreadsheet runs: an apostrophe stands before what begins a formula.

    Numbers such as "-3.5" stay as they are. Source: OWASP, "CSV Injection".
    """
    if not text.lstrip(" ").startswith(FORMULA_STARTS):
        return text
    try:
        float(text)
    except ValueError:
        return f"'{text}"
    return text
