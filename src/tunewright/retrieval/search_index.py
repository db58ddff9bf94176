"""An index that is searched: by meaning, by words, or by both.

    index = load_index("index")
    for hit in index.search("symptoms of anaemia", where=["source=NIDDK"]):
        print(hit.score, hit.id, hit.text)

Shape letters: A passages that are allowed, D numbers of a vector.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Literal, Self, get_args

import numpy as np

from tunewright.data import is_blank
from tunewright.devices import Precision
from tunewright.errors import SettingsError, listed, nearest
from tunewright.retrieval.conditions import Condition
from tunewright.retrieval.embedder import Embedder, encoded, probe
from tunewright.retrieval.encoder import load_encoder
from tunewright.retrieval.fusion import fused
from tunewright.retrieval.hit import Hit
from tunewright.retrieval.indexing import check_model
from tunewright.retrieval.judging import JudgedQueries, SearchQuality, judge_search
from tunewright.retrieval.nearest import Neighbours, open_neighbours
from tunewright.retrieval.reranker import Reranker
from tunewright.retrieval.store import Floats, Numbers, Store, model_of, open_to_read
from tunewright.retrieval.words import expression, query_words

Mode = Literal["hybrid", "dense", "bm25"]
Ranked = list[tuple[int, float]]

DEPTH = 100
"""Documents that each way of searching hands on to be fused."""

RERANKED = 50
"""Documents that a reranker reads: each costs as much as embedding it anew."""

DENSE_WEIGHT = 0.8
"""The share of meaning in a hybrid search. Chosen on the validation rows of MedQuAD, where 0.7 to
0.9 are within each other's intervals."""


def load_index(
    folder: str | PathLike[str],
    *,
    embedder: Embedder | None = None,
    precision: Precision = "auto",
) -> SearchIndex:
    """Opens an index to search it, as it was last finished.

    `embedder` is needed where the index was made by one of your own; else the model is found by the
    name that the index keeps, and runs at `precision`. Raises DataError when there is no finished
    index.
    """
    return SearchIndex(open_to_read(Path(folder)), embedder, precision)


@dataclass(frozen=True)
class Question:
    """What is asked of an index: how many documents, how, and among which."""

    top: int = 10
    mode: Mode = "hybrid"
    where: Sequence[str] = ()
    weight: float = DENSE_WEIGHT
    reranker: Reranker | None = None
    rerank_weight: float = 1.0

    def __post_init__(self) -> None:
        if self.top < 1:
            raise SettingsError("top", f"it is {self.top}", "It is at least 1.")
        if self.mode not in get_args(Mode):
            raise SettingsError(
                "mode", f'it is "{self.mode}"', f"It is one of {listed(get_args(Mode))}."
            )
        for name in ("weight", "rerank_weight"):
            if not 0 <= (share := getattr(self, name)) <= 1:
                raise SettingsError(name, f"it is {share}", "It is from 0 to 1.")

    @property
    def num_reranked(self) -> int:
        """How many of the best documents the reranker reads, however many are measured."""
        return max(self.top, RERANKED) if self.reranker else 0


