"""Makes an index of documents and keeps it up to date.

    update_index(Path("index"), read_documents("articles.csv"), embedder)
    remove_documents(Path("index"), ["an-id", "another"])

The documents are read once and compared with what the index holds. New passages are embedded, a
batch at a time; then everything changes in one transaction. A run that is killed has changed
nothing, and the next one finds the vectors that it had made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from filelock import FileLock, Timeout

from tunewright.data import is_blank
from tunewright.errors import DataError, ModelError, SettingsError
from tunewright.prediction.ahead import spread
from tunewright.retrieval.documents import Document
from tunewright.retrieval.embedder import (
    Embedder,
    encoded,
    is_same_model,
    passage_tokens_of,
    places_of,
    probe,
)
from tunewright.retrieval.encoder import Encoder, check_choice, windows
from tunewright.retrieval.nearest import write_clusters
from tunewright.retrieval.passages import passages
from tunewright.retrieval.store import (
    FILE,
    Store,
    check_format,
    digest_of,
    faults_named,
    make_tables,
    opened,
    opened_to_write,
)
from tunewright.retrieval.stored import StoredForm
from tunewright.retrieval.words import indexed

LOCK = ".lock"
DEFAULT_STRIDE = 32  # tokens; an answer that a border cuts is whole in the next passage
BATCH_PASSAGES = 256  # embedded between two commits: what a kill costs
DOCUMENTS_AT_ONCE = 256  # cut into passages, by several threads

STAGED = (
    "create temp table incoming (key text primary key, digest blob not null, body text,"
    " columns text not null, place text not null)",
    "create temp table pieces (key text not null, start integer not null, stop integer not null,"
    " digest blob not null)",
    "create temp table blank (key text primary key)",
)
# Documents that leave the index, for good or because their text or columns changed.
STALE = (
    "select d.id from documents d left join incoming i on i.key = d.key"
    " where i.body is not null"
    " or (i.key is null and (not ? or d.key in (select key from blank)))"
)
# Made when documents are first added, which without ids are known again by their text.
BY_DIGEST = "create index if not exists documents_by_digest on documents (digest)"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an indexing is: documents done, of how many (0: not known yet)."""

    phase: Literal["read", "embed", "write"]
    done: int
    total: int = 0


@dataclass(frozen=True, slots=True)
class IndexChange:
    """What an indexing did: documents by what became of them, passages held and embedded."""

    num_added: int
    num_changed: int
    num_removed: int
    num_unchanged: int
    num_blank: int
    num_passages: int
    num_embedded: int

    def to_json(self) -> dict[str, int]:
        return asdict(self)


def update_index(
    folder: Path,
    documents: Iterable[Document],
    embedder: Embedder,
    *,
    passage_tokens: int | None = None,
    stride: int | None = None,
    add: bool = False,
    vectors: StoredForm | None = None,
    model: Mapping[str, Any] | None = None,
    tell: Callable[[Progress], None] = lambda _: None,
) -> IndexChange:
    """Makes the index in `folder` hold these documents, and says what changed.

    Documents that it holds and that do not come again are removed, unless `add`. Then a document
    without an id takes the place of none: it is the one that has its text and columns, or a new
    one. A document whose text is blank now is removed in either case. Texts longer than
    `passage_tokens` become passages that share `stride` tokens; None is as the index was made, or
    what the model reads at once and 32. `vectors` says how they are stored: "float32", "int8" in a
    quarter of it, "binary" in a 32nd; None is as the index was made, or float32. `model` says how
    the embedder is found again.

    Raises DataError for a document that comes twice, ModelError and SettingsError when the index
    was made by another model or with other settings, RunError when the disk refuses.
    """
    check_choice("vectors", vectors or "float32", get_args(StoredForm))
    _check_folder(folder)
    with faults_named(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder), opened_to_write(folder) as store:
        asked = {"passage_tokens": passage_tokens, "stride": stride, "vectors": vectors}
        size, stride = _settled(store, embedder, asked, model)
        update = _Update(store, embedder, size, stride, add, tell)
        change = update.run(documents)
        write_clusters(store)
        return change


