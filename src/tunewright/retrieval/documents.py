"""The documents of a source: any file, folder or table that `tunewright.data` reads.

    for document in read_documents("articles.csv", id_column="url"): ...

A row is a document. What names it is the column `id` (or what `--id` says), else its file and line.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from tunewright.answers import finite
from tunewright.data import ReadSettings, Table, as_rows, is_blank, read_table
from tunewright.data import stream_tables as small_tables
from tunewright.data.columns import check_is_column
from tunewright.data.readers import DEFAULTS
from tunewright.data.wording import once
from tunewright.errors import DataError
from tunewright.tasks.shared.texts import text_of
from tunewright.types import Role, Row

TEXT = Role(
    "text",
    "the text to be read",
    ("content", "document", "passage", "body", "sentence", "review", "positive"),
)
# The columns of a corpus in the form of BEIR, where title and text are one document.
BEIR = ("_id", "title", "text")
JOINED = '"title" and "text" are read together, as in BEIR; --text text reads the text alone.'
ID = Role("id", "what names a document", ("_id", "docid", "doc_id", "file"), required=False)


@dataclass(frozen=True, slots=True)
class Document:
    """A text, what names it, its other columns as plain values, and where it was read.

    Without an id the key is the place, `data.csv:2`, which another source may have, too.
    """

    key: str
    text: str
    columns: Mapping[str, Any] = field(default_factory=dict)
    where: str = ""
    has_id: bool = True

    def columns_json(self) -> str:
        """Returns the columns as one line of JSON."""
        return json.dumps(finite(self.columns), ensure_ascii=False, default=str)


def read_documents(
    source: Any,
    *,
    text: Sequence[str] = (),
    id_column: str | None = None,
    settings: ReadSettings = DEFAULTS,
    kind: str = "jsonl",
    say: Callable[[str], None] = lambda _: None,
) -> Iterator[Document]:
    """Yields the documents of a source as they are read; files are never held whole.

    `source` is a path, a Hub id, a binary stream of the format `kind`, a frame, or a list of texts
    or dicts. The columns `text` are joined by line ends; without any, the usual names are looked
    for, and of a corpus in the form of BEIR (`_id`, `title`, `text`) the title and the text are
    joined by a space, as there. `say` hears, once, which columns were found by their names, and
    what was odd.

    Raises DataError as the readers do, for a column that is not there, and for a text or an id that
    is none.
    """
    say = once(say)
    for table in _tables(source, settings, kind):
        is_beir = not text and set(BEIR) <= set(table.column_names)
        columns = BEIR[1:] if is_beir else text
        given = {"text": columns[0]} if columns else {}
        given |= {"id": id_column} if id_column else {}
        rows = as_rows(table, (TEXT, ID), given, training=False, say=say)
        if is_beir:
            say(f"{table.name}: {JOINED}")
        for name in columns:
            check_is_column(name, table.column_names, table.name)
        for row in rows:
            yield _document(row, columns[1:], " " if is_beir else "\n")


def _tables(source: Any, settings: ReadSettings, kind: str) -> Iterator[Table]:
    """Yields a file's rows as small tables, and any other source as one."""
    is_path = isinstance(source, str | os.PathLike)
    if is_path and Path(source).is_file():
        yield from small_tables(source, settings)
    elif hasattr(source, "read"):
        stream: BinaryIO = source
        yield from small_tables(stream, settings, kind)
    else:
        yield read_table(source, settings)


def _document(row: Row, more: Sequence[str], between: str) -> Document:
    columns = dict(row.extras)
    others = [replace(row, values={"text": columns.pop(name)}) for name in more]
    texts = [text_of(each, "text") for each in (row, *others)]
    body = between.join(text for text in texts if not is_blank(text))
    return Document(_key(row), body, columns, row.where, "id" in row.values)


def _key(row: Row) -> str:
    """Returns what names a document: its id, or its file and line."""
    if "id" in row.values:
        value = row.values["id"]
        if is_blank(value):
            raise DataError(
                row.where, "its id is empty", "An id names one document.",
                "Fill it in, or name another column with --id.",
            )  # fmt: skip
        return str(value)
    return f"{Path(row.source).name}:{row.line}" if row.line else str(row.id)
