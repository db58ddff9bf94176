"""How well a search finds what people judged to be relevant, in the form of BEIR.

    beir/queries.jsonl          {"_id": "q1", "text": "what causes anaemia"}
    beir/qrels/test.tsv         query-id  corpus-id  score

The documents' ids are those of the index: `tunewright index beir/corpus.jsonl --out index`. Thakur
et al. 2021, "BEIR: A Heterogeneous Benchmark for Zero-shot Evaluation of Information Retrieval".

Shape letters: Q queries, T places of a ranking.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tunewright.data import read_number, read_table, resolve_columns
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

Rank = Callable[[Sequence[str]], list[list[str]]]


@dataclass(frozen=True, slots=True)
class JudgedQueries:
    """Queries by their ids, and for each the gains of its relevant documents by theirs."""

    texts: Mapping[str, str]
    gains: Mapping[str, Mapping[str, float]]

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
        return cls({query: texts[query] for query in gains}, gains)


def _rows(folder: Path, roles: Sequence[Role], split: str | None = None) -> list[dict[str, Any]]:
    path = folder / ("queries.jsonl" if split is None else f"qrels/{split}.tsv")
    table = read_table(path)
    choice = resolve_columns(roles, table.column_names, {}, training=True, source=table.name)
    return [dict(row.values) for row in table.rows(choice.mapping)]


@dataclass(frozen=True, slots=True)
class SearchQuality:
    """The metrics of a search with their 95 % intervals over queries."""

    metrics: Mapping[str, Estimate]
    num_queries: int
    num_missing: int
    figures: Mapping[str, np.ndarray]

    @property
    def notices(self) -> tuple[str, ...]:
        """Whole sentences on what is odd."""
        if not self.num_missing:
            return ()
        are, count = ("is", "counts") if self.num_missing == 1 else ("are", "count")
        found = counted(self.num_missing, "relevant document")
        return (f"{found} {are} not in the index, and {count} as not found.",)

    def to_json(self) -> dict[str, Any]:
        return {
            "metrics": {name: value.to_json() for name, value in self.metrics.items()},
            "queries": self.num_queries,
            "missing_documents": self.num_missing,
        }


def judge_search(rank: Rank, judged: JudgedQueries, is_indexed: Callable[[str], bool],
                 num_resamples: int = 1000) -> SearchQuality:  # fmt: skip
    """Measures a search: `rank` gives the ids of the best 100 documents for each query."""
    queries = list(judged.texts)
    figures = _figures(rank, judged, queries)
    documents = {document for gains in judged.gains.values() for document in gains}
    return SearchQuality(
        bootstrap(ranking_metrics, figures, RANKING_METRICS, num_resamples),
        len(queries),
        sum(not is_indexed(document) for document in documents),
        figures,
    )


def _figures(rank: Rank, judged: JudgedQueries, queries: Sequence[str]) -> dict[str, np.ndarray]:
    relevance_QT = np.zeros((len(queries), DEPTH))
    widest = max(len(gains) for gains in judged.gains.values())
    ideal_QJ = np.zeros((len(queries), widest))
    for start in range(0, len(queries), QUERIES_AT_ONCE):
        piece = queries[start : start + QUERIES_AT_ONCE]
        ranked = rank([judged.texts[query] for query in piece])
        for place, (query, documents) in enumerate(zip(piece, ranked, strict=True), start):
            gains = judged.gains[query]
            found = [gains.get(document, 0.0) for document in documents[:DEPTH]]
            relevance_QT[place, : len(found)] = found
            ideal_QJ[place, : len(gains)] = list(gains.values())
    return ranking_figures(relevance_QT, ideal_QJ)