def remove_documents(folder: Path, keys: Sequence[str]) -> IndexChange:
    """Removes documents from an index by their ids; nothing is embedded.

    Raises DataError when there is no index, or an id is not in it: then nothing is removed.
    """
    with opened(folder):
        pass  # there is a finished one
    with _locked(folder), opened_to_write(folder) as store:
        change = _removed(store, list(dict.fromkeys(keys)))
        write_clusters(store)
        return change


def _removed(store: Store, keys: Sequence[str]) -> IndexChange:
    before = store.num_documents
    find = "select id from documents where key = ?"
    with store.transaction():
        numbers = {key: store.one(find, (key,)) for key in keys}
        unknown = [key for key, number in numbers.items() if number is None]
        if unknown:
            raise DataError(
                str(store.path), f'no document has the id "{unknown[0]}"', "Nothing was removed."
            )
        _take_out(store, list(numbers.values()))
        _drop_unused_vectors(store)
        store.set(generation=store.generation + 1)
    return IndexChange(0, 0, len(keys), before - len(keys), 0, store.num_passages, 0)


def _take_out(store: Store, documents: Iterable[int]) -> None:
    """Removes documents; the full-text index wants to be told the words that it forgets."""
    for document in documents:
        body = store.one("select body from documents where id = ?", (document,))
        places = store.rows("select id, start, stop from passages where document = ?", (document,))
        store.run_many(
            "insert into words (words, rowid, body) values ('delete', ?, ?)",
            [(number, indexed(body[start:stop])) for number, start, stop in places],
        )
        store.run("delete from passages where document = ?", (document,))
        store.run("delete from documents where id = ?", (document,))


def _drop_unused_vectors(store: Store) -> None:
    store.run("delete from vectors where id not in (select vector from passages)")


def _check_folder(folder: Path) -> None:
    """Raises SettingsError for a folder that holds other things than an index."""
    if folder.is_dir() and not (folder / FILE).exists():
        others = [entry.name for entry in folder.iterdir() if entry.name != LOCK]
        if others:
            raise SettingsError(
                str(folder), f'it holds "{others[0]}" and no index', "Nothing is overwritten.",
                "Name a folder that is empty or new.",
            )  # fmt: skip
    elif folder.exists() and not folder.is_dir():
        raise SettingsError(str(folder), "it is a file", "An index is a folder.", "Name another.")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    lock = FileLock(folder / LOCK, blocking=False)
    with faults_named(folder):
        try:
            lock.acquire()
        except Timeout:
            raise SettingsError(
                str(folder), "another process is indexing into it", "",
                "Wait until it ends, or stop it first.",
            ) from None  # fmt: skip
    try:
        yield
    finally:
        lock.release()


def _settled(
    store: Store, embedder: Embedder, asked: Mapping[str, Any], model: Mapping[str, Any] | None
) -> tuple[int, int]:
    """Returns size and stride of passages, written down in a new index and checked in an old."""
    vectors_BD = probe(embedder)
    given = {name: value for name, value in asked.items() if value is not None}
    if store.is_new():
        size = given.get("passage_tokens") or passage_tokens_of(embedder)
        stride = given.get("stride", DEFAULT_STRIDE)
        form = {"form": given.get("vectors", "float32"), "dimensions": vectors_BD.shape[1]}
        kept = {"passage_tokens": size, "stride": stride, "vectors": form, "model": model}
        make_tables(store, {**kept, "probe": vectors_BD.tolist()})
        return size, stride
    check_format(store)
    check_model(store, vectors_BD)
    made = {name: store.setting(name) for name in ("passage_tokens", "stride")}
    made["vectors"] = store.vector_form[0]
    for name, value in given.items():
        if value != made[name]:
            raise SettingsError(
                str(store.path), f"it was made with {name} = {made[name]}",
                f"{value} was asked for.", "Leave it out, or index into a new folder.",
            )  # fmt: skip
    _check_exact(store, model)
    return made["passage_tokens"], made["stride"]


def _check_exact(store: Store, model: Mapping[str, Any] | None) -> None:
    """Raises SettingsError where some vectors would be made alone and others in batches."""
    made, now = (
        bool((about or {}).get("settings", {}).get("exact"))
        for about in (store.setting("model"), model)
    )
    if made != now:
        raise SettingsError(
            str(store.path), f"it was made with exact = {str(made).lower()}",
            "All its vectors are made in one way.",
            f"Write exact={str(made).lower()}, or index into a new folder.",
        )  # fmt: skip


