"""Takes data that is in memory already: frames, Arrow tables, data sets, lists and dicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from typing import Any

import numpy as np
import pyarrow as pa

from tunewright.data.arrays import arrow_column, check_names, plain_table, record_batch
from tunewright.data.formats.hub import dataset_splits
from tunewright.data.table import Table
from tunewright.errors import DataError

KINDS = (
    "A path, a pandas or polars frame, a pyarrow.Table, a datasets.Dataset, a list of texts or "
    "of dicts, a dict of lists, or a pair (texts, labels) is needed."
)

STORED = (
    "A column holds texts, numbers, booleans, and lists and dicts of them, or values of one kind, "
    "such as bytes or dates."
)


def memory_splits(source: object) -> dict[str, Table]:
    """Returns the tables in a Python object; what is one data set is called "train".

    Raises: DataError for an object of another kind, and for columns of unlike lengths.
    """
    library = type(source).__module__.split(".")[0]
    kind = type(source).__name__
    if library == "datasets" and hasattr(source, "keys" if kind == "DatasetDict" else "data"):
        return dataset_splits(source, kind)
    return {"train": _memory_table(source, library, kind)}


def _memory_table(source: Any, library: str, kind: str) -> Table:
    if isinstance(source, pa.Table):
        return Table("pyarrow.Table", plain_table(source, "pyarrow.Table"))
    if (library, kind) == ("pandas", "DataFrame"):
        return _pandas_table(source)
    if (library, kind) == ("polars", "DataFrame"):
        return Table("polars frame", plain_table(source.to_arrow(), "polars frame"))
    if isinstance(source, Mapping):
        return _columns_table("dict", {str(name): _listed(v) for name, v in source.items()})
    if _is_pair(source):
        texts, labels = source
        return _columns_table("lists", {"text": _listed(texts), "label": _listed(labels)})
    return _list_table(_listed(source))


def _is_pair(source: Any) -> bool:
    """Says whether this is a tuple of two equally plain sequences: texts and labels."""
    return (
        isinstance(source, tuple)
        and len(source) == 2
        and not any(isinstance(part, str | Mapping) for part in source)
    )


def _listed(values: Any) -> list[Any]:
    """Returns a sequence, array or series as a list of Python values."""
    if hasattr(values, "tolist"):
        values = values.tolist()
    elif hasattr(values, "to_list"):
        values = values.to_list()
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Sequence):
        raise DataError(
            "data", f'an object of type "{type(values).__name__}" cannot be read', KINDS
        )
    return list(values)


def _list_table(rows: list[Any]) -> Table:
    if all(isinstance(row, str) for row in rows):
        return _columns_table("list", {"text": rows})
    for place, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise DataError(
                f"list row {place}", f'there is an object of type "{type(row).__name__}"', KINDS
            )
    keys = dict.fromkeys(key for row in rows for key in row)
    return _columns_table("list", {str(key): [row.get(key) for row in rows] for key in keys})


def _columns_table(name: str, columns: dict[str, list[Any]]) -> Table:
    lengths = {column: len(values) for column, values in columns.items()}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f'"{column}" {length:,}' for column, length in lengths.items())
        raise DataError(
            name, f"the columns differ in length: {found}", "Each row needs a value in each."
        )
    notes: list[str] = []
    known = {column: [_known(value) for value in values] for column, values in columns.items()}
    batch = _stored(known, name, notes)
    return Table(name, pa.Table.from_batches([batch]), notes=tuple(notes))


def _known(value: Any) -> Any:
    """Returns a value, None where pandas says that there is none: rows may come from a frame."""
    is_nan = isinstance(value, float | np.floating) and np.isnan(value)
    return None if is_nan or type(value).__name__ in ("NAType", "NaTType") else value


def _stored(columns: dict[str, list[Any]], name: str, notes: list[str]) -> pa.RecordBatch:
    """Returns columns as Arrow data; numpy's scalars and arrays become Python's, paths texts, and
    pictures of Pillow the bytes of a file.
    """
    try:
        return record_batch(columns, name, notes)
    except (TypeError, ValueError):
        plain = {column: list(map(_plain, values)) for column, values in columns.items()}
    for column, values in plain.items():
        try:
            arrow_column(column, values)
        except UnicodeEncodeError:  # is mended there
            continue
        except (TypeError, ValueError) as error:
            kinds = sorted({type(value).__name__ for value in values if value is not None})
            found = f'the column "{column}", of {" and ".join(kinds)}, cannot be stored ({error})'
            raise DataError(name, found, STORED) from None
    return record_batch(plain, name, notes)


def _plain(value: Any) -> Any:
    if type(value).__module__ == "numpy":
        return value.tolist()
    if isinstance(value, PathLike):
        return fspath(value)
    if type(value).__module__.startswith("PIL."):
        from tunewright.data.cells.pictures import file_bytes

        return file_bytes(value)
    return value


def _pandas_table(frame: Any) -> Table:
    """Returns a pandas frame's columns, its missing values as nulls; the index is no column."""
    name = "pandas frame"
    names = [str(column) for column in frame.columns]
    check_names(names, name)
    notes: list[str] = []
    fields, columns = [], []
    for place, column in enumerate(names):
        series = frame.iloc[:, place]
        field, values = _pandas_column(column, series, notes)
        fields.append(field)
        columns.append(values)
    table = pa.Table.from_arrays(columns, schema=pa.schema(fields))
    return Table(name, table, notes=tuple(notes))


def _pandas_column(column: str, series: Any, notes: list[str]) -> tuple[pa.Field, pa.Array]:
    """Columns of Python objects go through our own storage, which casts nothing."""
    if series.dtype == object:
        missing = series.isna().tolist()
        values = [None if gone is True else v for gone, v in zip(missing, series, strict=True)]
        batch = _stored({column: values}, "pandas frame", notes)
        return batch.schema.field(0), batch.column(0)
    array = pa.chunked_array([pa.Array.from_pandas(series)])
    plain = plain_table(pa.table({column: array}), "pandas frame")
    return plain.schema.field(0), plain.column(0)
