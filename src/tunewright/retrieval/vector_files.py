"""Files of vectors, written as the vectors come, in full or in smaller forms.

    vectors.parquet     id, text, vector; with tokens: id, text, tokens, starts, ends, vectors
    vectors.jsonl       the same, a line a text
    vectors.npy         the vectors alone, (R, D), in the order of the source; with tokens those of
                        all texts, (N, D), and in vectors.offsets.npy where each text begins
    vectors.ranges.npy  beside any of them, for int8 and uint8: what the codes stand for, (2, D)

Shape letters: R texts, N tokens, D numbers of a vector.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import islice
from os import PathLike
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from tunewright.answers import Vector
from tunewright.data import write_rows
from tunewright.data.writers import replacing
from tunewright.errors import DataError, SettingsError
from tunewright.models.pooling import RANGED, Codes, Floats, VectorForm, quantised, value_ranges
from tunewright.retrieval.documents import Document
from tunewright.retrieval.encoder import TokenVectors

Embedded = tuple[Document, Any]

SUFFIXES = (".parquet", ".jsonl", ".npy")
UNNAMED = Document("", "")  # of an array, which holds no texts
ROWS_AT_ONCE = 256  # of a Parquet file's row group, which is in memory until it is written


def check_target(path: Path) -> None:
    """Raises SettingsError for a file that vectors are not written to."""
    if path.suffix not in SUFFIXES:
        raise SettingsError(
            str(path), f'vectors are not written as "{path.suffix}"',
            f"The file has to end in one of {', '.join(SUFFIXES)}.",
        )  # fmt: skip


def write_vectors(
    rows: Iterable[Embedded],
    path: Path,
    form: VectorForm = "float32",
    ranges_2D: Floats | None = None,
) -> int:
    """Writes texts with their vectors, in the form that the suffix names; returns their number.

    For int8 and uint8 the ranges stand in a file beside. Those that are not given are taken from
    all vectors, which wait on the disk meanwhile, in full. A file appears under its name only when
    all is written.

    Raises DataError when it cannot be, and when there is no text; SettingsError as `quantised`.
    """
    rows = at_least_one(rows)
    if form not in RANGED:
        return _write(in_form(rows, form), path)
    with replacing(beside(path, "ranges")) as stream, ExitStack() as files:
        if ranges_2D is None:
            spool = files.enter_context(TemporaryFile(dir=path.parent))
            seen = _Seen()
            rows = rows if path.suffix != ".npy" else ((UNNAMED, answer) for _, answer in rows)
            _write_parquet(seen.watch(rows), spool)
            rows, ranges_2D = _read_parquet(spool), seen.ranges_2D
        num_rows = _write(in_form(rows, form, ranges_2D), path)
        np.save(stream.buffer, np.asarray(ranges_2D, np.float32), allow_pickle=False)
    return num_rows


def beside(path: Path, what: str) -> Path:
    """Returns the array beside a file of vectors: v.ranges.npy beside v.parquet."""
    return path.with_suffix(f".{what}.npy")


def read_ranges(path: str | PathLike[str]) -> Floats:
    """Returns the ranges that stand beside a file of vectors, (2, D).

    Raises DataError for another file.
    """
    needed = "It is a .ranges.npy that was written beside vectors."
    try:
        found = np.load(path, allow_pickle=False)
    except OSError as error:
        raise DataError(
            str(path), f"it cannot be read ({error.strerror or error})", needed
        ) from None
    except (ValueError, EOFError):
        found = None
    if not isinstance(found, np.ndarray) or found.ndim != 2 or found.dtype.kind != "f":
        raise DataError(str(path), "it holds no ranges", needed)
    return found.astype(np.float32)


def in_form(
    rows: Iterable[Embedded], form: VectorForm, ranges_2D: Floats | None = None
) -> Iterator[Embedded]:
    """Yields the rows with their vectors in a smaller form; int8 and uint8 need the ranges."""
    for document, answer in rows:
        if form == "float32":
            yield document, answer
            continue
        codes = quantised(_block(answer), form, ranges_2D)
        yield (
            document,
            (
                replace(answer, vectors_ND=codes)
                if isinstance(answer, TokenVectors)
                else replace(answer, values=codes[0])
            ),
        )


def at_least_one(rows: Iterable[Embedded]) -> Iterator[Embedded]:
    walk = iter(rows)
    first = next(walk, None)
    if first is None:
        raise DataError("the source", "there is no row", "At least one text is needed.")
    yield first
    yield from walk


def _block(answer: Any) -> Codes:
    """Returns the vectors of an answer: one, (1, D), or those of its tokens, (N, D)."""
    found: Codes = answer.vectors_ND if isinstance(answer, TokenVectors) else answer.values[None]
    return found


@dataclass
class _Seen:
    """The least and the greatest value of each number among the vectors that went by."""

    ends_2D: Floats | None = None

    def watch(self, rows: Iterable[Embedded]) -> Iterator[Embedded]:
        for row in rows:
            block_ND = _block(row[1])
            known = block_ND if self.ends_2D is None else np.concatenate([self.ends_2D, block_ND])
            self.ends_2D = known if len(known) < 2 else value_ranges(known)
            yield row

    @property
    def ranges_2D(self) -> Floats:
        assert self.ends_2D is not None
        return value_ranges(self.ends_2D)


def _write(rows: Iterable[Embedded], path: Path) -> int:
    if path.suffix == ".jsonl":
        return write_rows((_as_json(*row) for row in rows), path)
    if path.suffix == ".npy":
        return _write_arrays(rows, path)
    with replacing(path) as stream:
        return _write_parquet(rows, stream.buffer)


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
    flat = _vectors(np.concatenate([_block(answer) for answer in answers]))
    if isinstance(answers[0], TokenVectors):
        return pa.table(columns | _token_columns(answers, flat))
    return pa.table(columns | {"vector": flat})


def _token_columns(answers: Sequence[TokenVectors], flat: pa.Array) -> dict[str, Any]:
    places = [answer.places_N2 for answer in answers]
    ends = np.cumsum([0, *(len(answer.tokens) for answer in answers)])
    whole = pa.list_(pa.int32())
    return {
        "tokens": pa.array([answer.tokens for answer in answers], pa.list_(pa.string())),
        "starts": pa.array([place_N2[:, 0].tolist() for place_N2 in places], whole),
        "ends": pa.array([place_N2[:, 1].tolist() for place_N2 in places], whole),
        "vectors": pa.ListArray.from_arrays(pa.array(ends, pa.int32()), flat),
    }


def _vectors(vectors_RD: Codes) -> pa.Array:
    flat = pa.array(np.ascontiguousarray(vectors_RD).ravel())
    return pa.FixedSizeListArray.from_arrays(flat, vectors_RD.shape[1])


def _read_parquet(stream: BinaryIO) -> Iterator[Embedded]:
    """Yields the rows of a file that `_write_parquet` wrote."""
    stream.seek(0)
    file = pa.parquet.ParquetFile(stream)
    for batch in file.iter_batches(batch_size=ROWS_AT_ONCE):
        columns = dict(zip(batch.schema.names, batch.columns, strict=True))
        keys, texts = columns["id"].to_pylist(), columns["text"].to_pylist()
        documents = [Document(*row) for row in zip(keys, texts, strict=True)]
        yield from zip(documents, _answers(columns), strict=True)


def _answers(columns: dict[str, Any]) -> Iterator[Any]:
    if "vector" in columns:
        yield from map(Vector, _matrix(columns["vector"]))
        return
    names = ("tokens", "starts", "ends")
    vectors_ND, begin = _matrix(columns["vectors"].flatten()), 0
    for tokens, *places in zip(*(columns[name].to_pylist() for name in names), strict=True):
        end = begin + len(tokens)
        places_N2 = np.array(places, np.int32).reshape(2, -1).T
        yield TokenVectors(tuple(tokens), places_N2, vectors_ND[begin:end])
        begin = end


def _matrix(vectors: pa.FixedSizeListArray) -> Codes:
    return vectors.flatten().to_numpy().reshape(len(vectors), vectors.type.list_size)


def _write_arrays(rows: Iterable[Embedded], path: Path) -> int:
    """Writes the vectors alone, and for tokens, whose number differs, where each text begins."""
    num_rows = 0
    with ExitStack() as files:
        vectors = _Array(files.enter_context(replacing(path)).buffer)
        offsets: _Array | None = None
        for _, answer in rows:
            num_rows += 1
            vectors.add(_block(answer))
            if isinstance(answer, TokenVectors):
                if offsets is None:
                    stream = files.enter_context(replacing(beside(path, "offsets"))).buffer
                    offsets = _Array(stream)
                    offsets.add(np.zeros(1, np.int64))
                offsets.add(np.array([vectors.num_rows]))
        for array in (vectors, offsets):
            if array is not None:
                array.finish()
    return num_rows


@dataclass
class _Array:
    """A .npy file that grows. NumPy leaves room in its head for the number, known at the end."""

    stream: BinaryIO
    num_rows: int = 0
    _head: dict[str, Any] | None = None

    def add(self, rows: Codes) -> None:
        rows = np.ascontiguousarray(rows, rows.dtype.newbyteorder("<"))
        if self._head is None:
            descr = np.lib.format.dtype_to_descr(rows.dtype)
            self._head = {"descr": descr, "fortran_order": False, "shape": (0, *rows.shape[1:])}
            np.lib.format.write_array_header_1_0(self.stream, self._head)
        self.stream.write(rows.tobytes())
        self.num_rows += len(rows)

    def finish(self) -> None:
        assert self._head is not None
        head = self._head | {"shape": (self.num_rows, *self._head["shape"][1:])}
        self.stream.seek(0)
        np.lib.format.write_array_header_1_0(self.stream, head)
        self.stream.seek(0, 2)
