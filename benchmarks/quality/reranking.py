"""Does a second reading make a tuned search better? `python -m benchmarks.quality.reranking`.

MedQuAD, as in `benchmarks/quality/embedding.py`: the starter learns to search from the training
rows, and a cross-encoder, from the starter too, orders anew the 20 documents that this search finds
nearest. It has learnt the same rows, with hard negatives that the tuned search has mined. Several
ways to train it are measured on validation rows, which say which is the best, and on test rows; the
CrossEncoder of sentence-transformers reads the pairs of the first way. All of it is done with all
training rows, and with the first of them and the first queries alone, which a laptop does in
minutes.

`--only NAME` makes some of the runs, `--rows 300` takes the first rows of every split. Results go
to `benchmarks/quality/reranking.json`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import tunewright as tw
from benchmarks.quality.embedding import (
    MEDQUAD,
    RANKINGS,
    SAMPLE_ROWS,
    Search,
    reducer_of_ranking,
)
from benchmarks.quality.harness import (
    Comparison,
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
from tunewright.mining import mine_negatives
from tunewright.retrieval.encoder import Encoder, load_encoder
from tunewright.retrieval.reranker import load_reranker
from tunewright.types import Row

RESULTS = Path(__file__).with_suffix(".json")
NUM_CANDIDATES, NUM_NEGATIVES = 20, 5
SPLITS = ("validation", "test")


@dataclass(frozen=True)
class Sample:
    """How many training rows, and how many queries of each other split; None: all."""

    rows: int | None = None
    queries: int | None = None


SAMPLES = {"MedQuAD": Sample(), f"MedQuAD, {SAMPLE_ROWS} rows": Sample(SAMPLE_ROWS, 500)}


@dataclass(frozen=True)
class Way:
    """How a cross-encoder is trained."""

    objective: str
    settings: Settings

    def told(self) -> str:
        passes, rate = self.settings.num_train_epochs, self.settings.learning_rate
        return f"{passes} passes at {rate:g}, {self.settings.batch_size} rows"


WAYS = {
    "pointwise": Way("pointwise", Settings(2, 2e-4, batch_size=64)),
    "pointwise, 4 passes": Way("pointwise", Settings(4, 2e-4, batch_size=64)),
    "listwise": Way("listwise", Settings(2, 2e-4, batch_size=16)),
    "listwise, 4 passes": Way("listwise", Settings(4, 2e-4, batch_size=16)),
}
PEER, PEERS_WAY = "peer", WAYS["pointwise"]


def main() -> None:
    given = arguments(__doc__ or "", tuple(SAMPLES), ("vectors", *WAYS, PEER))
    results = Results(None if given.rows else given.results or RESULTS)
    folder = data_root() / "retrieval" / "medquad"
    rows = {name: read_rows(folder / f"{name}.jsonl.gz")[: given.rows]
            for name in ("train", *SPLITS)}  # fmt: skip
    for name in given.names:
        sample = SAMPLES[name]
        searches = {
            split: Search({"train": rows["train"], "test": rows[split][: sample.queries]})
            for split in SPLITS
        }
        runs = cache(Runs(rows["train"][: sample.rows], searches).measured)
        for split, search in searches.items():
            comparison = compared(f"{name}, {split}", split, search, runs, given.seeds)
            results.measure(comparison, given.only)
    print(table(results.found))


def compared(name: str, split: str, search: Search, run: Any, seeds: Sequence[int]) -> Comparison:
    return Comparison(
        name,
        PEERS_WAY.settings,
        RANKINGS,
        {
            side: lambda seed, side=side: {side: run(side, seed)[split]}
            for side in ("vectors", *WAYS, PEER)
        },
        (*((way, "vectors") for way in WAYS), ("pointwise", PEER)),
        reducer=reducer_of_ranking,
        num_rows=len(search.relevant),
        seeds=seeds,
        notes={
            "candidates": NUM_CANDIDATES,
            "negatives": NUM_NEGATIVES,
            "ways": "; ".join(f"{name}: {way.told()}" for name, way in WAYS.items()),
        },
    )


@dataclass(frozen=True)
class Found:
    """What a tuned search has found: figures and candidates of each split, and hard negatives."""

    figures: Mapping[str, Statistics]
    candidates: Mapping[str, list[list[str]]]
    lists: Rows


@dataclass
class Runs:
    """The runs of a seed; its search is tuned once."""

    train_rows: Rows
    searches: Mapping[str, Search]
    tuned: dict[int, Found] = field(default_factory=dict)

    def measured(self, side: str, seed: int) -> Mapping[str, Statistics]:
        """Returns the figures of a side for each split."""
        found = self.tuned[seed] = self.tuned.get(seed) or self._search(seed)
        if side == "vectors":
            return found.figures
        if side == PEER:
            return self._peer(found, seed)
        return self._cross_encoder(WAYS[side], found, seed)

    def _search(self, seed: int) -> Found:
        task = {"name": "sentence-embedding", "objective": "ranking"}
        columns = {"anchor": "query", "positive": "positive"}
        with run_of_ours(task, MEDQUAD, {"train": self.train_rows}, seed, columns) as run:
            encoder = load_encoder(run.folder.model)
            figures, candidates = {}, {}
            for split, search in self.searches.items():
                figures[split] = search.dense(encoder.encode_query, encoder.encode_document)
                candidates[split] = nearest(search, encoder)
            mined = mine_negatives(
                tw.load(run.path), self.train_rows, columns, num_negatives=NUM_NEGATIVES
            )
        lists = [
            {
                "query": row["anchor"],
                "text": [*row["positive"], *row["negative"]],
                "label": [1] * len(row["positive"]) + [0] * len(row["negative"]),
            }
            for row in mined
        ]
        return Found(figures, candidates, lists)

    def _cross_encoder(self, way: Way, found: Found, seed: int) -> Mapping[str, Statistics]:
        task = {"name": "reranking", "objective": way.objective}
        rows = pairs_of(found.lists) if way.objective == "pointwise" else found.lists
        with run_of_ours(task, way.settings, {"train": rows}, seed) as run:
            predictor = load_reranker(run.folder.model).predictor

            def orders(queries: Sequence[str], texts: Sequence[list[str]]) -> list[list[int]]:
                asked = [
                    Row(place, {"query": query, "text": each})
                    for place, (query, each) in enumerate(zip(queries, texts, strict=True))
                ]
                return [list(ranking.order) for ranking in predictor.answers(asked)]

            return self._reordered(found, orders)

    def _peer(self, found: Found, seed: int) -> Mapping[str, Statistics]:
        from benchmarks.quality.sentence_transformers_peer import train_cross_encoder

        score = train_cross_encoder(PEERS_WAY.settings, pairs_of(found.lists), seed)

        def orders(queries: Sequence[str], texts: Sequence[list[str]]) -> list[list[int]]:
            pairs = [(query, text) for query, each in zip(queries, texts, strict=True)
                     for text in each]  # fmt: skip
            scores_QT = np.asarray(score(pairs)).reshape(len(queries), -1)
            return np.argsort(-scores_QT, axis=1, kind="stable").tolist()  # type: ignore[no-any-return]

        return self._reordered(found, orders)

    def _reordered(self, found: Found, orders: Any) -> Mapping[str, Statistics]:
        figures = {}
        for split, search in self.searches.items():
            candidates = found.candidates[split]
            order = orders(list(search.relevant), candidates)
            gains_QT = [
                [float(texts[place] in relevant) for place in places]
                for texts, places, relevant in zip(
                    candidates, order, search.relevant.values(), strict=True
                )
            ]
            figures[split] = search.figures(np.array(gains_QT))
        return figures


def nearest(search: Search, encoder: Encoder) -> list[list[str]]:
    """Returns the documents nearest to each query, the nearest first."""
    queries_QD = encoder.encode_query(list(search.relevant))
    similarity_QK = queries_QD @ encoder.encode_document(search.documents).T
    places_QT = np.argsort(-similarity_QK, axis=1, kind="stable")[:, :NUM_CANDIDATES]
    return [[search.documents[place] for place in places_T] for places_T in places_QT]


def pairs_of(lists: Rows) -> Rows:
    """Returns each text of each list as a row of its own."""
    return [
        {"query": row["query"], "text": text, "label": label}
        for row in lists
        for text, label in zip(row["text"], row["label"], strict=True)
    ]


if __name__ == "__main__":
    main()
