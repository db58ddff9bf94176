"""The file of an index, `index.db`: documents, passages, vectors and words in one SQLite database.

    with opened(folder) as store:       # as it was last finished, whatever is written meanwhile
        store.setting("model")

Documents, their passages and their words change together in one transaction, so that a reader sees
an index before it or after it. Vectors are written one batch after another, under the digest of
their text; nothing reads a vector but through a passage, so those of an index that is being made
are not seen, and one that was killed finds them again.

Shape letters: P passages, D numbers of a vector.
"""

from __future__ import annotations

import json
import os
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from tunewright.errors import DataError, RunError, SettingsError, TunewrightError
from tunewright.retrieval.stored import StoredForm, packed

FILE = "index.db"
FORMAT = 1  # counts the ways in which indexes have been written
DIGEST_BYTES = 16
WAIT_SECONDS = 30.0  # for another process to finish its commit
CACHE_KIB = 65_536

Floats = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.int64]

SCHEMA = (
    "create table settings (name text primary key, value text not null) without rowid",
    "create table documents (id integer primary key, key text not null unique,"
    " digest blob not null, body text not null, columns text not null)",
    "create table passages (id integer primary key, document integer not null,"
    " start integer not null, stop integer not null, vector integer not null)",
    "create index passages_by_document on passages (document)",
    "create index passages_by_vector on passages (vector)",
    "create table vectors (id integer primary key, digest blob not null unique,"
    " numbers blob not null, checksum integer not null)",
    "create virtual table words using fts5"
    " (body, content='', tokenize='unicode61 remove_diacritics 2')",
    "create virtual table frequencies using fts5vocab (words, 'row')",
)


class Passage(NamedTuple):
    """A stretch [start, stop) of a document, in characters; `document` is its number here."""

    id: int
    document: int
    key: str
    text: str
    start: int
    stop: int
    columns: dict[str, Any]


@dataclass(frozen=True)
class Store:
    """An open database. SQL that more than one part needs is here."""

    path: Path
    connection: sqlite3.Connection

    def rows(self, sql: str, values: Sequence[Any] = ()) -> Iterator[Any]:
        """Yields the rows of a query as they are read."""
        with faults_named(self.path):
            yield from self.connection.execute(sql, values)

    def one(self, sql: str, values: Sequence[Any] = ()) -> Any:
        """Returns the first value of the first row, or None."""
        row = next(self.rows(sql, values), None)
        return None if row is None else row[0]

    def run(self, sql: str, values: Sequence[Any] = ()) -> None:
        with faults_named(self.path):
            self.connection.execute(sql, values)

    def run_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        with faults_named(self.path):
            self.connection.executemany(sql, rows)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All that is written within happens at the end, or not at all."""
        self.run("begin immediate")
        try:
            yield
            self.run("commit")
        except BaseException:
            if self.connection.in_transaction:
                self.connection.rollback()
            raise

    def setting(self, name: str) -> Any:
        """Returns a setting of the index as a plain value, None where it has none."""
        found = self.one("select value from settings where name = ?", (name,))
        return None if found is None else json.loads(found)

    def set(self, **values: Any) -> None:
        """Writes settings of the index."""
        rows = [(name, json.dumps(value)) for name, value in values.items()]
        self.run_many("insert or replace into settings values (?, ?)", rows)

    def is_new(self) -> bool:
        """Says whether nothing was ever written."""
        return self.one("select 1 from sqlite_master where name = 'settings'") is None

    @property
    def generation(self) -> int:
        """How often the index has been finished; 0 is never."""
        return 0 if self.is_new() else self.setting("generation") or 0

    @property
    def vector_form(self) -> tuple[StoredForm, int]:
        """How vectors are stored, and how many numbers they have."""
        about = self.setting("vectors") or {"form": "float32", "dimensions": 0}
        return about["form"], about["dimensions"]

    @property
    def num_documents(self) -> int:
        return int(self.one("select count(*) from documents"))

    @property
    def num_passages(self) -> int:
        return int(self.one("select count(*) from passages"))

    def passage(self, number: int) -> Passage:
        """Returns a passage with its text and its document's columns."""
        sql = (
            "select p.id, p.document, d.key, d.body, p.start, p.stop, d.columns"
            " from passages p join documents d on d.id = p.document where p.id = ?"
        )
        place, document, key, body, start, stop, columns = next(self.rows(sql, (number,)))
        return Passage(place, document, key, body[start:stop], start, stop, json.loads(columns))

    def vectors(self, numbers: Sequence[int] | None = None) -> Iterator[tuple[int, int, bytes]]:
        """Yields (passage, its document, the bytes of its vector), of all passages or some.

        Raises RunError for a vector that is not as it was written.
        """
        sql = (
            "select p.id, p.document, v.numbers, v.checksum"
            " from passages p join vectors v on v.id = p.vector"
        )
        if numbers is not None:
            sql += f" where p.id in ({','.join(map(str, numbers))})"
        for number, document, raw, checksum in self.rows(f"{sql} order by p.id"):
            if zlib.crc32(raw) != checksum:
                raise damaged(self.path, f"the vector of passage {number} is not as it was written")
            yield number, document, raw

    def add_vectors(self, digests: Sequence[bytes], vectors_PD: Floats) -> None:
        """Writes vectors under the digests of their texts, in one transaction."""
        raws = packed(vectors_PD, self.vector_form[0])
        rows = [(digest, raw, zlib.crc32(raw)) for digest, raw in zip(digests, raws, strict=True)]
        with self.transaction():
            self.run_many(
                "insert or ignore into vectors (digest, numbers, checksum) values (?, ?, ?)", rows
            )


