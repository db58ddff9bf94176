"""Does a second reading make a tuned search better? `python -m benchmarks.quality.reranking`.

MedQuAD, as in `benchmarks/quality/embedding.py`: the starter learns to search from the training
rows, and a cross-encoder orders anew the 20 documents that this search finds nearest, by its own
scores or by half of its and half of the search's. It begins with the weights of the tuned search
and has learnt the same rows, with negatives drawn from the 20 nearest of each query. Ways to train
it are measured on validation rows, which say which is the best, and on test rows. With the first of
the rows, which a laptop learns in minutes, a CrossEncoder of sentence-transformers learns the same
lists with its ListNetLoss.

`--only NAME` makes some of the runs, `--rows 300` takes the first rows of every split. Results go
to `benchmarks/quality/reranking.json`.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
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
from tunewright.retrieval.fusion import fused
from tunewright.retrieval.reranker import load_reranker
from tunewright.types import Row

RESULTS = Path(__file__).with_suffix(".json")
NUM_CANDIDATES, NUM_NEGATIVES, WEIGHT = 20, 5, 0.5


@dataclass(frozen=True)
class Sample:
    """How many training rows, and how many queries of which splits; None: all."""

    rows: int | None = None
    queries: int | None = None
    splits: tuple[str, ...] = ("validation", "test")


SAMPLES = {
    "MedQuAD": Sample(),
    f"MedQuAD, {SAMPLE_ROWS} rows": Sample(SAMPLE_ROWS, 1000, ("test",)),
}


@dataclass(frozen=True)
class Way:
    """How a cross-encoder is trained."""

    objective: str
    settings: Settings
    task: Mapping[str, Any] = field(default_factory=dict)

    def told(self) -> str:
        passes, rate = self.settings.num_train_epochs, self.settings.learning_rate
        own = "".join(f", {name} {value:g}" for name, value in self.task.items())
        return f"{passes} passes at {rate:g}, {self.settings.batch_size} rows{own}"


WAYS = {
    "listwise": Way("listwise", Settings(2, 2e-4, batch_size=16)),
    "listwise, 4 passes": Way("listwise", Settings(4, 2e-4, batch_size=16)),
    "pointwise": Way(
        "pointwise", Settings(2, 2e-4, batch_size=64), {"positive_weight": float(NUM_NEGATIVES)}
    ),
}
PEER, PEERS_WAY = "peer", "listwise, 4 passes"
BESIDE = " and vectors"


def main() -> None:
    given = arguments(__doc__ or "", tuple(SAMPLES), ("vectors", *WAYS, PEER))
    results = Results(None if given.rows else given.results or RESULTS)
    folder = data_root() / "retrieval" / "medquad"
    rows = {name: read_rows(folder / f"{name}.jsonl.gz")[: given.rows]
            for name in ("train", "validation", "test")}  # fmt: skip
    for name in given.names:
        sample = SAMPLES[name]
        searches = {
            split: Search({"train": rows["train"], "test": rows[split][: sample.queries]})
            for split in sample.splits
        }
        with TemporaryDirectory() as place:
            runs = cache(Runs(rows["train"][: sample.rows], searches, Path(place)).measured)
            for split, search in searches.items():
                comparison = compared(f"{name}, {split}", split, search, runs, given.seeds)
                results.measure(comparison, given.only)
    print(table(results.found))


def compared(name: str, split: str, search: Search, run: Any, seeds: Sequence[int]) -> Comparison:
    def measured(side: str, seed: int) -> Mapping[str, Statistics]:
        return run(side, seed)[split]  # type: ignore[no-any-return]

    sides = [*WAYS, *(f"{way}{BESIDE}" for way in WAYS)]
    return Comparison(
        name,
        WAYS[PEERS_WAY].settings,
        RANKINGS,
        {side: partial(measured, side) for side in ("vectors", *WAYS, PEER)},
        (*((side, "vectors") for side in sides), (PEERS_WAY, PEER)),
        reducer=reducer_of_ranking,
        num_rows=len(search.relevant),
        seeds=seeds,
        notes={
            "candidates": NUM_CANDIDATES,
            "negatives": f"{NUM_NEGATIVES} of the {NUM_CANDIDATES} nearest",
            "share beside vectors": WEIGHT,
            "ways": "; ".join(f"{name}: {way.told()}" for name, way in WAYS.items()),
        },
    )


@dataclass(frozen=True)
class Found:
    """What a tuned search has found: figures and candidates of each split, and hard negatives.

    Candidates come with their cosines, the nearest first.
    """

    figures: Mapping[str, Statistics]
    candidates: Mapping[str, list[list[tuple[str, float]]]]
    lists: Rows
    model: Path


@dataclass
class Runs:
    """The runs of a seed; its search is tuned once, and its model kept in a folder."""

    train_rows: Rows
    searches: Mapping[str, Search]
    place: Path
    tuned: dict[int, Found] = field(default_factory=dict)

    def measured(self, side: str, seed: int) -> Mapping[str, Mapping[str, Statistics]]:
        """Returns the figures of a side for each split, and of both readings together."""
        found = self.tuned[seed] = self.tuned.get(seed) or self._search(seed)
        if side == "vectors":
            return {split: {side: figures} for split, figures in found.figures.items()}
        if side == PEER:
            return self._peer(found, seed)
        return self._cross_encoder(side, found, seed)

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
                tw.load(run.path), self.train_rows, columns, num_negatives=NUM_NEGATIVES,
                depth=NUM_CANDIDATES, seed=seed,
            )  # fmt: skip
            model = Path(shutil.copytree(run.folder.model, self.place / str(seed)))
        lists = [
            {
                "query": row["anchor"],
                "text": [*row["positive"], *row["negative"]],
                "label": [1] * len(row["positive"]) + [0] * len(row["negative"]),
            }
            for row in mined
            if row["negative"]
        ]
        return Found(figures, candidates, lists, model)

    def _cross_encoder(
        self, name: str, found: Found, seed: int
    ) -> Mapping[str, Mapping[str, Statistics]]:
        way = WAYS[name]
        task = {"name": "reranking", "objective": way.objective, **way.task}
        rows = pairs_of(found.lists) if way.objective == "pointwise" else found.lists
        sources, model = {"train": rows}, str(found.model)
        with run_of_ours(task, way.settings, sources, seed, model=model) as run:
            predictor = load_reranker(run.folder.model).predictor

            def score(queries: Sequence[str], texts: Sequence[list[str]]) -> list[Sequence[float]]:
                asked = [
                    Row(place, {"query": query, "text": each})
                    for place, (query, each) in enumerate(zip(queries, texts, strict=True))
                ]
                return [ranking.logits for ranking in predictor.answers(asked)]

            return self._reordered({name: 1.0, f"{name}{BESIDE}": WEIGHT}, found, score)

    def _peer(self, found: Found, seed: int) -> Mapping[str, Mapping[str, Statistics]]:
        from benchmarks.quality.sentence_transformers_peer import train_cross_encoder

        read = train_cross_encoder(found.model, WAYS[PEERS_WAY].settings, found.lists, seed)

        def score(queries: Sequence[str], texts: Sequence[list[str]]) -> list[list[float]]:
            pairs = [(query, text) for query, each in zip(queries, texts, strict=True)
                     for text in each]  # fmt: skip
            return np.asarray(read(pairs)).reshape(len(queries), -1).tolist()  # type: ignore[no-any-return]

        return self._reordered({PEER: 1.0}, found, score)

    def _reordered(
        self, weights: Mapping[str, float], found: Found, score: Any
    ) -> Mapping[str, Mapping[str, Statistics]]:
        """Returns the figures of candidates in the order of a share of their scores."""
        figures: dict[str, dict[str, Statistics]] = {}
        for split, search in self.searches.items():
            candidates, relevant = found.candidates[split], list(search.relevant.values())
            texts = [[text for text, _ in each] for each in candidates]
            scores = score(list(search.relevant), texts)
            figures[split] = {}
            for side, weight in weights.items():
                gains_QT = [
                    [float(own[place] in right) for place in order(read, each, weight)]
                    for own, read, each, right in zip(
                        texts, scores, candidates, relevant, strict=True
                    )
                ]
                figures[split][side] = search.figures(np.array(gains_QT))
        return figures


def order(
    read: Sequence[float], candidates: Sequence[tuple[str, float]], weight: float
) -> list[int]:
    """Returns the places of candidates as `Reranker.reranked` orders them."""
    places = sorted(range(len(read)), key=lambda place: -read[place])
    cosines = [(place, cosine) for place, (_, cosine) in enumerate(candidates)]
    ranked = fused([(place, read[place]) for place in places], cosines, weight)
    return [place for place, _ in ranked]


def nearest(search: Search, encoder: Encoder) -> list[list[tuple[str, float]]]:
    """Returns the documents nearest to each query with their cosines, the nearest first."""
    queries_QD = encoder.encode_query(list(search.relevant))
    similarity_QK = queries_QD @ encoder.encode_document(search.documents).T
    places_QT = np.argsort(-similarity_QK, axis=1, kind="stable")[:, :NUM_CANDIDATES]
    return [
        [(search.documents[place], float(similarity_K[place])) for place in places_T]
        for places_T, similarity_K in zip(places_QT, similarity_QK, strict=True)
    ]


def pairs_of(lists: Rows) -> Rows:
    """Returns each text of each list as a row of its own."""
    return [
        {"query": row["query"], "text": text, "label": label}
        for row in lists
        for text, label in zip(row["text"], row["label"], strict=True)
    ]


if __name__ == "__main__":
    main()