def check_model(store: Store, probe_BD: np.ndarray) -> None:
    """Raises ModelError when a probe is not that of the model which the index was made by."""
    kept_BD = np.array(store.setting("probe"), np.float32)
    if not is_same_model(probe_BD, kept_BD):
        name = (store.setting("model") or {}).get("name", "another model")
        raise ModelError(
            str(store.path),
            f"it was made by {name}, and this model gives other vectors",
            "Vectors of two models cannot be compared.",
            "Use that model, or index the texts into a new folder.",
        )


@dataclass
class _Update:
    """One indexing: read, embed, write."""

    store: Store
    embedder: Embedder
    size: int
    stride: int
    add: bool
    tell: Callable[[Progress], None]
    num_blank: int = 0
    num_embedded: int = 0
    passed: dict[bytes, int] = field(default_factory=dict)

    def run(self, documents: Iterable[Document]) -> IndexChange:
        for statement in (*STAGED, BY_DIGEST) if self.add else STAGED:
            self.store.run(statement)
        self._read(documents)
        self._check_overlap()
        self._embed()
        return self._write()

    def _read(self, documents: Iterable[Document]) -> None:
        """Sets aside what came, with its text where that is new."""
        with self.store.transaction():
            for done, document in enumerate(documents, 1):
                if is_blank(document.text):
                    self._leave_out(document)
                else:
                    self._set_aside(document)
                if done % 1000 == 0:
                    self.tell(Progress("read", done))
        if not self._count("select count(*) from incoming"):
            raise DataError("the source", "no row has a text", "At least one is needed.")

    def _leave_out(self, document: Document) -> None:
        self.num_blank += 1
        if document.has_id:
            self.store.run("insert or ignore into blank values (?)", (document.key,))

    def _set_aside(self, document: Document) -> None:
        key, columns = document.key, document.columns_json()
        digest = digest_of(document.text, columns)
        if self.add and not document.has_id:
            key = self._key_apart(key, digest)
        other = self.store.one("select place from incoming where key = ?", (key,))
        if other is not None:
            raise DataError(
                document.where, f'the id "{key}" stands in {other}, too', "An id names one row.",
                "Remove one of them, or name another column with --id.",
            )  # fmt: skip
        old = self.store.one("select digest from documents where key = ?", (key,))
        body = None if digest == old else document.text
        row = (key, digest, body, columns if body is not None else "", document.where)
        self.store.run("insert into incoming values (?, ?, ?, ?, ?)", row)

    def _key_apart(self, place: str, digest: bytes) -> str:
        """Returns the key of what is added without an id: that of the same text, or a free one."""
        at_place = "select 1 from documents where key = ? and digest = ?"
        if self.store.one(at_place, (place, digest)) and not self._came(place):
            return place
        return self._key_of_same(digest) or self._free_key(place)

    def _key_of_same(self, digest: bytes) -> str | None:
        """Returns the key of a document of this text and columns that has not come yet."""
        sql = "select id, key from documents where digest = ? and id > ? order by id limit 1"
        while found := next(self.store.rows(sql, (digest, self.passed.get(digest, 0))), None):
            if not self._came(found[1]):
                return str(found[1])
            self.passed[digest] = found[0]
        return None

    def _free_key(self, place: str) -> str:
        """Returns the place, or with a number where it is taken: data.csv:2, then data.csv:2#2."""
        if not self._is_taken(place):
            return place
        taken, free = 1, 2
        while self._is_taken(f"{place}#{free}"):
            taken, free = free, 2 * free
        while free - taken > 1:
            middle = (taken + free) // 2
            taken, free = (middle, free) if self._is_taken(f"{place}#{middle}") else (taken, middle)
        return f"{place}#{free}"

    def _is_taken(self, key: str) -> bool:
        held = self.store.one("select 1 from documents where key = ?", (key,))
        return held is not None or self._came(key)

    def _came(self, key: str) -> bool:
        return self.store.one("select 1 from incoming where key = ?", (key,)) is not None

    def _check_overlap(self) -> None:
        """Raises SettingsError when nothing of the index came again: it is another source."""
        held = self.store.num_documents
        if held and not self.add:
            again = "select count(*) from documents d join incoming i on i.key = d.key"
            if not self._count(again):
                raise SettingsError(
                    str(self.store.path),
                    f"none of its {held:,} documents is in the source",
                    "They would all be removed.",
                    "Add to them with --add, or index into a new folder.",
                )

    def _embed(self) -> None:
        """Cuts new texts into passages and embeds those that no index or run has embedded yet."""
        total = self._count("select count(*) from incoming where body is not null")
        waiting: dict[bytes, str] = {}
        for done, (key, body, cut) in enumerate(self._cut(), 1):
            for start, stop in cut:
                digest = digest_of(body[start:stop])
                self.store.run("insert into pieces values (?, ?, ?, ?)", (key, start, stop, digest))
                if not self._is_embedded(digest):
                    waiting[digest] = body[start:stop]
            if len(waiting) >= BATCH_PASSAGES:
                self._add_vectors(waiting)
                waiting = {}
                self.tell(Progress("embed", done, total))
        if waiting:
            self._add_vectors(waiting)
        self.tell(Progress("embed", total, total))

    def _cut(self) -> Iterator[tuple[str, str, list[tuple[int, int]]]]:
        """Yields new texts with the places of their passages."""
        new = self.store.rows("select key, body from incoming where body is not null")
        several = spread if isinstance(self.embedder, Encoder) else map  # yours may want one thread
        for part in windows(new, DOCUMENTS_AT_ONCE, lambda row: len(row[1])):
            cuts = several(self._passages, [body for _, body in part])
            for (key, body), cut in zip(part, cuts, strict=True):
                yield key, body, cut

    def _passages(self, body: str) -> list[tuple[int, int]]:
        return passages(body, places_of(self.embedder, body), self.size, self.stride)

    def _is_embedded(self, digest: bytes) -> bool:
        return self.store.one("select 1 from vectors where digest = ?", (digest,)) is not None

    def _add_vectors(self, texts: Mapping[bytes, str]) -> None:
        vectors_BD = encoded(self.embedder, list(texts.values()), "document")
        self.store.add_vectors(list(texts), vectors_BD)
        self.num_embedded += len(texts)

    def _write(self) -> IndexChange:
        """Changes documents, passages and words in one transaction."""
        before = self.store.num_documents
        changed = self._count(
            "select count(*) from incoming i join documents d on d.key = i.key"
            " where i.body is not null"
        )
        stale = [row[0] for row in self.store.rows(STALE, (self.add,))]
        new = self._count("select count(*) from incoming where body is not null")
        if stale or new:
            self.tell(Progress("write", 0, len(stale) + new))
            with self.store.transaction():
                _take_out(self.store, stale)
                self._insert()
                _drop_unused_vectors(self.store)
                self.store.set(generation=self.store.generation + 1)
        removed = len(stale) - changed
        return IndexChange(
            num_added=new - changed,
            num_changed=changed,
            num_removed=removed,
            num_unchanged=before - changed - removed,
            num_blank=self.num_blank,
            num_passages=self.store.num_passages,
            num_embedded=self.num_embedded,
        )

    def _insert(self) -> None:
        self.store.run(
            "insert into documents (key, digest, body, columns)"
            " select key, digest, body, columns from incoming where body is not null"
            " order by rowid"
        )
        last = self.store.one("select coalesce(max(id), 0) from passages")
        self.store.run(
            "insert into passages (document, start, stop, vector)"
            " select d.id, p.start, p.stop, v.id from pieces p"
            " join documents d on d.key = p.key join vectors v on v.digest = p.digest"
            " order by d.id, p.start"
        )
        new = self.store.rows(
            "select p.id, d.body, p.start, p.stop from passages p"
            " join documents d on d.id = p.document where p.id > ?",
            (last,),
        )
        self.store.run_many(
            "insert into words (rowid, body) values (?, ?)",
            ((number, indexed(body[start:stop])) for number, body, start, stop in new),
        )

    def _count(self, sql: str) -> int:
        return int(self.store.one(sql))
