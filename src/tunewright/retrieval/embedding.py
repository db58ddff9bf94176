"""Texts in, vectors out: from any source to a file, with memory that does not grow.

    encoder = load_encoder("starter")
    write_vectors(embedded(read_documents("reviews.csv"), encoder), Path("vectors.parquet"))

    vectors.parquet     id, text, vector; with tokens: id, text, tokens, starts, ends, vectors
    vectors.jsonl       the same, a line a text
    vectors.npy         the vectors alone, float32 (R, D), in the order of the source

Shape letters: R texts, N tokens of one, D numbers of a vector.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet

from tunewright.data import write_rows
from tunewright.data.writers import replacing
from tunewright.devices import Precision
from tunewright.errors import DataError, SettingsError
from tunewright.models.pooling import Pooling
from tunewright.retrieval.documents import Document, read_documents
from tunewright.retrieval.encoder import Encoder, TokenVectors, load_encoder

Floats = npt.NDArray[np.float32]
Embedded = tuple[Document, Any]

SUFFIXES = (".parquet", ".jsonl", ".npy")
ROWS_AT_ONCE = 256  # of a Parquet file's row group, which is in memory until it is written


def embed(
    source: Any,
    *,
    model: str | PathLike[str] = "starter",
    text: str | Sequence[str] = (),
    pooling: Pooling | None = None,
    layer: int = -1,
    normalize: bool | None = None,
    precision: Precision = "auto",
) -> Floats:
    """Returns the vectors of the texts of `source`, float32 (R, D), in their order.

    `source` is a list of texts or dicts, a frame, or a path; `text` names the column, or columns
    that are joined. The model is `starter`, a folder, a run or a Hub id. What it says of `pooling`
    (mean, cls, last) and `normalize` can be chosen otherwise, and any `layer` taken: -1 is the
    last, 0 the word embeddings. Texts longer than the model reads are cut.
    """
    encoder = load_encoder(
        model, pooling=pooling, layer=layer, normalize=normalize, precision=precision
    )
    columns = [text] if isinstance(text, str) else text
    rows = at_least_one(embedded(read_documents(source, text=columns), encoder))
    return np.stack([answer.values for _, answer in rows])


def embedded(
    documents: Iterable[Document], encoder: Encoder, cut: Callable[[int], None] = lambda _: None
) -> Iterator[Embedded]:
    """Yields each document with its Vector (or TokenVectors), in order, as they are read.

    `cut` hears how many tokens were cut of a text that is longer than the model reads.
    """
    waiting: deque[Document] = deque()

    def texts() -> Iterator[str]:
        for document in documents:
            waiting.append(document)
            yield document.text

    for answer in encoder.stream(texts(), cut=cut):
        yield waiting.popleft(), answer


def check_target(path: Path, tokens: bool) -> None:
    """Raises SettingsError for a file that vectors are not written to."""
    if path.suffix not in SUFFIXES:
        raise SettingsError(
            str(path), f'vectors are not written as "{path.suffix}"',
            f"The file has to end in one of {', '.join(SUFFIXES)}.",
        )  # fmt: skip
    if tokens and path.suffix == ".npy":
        raise SettingsError(
            str(path), "an array cannot say which token belongs to which text", "",
            "Write .parquet or .jsonl.",
        )  # fmt: skip


def write_vectors(rows: Iterable[Embedded], path: Path) -> int:
    """Writes texts with their vectors, in the form that the suffix names; returns their number.

    A file appears under its name only when all is written. Raises DataError when it cannot be, and
    when there is no text.
    """
    rows = at_least_one(rows)
    if path.suffix == ".jsonl":
        return write_rows((_as_json(*row) for row in rows), path)
    write = _write_parquet if path.suffix == ".parquet" else _write_array
    with replacing(path) as stream:
        return write(rows, stream.buffer)


def at_least_one(rows: Iterable[Embedded]) -> Iterator[Embedded]:
    walk = iter(rows)
    first = next(walk, None)
    if first is None:
        raise DataError("the source", "there is no row", "At least one text is needed.")
    yield first
    yield from walk


def _as_json(document: Document, answer: Any) -> dict[str, Any]:
    return {"id": document.key, "text": document.text, **answer.to_json()}


def _write_parquet(rows: Iterable[Embedded], stream: BinaryIO) -> int:
    walk, num_rows = iter(rows), 0
    writer: Any = None
    try:
        while part := list(islice(walk, ROWS_AT_ONCE)):
            table = _table(part)
            writer = writer or pa.parquet.ParquetWriter(stream, table.schema)
            writer.write_table(table)
            num_rows += len(part)
    finally:
        if writer is not None:
            writer.close()
    return num_rows


def _table(rows: Sequence[Embedded]) -> pa.Table:
    answers = [answer for _, answer in rows]
    columns = {
        "id": pa.array([document.key for document, _ in rows], pa.string()),
        "text": pa.array([document.text for document, _ in rows], pa.large_string()),
    }
    if isinstance(answers[0], TokenVectors):
        return pa.table(columns | _token_columns(answers))
    return pa.table(columns | {"vector": _vectors(np.stack([a.values for a in answers]))})


def _token_columns(answers: Sequence[TokenVectors]) -> dict[str, Any]:
    places = [answer.places_N2 for answer in answers]
    ends = np.cumsum([0, *(len(answer.tokens) for answer in answers)])
    flat = _vectors(np.concatenate([answer.vectors_ND for answer in answers]))
    whole = pa.list_(pa.int32())
    return {
        "tokens": pa.array([answer.tokens for answer in answers], pa.list_(pa.string())),
        "starts": pa.array([place_N2[:, 0].tolist() for place_N2 in places], whole),
        "ends": pa.array([place_N2[:, 1].tolist() for place_N2 in places], whole),
        "vectors": pa.ListArray.from_arrays(pa.array(ends, pa.int32()), flat),
    }


def _vectors(vectors_RD: Floats) -> pa.Array:
    flat = pa.array(np.ascontiguousarray(vectors_RD, np.float32).ravel())
    return pa.FixedSizeListArray.from_arrays(flat, vectors_RD.shape[1])


def _write_array(rows: Iterable[Embedded], stream: BinaryIO) -> int:
    """Writes a .npy file whose head is filled in at the end: NumPy leaves room for the number."""
    num_rows = dimensions = 0
    for num_rows, (_, answer) in enumerate(rows, 1):
        if num_rows == 1:
            dimensions = len(answer.values)
            _write_head(stream, 0, dimensions)
        stream.write(answer.values.astype("<f4").tobytes())
    stream.seek(0)
    _write_head(stream, num_rows, dimensions)
    stream.seek(0, 2)
    return num_rows


def _write_head(stream: BinaryIO, num_rows: int, dimensions: int) -> None:
    head = {"descr": "<f4", "fortran_order": False, "shape": (num_rows, dimensions)}
    np.lib.format.write_array_header_1_0(stream, head)
