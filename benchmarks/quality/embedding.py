"""Vectors and search: `python -m benchmarks.quality.embedding`.

Names of comparisons may follow, such as `STS-B`; `--only ours` makes some of the runs, `--rows 300`
takes the first rows of every split, to try it out. Each seed of ours runs beside the same seed of
sentence-transformers, and the starter is measured before any training. Results go to
`benchmarks/quality/embedding.json`, with the figures of every test row, and tables are printed.
Settings were chosen on validation rows, never on test.

MedQuAD: a split's distinct positives are the documents, its distinct queries are asked, and all
positives of a query are relevant. They are ranked by vectors, by words (BM25), and by an index of
the same vectors and words together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

import tunewright as tw
from benchmarks.quality.harness import (
    Comparison,
    Reduce,
    Results,
    Rows,
    Settings,
    Statistics,
    arguments,
    data_root,
    read_rows,
    run_of_ours,
    table,
)
from benchmarks.quality.page import write_page
from tunewright.metrics.ranking import (
    ranked_relevance,
    ranking_figures,
    ranking_metrics,
)
from tunewright.metrics.regression import RegressionReducer
from tunewright.retrieval.encoder import Encoder, load_encoder
from tunewright.retrieval.judging import JudgedQueries
from tunewright.retrieval.search_index import Question

RESULTS = Path(__file__).with_suffix(".json")
STSB = Settings(num_train_epochs=1, learning_rate=2e-4, max_length=128, batch_size=64)
MEDQUAD = Settings(num_train_epochs=1, learning_rate=2e-4, max_length=128, batch_size=64)
SAMPLE_ROWS = 640  # the first training rows, for a comparison that a laptop does in minutes
RANKINGS = ("mrr@10", "ndcg@10", "recall@1", "recall@5", "recall@10")
RUNS = ("ours", "peer")


def main() -> None:
    given = arguments(__doc__ or "", tuple(COMPARISONS), RUNS)
    results = Results(None if given.rows else given.results or RESULTS)
    for name in given.names:
        comparison = COMPARISONS[name](name, data_root(), given.rows, given.seeds)
        results.measure(comparison, given.only)
    if not given.rows and not given.results:
        write_page()
    print(table(results.found))


def splits_of(folder: Path, num_rows: int | None) -> dict[str, Rows]:
    return {name: read_rows(folder / f"{name}.jsonl.gz")[:num_rows] for name in ("train", "test")}


def stsb(name: str, root: Path, num_rows: int | None, seeds: Sequence[int]) -> Comparison:
    pairs = ScoredPairs(splits_of(root / "similarity" / "stsb", num_rows))
    return Comparison(
        name,
        STSB,
        ("spearman", "pearson"),
        {"ours": pairs.ours, "peer": pairs.peer},
        (("ours", "before"), ("ours", "peer")),
        reducer=RegressionReducer.of,
        num_rows=len(pairs.splits["test"]),
        before=lambda: {"before": pairs.figures(load_encoder(max_length=STSB.max_length).encode)},
        seeds=seeds,
    )


def medquad(
    name: str,
    root: Path,
    num_rows: int | None,
    seeds: Sequence[int],
    train_rows: int | None = None,
) -> Comparison:
    splits = splits_of(root / "retrieval" / "medquad", num_rows)
    splits["train"] = splits["train"][:train_rows]
    search = Search(splits)
    return Comparison(
        name,
        MEDQUAD,
        RANKINGS,
        {"ours": search.ours, "peer": search.peer},
        (
            ("ours", "before"),
            ("ours", "words"),
            ("ours", "peer"),
            ("before, hybrid", "before"),
            ("ours, hybrid", "ours"),
        ),
        reducer=reducer_of_ranking,
        num_rows=len(search.relevant),
        before=search.before,
        seeds=seeds,
        notes={"train_rows": len(splits["train"])},
    )


COMPARISONS: dict[str, Callable[..., Comparison]] = {
    "STS-B": stsb,
    "MedQuAD": medquad,
    f"MedQuAD, {SAMPLE_ROWS} rows": partial(medquad, train_rows=SAMPLE_ROWS),
}


def reducer_of_ranking(statistics: Statistics) -> Reduce:
    return partial(ranking_metrics, statistics)


@dataclass(frozen=True)
class ScoredPairs:
    """Pairs of texts with a score: how well cosines follow it."""

    splits: Mapping[str, Rows]

    def ours(self, seed: int) -> dict[str, Statistics]:
        task = {"name": "sentence-embedding", "objective": "cosent"}
        columns = {"anchor": "text_a", "positive": "text_b"}
        sources = {"train": self.splits["train"]}
        with run_of_ours(task, STSB, sources, seed, columns) as run:
            return {"ours": self.figures(load_encoder(run.folder.model).encode)}

    def peer(self, seed: int) -> dict[str, Statistics]:
        from benchmarks.quality.sentence_transformers_peer import train_on_scores

        return {"peer": self.figures(train_on_scores(STSB, self.splits["train"], seed))}

    def figures(self, encode: Any) -> Statistics:
        rows = self.splits["test"]
        left, right = (encode([row[name] for row in rows]) for name in ("text_a", "text_b"))
        true = np.array([row["score"] for row in rows], float)
        return {"true": true, "predicted": (left * right).sum(1)}


@dataclass(frozen=True)
class Remembered:
    """An encoder that embeds each text once; an index of its whole texts costs nothing then."""

    encoder: Encoder
    known: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)
    passage_tokens: int = 1_000_000

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        return self.encode_document(texts)

    def encode_query(self, texts: Sequence[str]) -> np.ndarray:
        return self._encoded("query", texts, self.encoder.encode_query)

    def encode_document(self, texts: Sequence[str]) -> np.ndarray:
        return self._encoded("document", texts, self.encoder.encode_document)

    def _encoded(self, purpose: str, texts: Sequence[str], encode: Any) -> np.ndarray:
        new = [text for text in dict.fromkeys(texts) if (purpose, text) not in self.known]
        if new:
            self.known.update(zip([(purpose, text) for text in new], encode(new), strict=True))
        return np.stack([self.known[purpose, text] for text in texts])


@dataclass(frozen=True)
class Search:
    """Queries that look for their answers among those of the test rows."""

    splits: Mapping[str, Rows]

    @cached_property
    def relevant(self) -> dict[str, set[str]]:
        """The positives of each distinct query."""
        found: dict[str, set[str]] = {}
        for row in self.splits["test"]:
            found.setdefault(row["query"], set()).add(row["positive"])
        return found

    @cached_property
    def documents(self) -> list[str]:
        return list(dict.fromkeys(row["positive"] for row in self.splits["test"]))

    @cached_property
    def judged(self) -> JudgedQueries:
        place_of = {text: str(place) for place, text in enumerate(self.documents)}
        gains = [{place_of[text]: 1.0 for text in texts} for texts in self.relevant.values()]
        return JudgedQueries(
            {str(place): query for place, query in enumerate(self.relevant)},
            {str(place): each for place, each in enumerate(gains)},
        )

    def before(self) -> dict[str, Statistics]:
        encoder = Remembered(load_encoder(max_length=MEDQUAD.max_length))
        return {
            "before": self.dense(encoder.encode_query, encoder.encode_document),
            **self.indexed(encoder, {"words": "bm25", "before, hybrid": "hybrid"}),
        }

    def ours(self, seed: int) -> dict[str, Statistics]:
        task = {"name": "sentence-embedding", "objective": "ranking"}
        columns = {"anchor": "query", "positive": "positive"}
        sources = {"train": self.splits["train"]}
        with run_of_ours(task, MEDQUAD, sources, seed, columns) as run:
            encoder = Remembered(load_encoder(run.folder.model))
            return {
                "ours": self.dense(encoder.encode_query, encoder.encode_document),
                **self.indexed(encoder, {"ours, hybrid": "hybrid"}),
            }

    def peer(self, seed: int) -> dict[str, Statistics]:
        from benchmarks.quality.sentence_transformers_peer import train_on_pairs

        encode = train_on_pairs(MEDQUAD, self.splits["train"], seed)
        return {"peer": self.dense(encode, encode)}

    def dense(self, encode_query: Any, encode_document: Any) -> Statistics:
        """Returns the figures of ranking all documents by the cosine of whole texts."""
        place_of = {text: place for place, text in enumerate(self.documents)}
        relevant_Q = [{place_of[t]: 1.0 for t in texts} for texts in self.relevant.values()]
        queries_QD = encode_query(list(self.relevant))
        relevance_QT = ranked_relevance(queries_QD, encode_document(self.documents), relevant_Q)
        return self.figures(relevance_QT)

    def indexed(self, encoder: Remembered, modes: Mapping[str, Any]) -> dict[str, Statistics]:
        """Returns the figures of an index, as `tunewright search --judge` measures them."""
        rows = [{"id": str(place), "text": text} for place, text in enumerate(self.documents)]
        with TemporaryDirectory() as folder, tw.index(rows, folder, embedder=encoder) as index:
            found = {
                side: index.evaluate(self.judged, Question(mode=mode)).figures
                for side, mode in modes.items()
            }
        return {side: {name: each[name] for name in RANKINGS} for side, each in found.items()}

    def figures(self, gains_QT: np.ndarray) -> Statistics:
        """Returns each query's figures, of the gains of what it finds in order, (Q, T)."""
        widest = max(map(len, self.relevant.values()))
        ideal_QJ = [[1.0] * len(t) + [0.0] * (widest - len(t)) for t in self.relevant.values()]
        figures = ranking_figures(gains_QT, np.array(ideal_QJ))
        return {name: figures[name] for name in RANKINGS}


if __name__ == "__main__":
    main()
