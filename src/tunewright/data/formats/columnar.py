"""Reads Parquet and Arrow files with pyarrow, in batches.

Schemas are looked at before any value: a column of an extension type is refused, because a type
that some other package registered can unpickle what the file holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet

from tunewright.data.arrays import plain_table
from tunewright.data.table import Batch
from tunewright.errors import DataError

BATCH_ROWS = 65_536


def read_parquet(path: Path) -> Iterator[Batch]:
    """Yields the rows of a Parquet file; a row's line is its number, from 1.

    Raises: DataError for a file that is damaged or holds extension types.
    """
    try:
        with pa.parquet.ParquetFile(path) as file:
            check_schema(file.schema_arrow, path)
            yield from _numbered(file.iter_batches(BATCH_ROWS), file.schema_arrow, path)
    except (pa.ArrowException, OSError) as error:
        raise damaged(path, "Parquet", error) from None


def read_arrow(path: Path) -> Iterator[Batch]:
    """Yields the rows of an Arrow IPC file or stream (also called Feather version 2)."""
    try:
        with path.open("rb") as stream:
            magic = stream.read(6)
            stream.seek(0)
            if magic == b"ARROW1":
                file = pa.ipc.open_file(stream)
                batches = (file.get_batch(place) for place in range(file.num_record_batches))
            else:
                file = pa.ipc.open_stream(stream)
                batches = iter(file)
            check_schema(file.schema, path)
            yield from _numbered(batches, file.schema, path)
    except (pa.ArrowException, OSError) as error:
        raise damaged(path, "Arrow", error) from None


def check_schema(schema: pa.Schema, path: Path) -> None:
    """Raises DataError for columns of an extension type, or of one name."""
    plain_table(schema.empty_table(), str(path))


def _numbered(batches: Iterator[pa.RecordBatch], schema: pa.Schema, path: Path) -> Iterator[Batch]:
    empty = plain_table(schema.empty_table(), str(path)).schema
    yield Batch(pa.RecordBatch.from_pylist([], schema=empty), np.arange(0))
    num_rows = 0
    for batch in batches:
        # Offsets and text in a damaged or hostile file may lie outside its buffers.
        batch.validate(full=True)
        table = pa.Table.from_batches([batch]).replace_schema_metadata(schema.metadata)
        for part in plain_table(table, str(path)).combine_chunks().to_batches():
            yield Batch(part, np.arange(num_rows + 1, num_rows + 1 + part.num_rows))
            num_rows += part.num_rows


def damaged(path: Path, kind: str, error: Exception) -> DataError:
    """Returns the error for a file that pyarrow cannot read."""
    words = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
    return DataError(
        str(path),
        f"this is not a whole {kind} file ({words})",
        "",
        "Write or fetch it again, or give it the suffix of what it is.",
    )