def digest_of(*parts: str) -> bytes:
    """Returns 16 bytes that other texts do not have."""
    raws = [part.encode("utf-8", "surrogatepass") for part in parts]
    head = ",".join(str(len(raw)) for raw in raws).encode()
    return blake2b(b"\0".join([head, *raws]), digest_size=DIGEST_BYTES).digest()


@contextmanager
def opened(folder: Path) -> Iterator[Store]:
    """Opens an index to read it as it was last finished.

    Raises DataError when there is none, or none was ever finished; RunError when it is damaged.
    """
    store = open_to_read(folder)
    try:
        yield store
    finally:
        store.connection.close()


def open_to_read(folder: Path) -> Store:
    """Opens an index to read it; `opened` closes it, too."""
    path = folder / FILE
    if not path.is_file():
        raise DataError(
            str(folder), f"it holds no {FILE}", "It is no index.",
            "Make one with: tunewright index SOURCE --out FOLDER",
        )  # fmt: skip
    with faults_named(path):
        store = Store(path, _connected(path, _uri(path)))
    try:
        store.run("begin")  # what is written from now on is not seen
        if store.generation == 0:
            raise DataError(
                str(folder), "no indexing has been finished here yet", "",
                "Run tunewright index again: it goes on where it stopped.",
            )  # fmt: skip
        check_format(store)
    except BaseException:
        store.connection.close()
        raise
    return store


def made_by(folder: Path) -> dict[str, Any] | None:
    """Returns how the model of an index is loaded, of one that was never finished, too.

    None where there is no index. Raises DataError when another version of Tunewright wrote it,
    SettingsError when it is by an embedder of the user's own.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    with faults_named(path):
        store = Store(path, _connected(path, _uri(path)))
    try:
        if store.is_new():
            return None
        check_format(store)
        return model_of(store)
    finally:
        store.connection.close()


def model_of(store: Store) -> dict[str, Any]:
    """Returns how the model of an index is loaded.

    Raises SettingsError where it is an embedder of the user's own.
    """
    about: dict[str, Any] | None = store.setting("model")
    if about is None:
        raise SettingsError(
            str(store.path), "it was made by an embedder of your own", "",
            "Give it in Python, as embedder=...",
        )  # fmt: skip
    return about


def _uri(path: Path) -> str:
    """A folder that cannot be written to needs to be read without SQLite's own files beside it."""
    frozen = not os.access(path.parent, os.W_OK) and not Path(f"{path}-wal").exists()
    return f"file:{quote(str(path.absolute()))}?mode=ro" + ("&immutable=1" if frozen else "")


@contextmanager
def opened_to_write(folder: Path) -> Iterator[Store]:
    """Opens an index to change it, and makes it where there is none.

    Raises RunError when the folder cannot be written to.
    """
    path = folder / FILE
    with faults_named(path):
        folder.mkdir(parents=True, exist_ok=True)
        store = Store(path, _connected(path, f"file:{quote(str(path.absolute()))}"))
    try:
        store.run("pragma journal_mode = wal")
        store.run("pragma synchronous = full")
        store.run(f"pragma cache_size = -{CACHE_KIB}")
        yield store
        store.run("pragma wal_checkpoint(passive)")
    finally:
        store.connection.close()


def make_tables(store: Store, settings: Mapping[str, Any]) -> None:
    """Makes the tables of a new index and writes its settings, all or nothing."""
    with store.transaction():
        for statement in SCHEMA:
            store.run(statement)
        store.set(format=FORMAT, generation=0, **settings)


def check_format(store: Store) -> None:
    """Raises DataError when another version of Tunewright wrote the index."""
    if store.setting("format") != FORMAT:
        raise DataError(
            str(store.path), "another version of Tunewright wrote it", "", "Index the texts anew."
        )


def _connected(path: Path, uri: str) -> sqlite3.Connection:
    return sqlite3.connect(
        uri, uri=True, timeout=WAIT_SECONDS, isolation_level=None, check_same_thread=False
    )


@contextmanager
def faults_named(path: Path) -> Iterator[None]:
    """Turns what SQLite and the system refuse into errors that say what to do."""
    try:
        yield
    except TunewrightError:
        raise
    except OSError as error:
        raise _not_accessible(path, error.strerror or str(error)) from error
    except sqlite3.DatabaseError as error:
        raise _named(path, error) from error


def _named(path: Path, error: sqlite3.DatabaseError) -> Exception:
    name = getattr(error, "sqlite_errorname", "")
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return damaged(path, str(error))
    if name.startswith(
        ("SQLITE_FULL", "SQLITE_IOERR", "SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_BUSY")
    ):
        return _not_accessible(path, str(error))
    return error


def _not_accessible(path: Path, reason: str) -> RunError:
    return RunError(
        str(path),
        f"it could not be read or written ({reason})",
        "What was finished before is as it was.",
        "Free some space or mend the disk, and run the same again: it goes on where it stopped.",
    )


def damaged(path: Path, found: str) -> RunError:
    """Returns the error of an index that is not as it was written."""
    return RunError(str(path), found, "The index is damaged.", "Index the texts into a new folder.")
