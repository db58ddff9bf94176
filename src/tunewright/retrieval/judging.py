"""How well a search finds what people judged to be relevant, in the form of BEIR.

    beir/queries.jsonl          {"_id": "q1", "text": "what causes anaemia"}
    beir/qrels/test.tsv         query-id  corpus-id  score

The documents' ids are those of the index: `tunewright index beir/corpus.jsonl --out index`. As in
BEIR's own evaluation, a document with the id of the query is the query itself and is not ranked;
ours keeps it where it is judged to be relevant. Thakur et al. 2021, "BEIR: A Heterogeneous
Benchmark for Zero-shot Evaluation of Information Retrieval".

Shape letters: Q queries, T places of a ranking.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tunewright.data import as_rows, read_number, read_table
from tunewright.data.wording import counted
from tunewright.errors import DataError
from tunewright.metrics.bootstrap import bootstrap
from tunewright.metrics.ranking import DEPTH, RANKING_METRICS, ranking_figures, ranking_metrics
from tunewright.types import Estimate, Role

QUERY_ROLES = (
    Role("id", "what names a query", ("_id", "query-id", "query_id", "qid")),
    Role("text", "the query", ("query", "question")),
)
JUDGED_ROLES = (
    Role("query", "the id of a query", ("query-id", "query_id", "qid")),
    Role("document", "the id of a document", ("corpus-id", "corpus_id", "doc_id", "docid")),
    Role("score", "how relevant it is; 0 is not", ("relevance", "label"), required=False),
)
QUERIES_AT_ONCE = 64

Rank = Callable[[Sequence[str], int], list[list[str]]]
"""Gives the ids of so many of the best documents for each query."""


@dataclass(frozen=True, slots=True)
class JudgedQueries:
    """Queries by their ids, and for each the gains of its relevant documents by theirs.

    When `among_documents`, a document with the id of a query is the query itself.
    """

    texts: Mapping[str, str]
    gains: Mapping[str, Mapping[str, float]]
    among_documents: bool = False

    @classmethod
    def read(cls, folder: str | Path, split: str = "test") -> JudgedQueries:
        """Reads `queries.jsonl` and `qrels/SPLIT.tsv`; queries that nobody judged are left out.

        Raises DataError when a file is missing, or no query has a relevant document.
        """
        folder = Path(folder)
        texts = {str(row["id"]): str(row["text"]) for row in _rows(folder, QUERY_ROLES)}
        gains: dict[str, dict[str, float]] = {}
        for row in _rows(folder, JUDGED_ROLES, split):
            score = row.get("score", 1.0)
            gain = read_number(score, f"qrels/{split}.tsv, score")
            if gain > 0 and str(row["query"]) in texts:
                gains.setdefault(str(row["query"]), {})[str(row["document"])] = gain
        if not gains:
            raise DataError(
                str(folder), f"no query of qrels/{split}.tsv is in queries.jsonl",
                "At least one has to have a relevant document.",
            )  # fmt: skip
        return cls({query: texts[query] for query in gains}, gains, among_documents=True)


def _rows(folder: Path, roles: Sequence[Role], split: str | None = None) -> list[dict[str, Any]]:
    path = folder / ("queries.jsonl" if split is None else f"qrels/{split}.tsv")
    table = read_table(path)
    rows = as_rows(table, roles, {}, training=True, say=lambda _: None)  # names of BEIR
    return [dict(row.values) for row in rows]


@dataclass(frozen=True, slots=True)
class SearchQuality:
    """The metrics of a search with their 95 % intervals over queries."""

    metrics: Mapping[str, Estimate]
    num_queries: int
    num_missing: int
    figures: Mapping[str, np.ndarray]
    num_own: int = 0

    @property
    def notices(self) -> tuple[str, ...]:
        """Whole sentences on what is odd."""
        found = []
        if self.num_missing:
            are, count = ("is", "counts") if self.num_missing == 1 else ("are", "count")
            missing = counted(self.num_missing, "relevant document")
            found.append(f"{missing} {are} not in the index, and {count} as not found.")
        if self.num_own:
            has = "query has" if self.num_own == 1 else "queries have"
            found.append(
                f"{self.num_own:,} {has} the id of a document, which is left out there, as in BEIR."
            )
        return tuple(found)

    def to_json(self) -> dict[str, Any]:
        return {
            "metrics": {name: value.to_json() for name, value in self.metrics.items()},
            "queries": self.num_queries,
            "missing_documents": self.num_missing,
            "own_documents": self.num_own,
        }


def judge_search(rank: Rank, judged: JudgedQueries, is_indexed: Callable[[str], bool],
                 num_resamples: int = 1000) -> SearchQuality:  # fmt: skip
    """Measures a search on the best 100 documents for each query."""
    queries = list(judged.texts)
    own = {
        query
        for query in queries
        if judged.among_documents and query not in judged.gains[query] and is_indexed(query)
    }
    figures = _figures(rank, judged, queries, own)
    documents = {document for gains in judged.gains.values() for document in gains}
    return SearchQuality(
        bootstrap(ranking_metrics, figures, RANKING_METRICS, num_resamples),
        len(queries),
        sum(not is_indexed(document) for document in documents),
        figures,
        len(own),
    )


def _figures(
    rank: Rank, judged: JudgedQueries, queries: Sequence[str], own: Set[str]
) -> dict[str, np.ndarray]:
    """Returns each query's figures; of those in `own` the document of their id is left out."""
    relevance_QT = np.zeros((len(queries), DEPTH))
    widest = max(len(gains) for gains in judged.gains.values())
    ideal_QJ = np.zeros((len(queries), widest))
    for place, documents in _ranked(rank, judged, queries, own):
        gains = judged.gains[queries[place]]
        found = [gains.get(document, 0.0) for document in documents[:DEPTH]]
        relevance_QT[place, : len(found)] = found
        ideal_QJ[place, : len(gains)] = list(gains.values())
    return ranking_figures(relevance_QT, ideal_QJ)


def _ranked(
    rank: Rank, judged: JudgedQueries, queries: Sequence[str], own: Set[str]
) -> Iterator[tuple[int, list[str]]]:
    """Yields the place of each query and the ids of its best documents, without its own."""
    for num_hits, has_own in ((DEPTH, False), (DEPTH + 1, True)):
        places = [place for place, query in enumerate(queries) if (query in own) == has_own]
        for start in range(0, len(places), QUERIES_AT_ONCE):
            piece = places[start : start + QUERIES_AT_ONCE]
            ranked = rank([judged.texts[queries[place]] for place in piece], num_hits)
            for place, documents in zip(piece, ranked, strict=True):
                own_id = queries[place] if has_own else None
                yield place, [document for document in documents if document != own_id]