@dataclass(frozen=True)
class SearchIndex:
    """A finished index. What is indexed later is seen when it is loaded again."""

    store: Store
    own_embedder: Embedder | None = None
    precision: Precision = "auto"

    def __len__(self) -> int:
        return self.store.num_documents

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.store.connection.close()

    def search(
        self,
        query: str,
        *,
        top: int = 10,
        mode: Mode = "hybrid",
        where: Sequence[str] = (),
        weight: float = DENSE_WEIGHT,
        reranker: Reranker | None = None,
        rerank_weight: float = 1.0,
    ) -> list[Hit]:
        """Returns the `top` best documents for a query, the best first.

        `mode` is by meaning (`dense`), by words (`bm25`) or by both, where `weight` is the share of
        meaning. `where` are conditions such as "year>=2020", which all have to hold. A `reranker`
        reads the best 50 (or `top`) together with the query and orders them anew; `rerank_weight`
        is its share beside the score that found them.
        """
        question = Question(top, mode, where, weight, reranker, rerank_weight)
        return self.answers([query], question)[0]

    def answers(self, queries: Sequence[str], question: Question) -> list[list[Hit]]:
        """Returns the hits of each query; their vectors are made together."""
        return self._answers(queries, question, question.top)

    def _answers(
        self, queries: Sequence[str], question: Question, num_hits: int
    ) -> list[list[Hit]]:
        """Returns so many hits of each query, those that the question asks for at their head."""
        allowed_A = self._allowed(question.where) if question.where else None
        vectors: Sequence[Floats | None] = [None] * len(queries)
        if question.mode != "bm25" and queries:
            vectors = list(encoded(self.embedder, queries, "query"))
        return [
            self._hits(query, query_D, question, allowed_A, num_hits)
            for query, query_D in zip(queries, vectors, strict=True)
        ]

    def evaluate(
        self,
        judged: JudgedQueries | str | PathLike[str],
        question: Question = Question(),
        split: str = "test",
    ) -> SearchQuality:
        """Measures a search on judged queries, or on a folder of them in BEIR's form.

        A reranker reads as many documents as in `search`; the others of the best 100 follow.
        """
        if not isinstance(judged, JudgedQueries):
            judged = JudgedQueries.read(Path(judged), split)

        def rank(queries: Sequence[str], num_hits: int) -> list[list[str]]:
            found = self._answers(queries, question, max(question.top, num_hits))
            return [[hit.id for hit in hits] for hits in found]

        return judge_search(rank, judged, self._is_indexed)

    @cached_property
    def embedder(self) -> Embedder:
        """The model that the index was made by; raises ModelError when it is another one now."""
        found = self.own_embedder
        if found is None:
            about = model_of(self.store)
            found = load_encoder(about["name"], **about["settings"], precision=self.precision)
        check_model(self.store, probe(found))
        return found

    @cached_property
    def _neighbours(self) -> Neighbours:
        return open_neighbours(self.store)

    def _hits(
        self, query: str, query_D: Floats | None, question: Question, allowed_A: Numbers | None,
        num_hits: int,
    ) -> list[Hit]:  # fmt: skip
        if is_blank(query) or (allowed_A is not None and not len(allowed_A)):
            return []
        num_read = question.num_reranked
        depth = max(num_hits, num_read)
        ranked = self._ranked(query, query_D, question, allowed_A, depth)
        hits = [self._hit(passage, score) for passage, score in ranked[:depth]]
        if question.reranker:
            read = question.reranker.reranked(query, hits[:num_read], question.rerank_weight)
            hits = [*read, *hits[num_read:]]
        return hits[:num_hits]

    def _ranked(
        self, query: str, query_D: Floats | None, question: Question, allowed_A: Numbers | None,
        depth: int,
    ) -> Ranked:  # fmt: skip
        """Returns the best passage of each document with its score, the best first."""
        if query_D is None:
            return self._by_words(query, depth, allowed_A)
        if question.mode == "dense":
            return self._by_meaning(query_D, depth, allowed_A)
        depth = max(depth, DEPTH)
        dense = self._by_meaning(query_D, depth, allowed_A)
        words = self._same_passages(self._by_words(query, depth, allowed_A), dense)
        return fused(dense, words, question.weight)

    def _by_meaning(self, query_D: Floats, depth: int, allowed_A: Numbers | None) -> Ranked:
        return self._per_document(
            lambda limit: self._neighbours.nearest(query_D, limit, allowed_A), depth
        )

    def _by_words(self, query: str, depth: int, allowed_A: Numbers | None) -> Ranked:
        words = self._telling(query_words(query))
        if not words:
            return []
        sql, values = "select rowid, -rank from words where words match ?", [expression(words)]
        if allowed_A is not None:
            sql += " and rowid in (select value from json_each(?))"
            values.append(json.dumps(allowed_A.tolist()))
        sql += " order by rank, rowid limit ?"
        return self._per_document(lambda limit: list(self.store.rows(sql, [*values, limit])), depth)

    def _telling(self, words: Sequence[str]) -> list[str]:
        """Leaves out words of more than half of the passages, unless there are no others.

        BM25 gives them no weight, and they take most of the time.
        """
        half = self.store.num_passages / 2
        sql = "select doc from frequencies where term = ?"
        telling = [word for word in words if (self.store.one(sql, (word,)) or 0) <= half]
        return telling or list(words)

    def _per_document(self, find: Callable[[int], Ranked], depth: int) -> Ranked:
        """Returns the best passage of each of the `depth` best documents."""
        limit = 2 * depth
        while True:
            found = find(limit)
            document_of = self._documents([passage for passage, _ in found])
            best: dict[int, tuple[int, float]] = {}
            for passage, score in found:
                best.setdefault(document_of[passage], (passage, score))
            if len(best) >= depth or len(found) < limit:
                return list(best.values())[:depth]
            limit *= 2

    def _same_passages(self, ranked: Ranked, others: Ranked) -> Ranked:
        """Returns a ranking with the passages by which another one shows the same documents."""
        document_of = self._documents([passage for passage, _ in (*ranked, *others)])
        shown = {document_of[passage]: passage for passage, _ in others}
        return [(shown.get(document_of[passage], passage), score) for passage, score in ranked]

    def _documents(self, passages: Sequence[int]) -> dict[int, int]:
        sql = "select id, document from passages where id in (select value from json_each(?))"
        return dict(self.store.rows(sql, (json.dumps(list(passages)),)))

    def _hit(self, number: int, score: float) -> Hit:
        found = self.store.passage(number)
        return Hit(found.key, score, found.text, found.start, found.stop, found.columns)

    def _is_indexed(self, key: str) -> bool:
        return self.store.one("select 1 from documents where key = ?", (key,)) is not None

    def _allowed(self, where: Sequence[str]) -> Numbers:
        """Returns the passages of the documents that fulfil all conditions, ascending."""
        conditions = [Condition.read(each) for each in where]
        paths = [self._path(condition.column) for condition in conditions]
        # Of one path SQLite gives the bare value, of several a list that keeps true and false.
        paths = [*paths, paths[0]]
        sql = f"select id, json_extract(columns, {', '.join('?' * len(paths))}) from documents"
        documents = [
            document
            for document, raw in self.store.rows(sql, paths)
            if all(c.holds(v) for c, v in zip(conditions, json.loads(raw), strict=False))
        ]
        sql = "select id from passages where document in (select value from json_each(?))"
        passages = self.store.rows(f"{sql} order by id", (json.dumps(documents),))
        return np.fromiter((row[0] for row in passages), np.int64)

    def _path(self, column: str) -> str:
        """Returns the place of a column in the JSON of a document's columns."""
        path = f'$."{column}"'
        has_it = "select 1 from documents where json_type(columns, ?) is not null limit 1"
        if '"' not in column and self.store.one(has_it, (path,)):
            return path
        first = "select columns from documents limit 1000"
        sql = f"select distinct key from ({first}), json_each(columns)"
        known = sorted(row[0] for row in self.store.rows(sql))
        near = nearest(column, known)
        raise SettingsError(
            "--where",
            f'the documents have no column "{column}"',
            f"They have {listed(known)}." if known else "They have none.",
            f'Did you mean "{near}"?' if near else "",
        )
