"""Vectors and rerankers beside sentence-transformers: `python -m benchmarks.quality.embedding`.

Names of cases may follow, such as `STS-B`; `--rows 300` takes the first rows of every split, to try
it out. Each seed of ours runs beside the same seed of the peer, alternating, and the starter is
measured before any training. Results go to `benchmarks/quality/embedding.json`, with the figures of
every test row, and a table is printed. Settings were chosen on validation rows, never on test.

MedQuAD: a split's distinct positives are the documents, and all positives of a query are relevant.
The rerankers order the 20 nearest documents of the untrained starter.

Shape letters: S seeds, R rows.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import tunewright as tw
from benchmarks.quality.sentence_transformers_peer import (
    train_cross_encoder,
    train_sentence_transformer,
)
from tunewright.devices import find_device
from tunewright.metrics.ranking import ranking_metrics
from tunewright.metrics.regression import RegressionReducer
from tunewright.mining import mine_negatives
from tunewright.run.config import compose
from tunewright.run.train import train
from tunewright.tasks.candidates import ranked_figures
from tunewright.tasks.related_texts import number_of
from tunewright.tasks.retrieved import retrieval_figures

RESULTS = Path(__file__).with_suffix(".json")
NUM_RESAMPLES = 2000
NUM_CANDIDATES = 20
NUM_NEGATIVES = 3

Rows = list[dict[str, Any]]
Statistics = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Case:
    """A data set, what both sides are told, and the metric that is compared."""

    name: str
    folder: str
    objective: str
    metric: str
    num_train_epochs: int
    learning_rate: float
    max_length: int
    batch_size: int
    train_rows: int | None = None
    seeds: tuple[int, ...] = (1, 2, 3)
    warmup_ratio: float = 0.1
    weight_decay: float = 0.01

    @property
    def training(self) -> dict[str, Any]:
        names = ("num_train_epochs", "learning_rate", "batch_size", "warmup_ratio", "weight_decay")
        return {name: getattr(self, name) for name in names}


CASES = (
    Case("STS-B", "similarity/stsb", "cosent", "spearman", 4, 2e-5, 128, 32),
    Case("MedQuAD retrieval", "retrieval/medquad", "ranking", "mrr@10", 1, 5e-5, 256, 64),
    Case("MedQuAD reranking", "retrieval/medquad", "pointwise", "mrr@10", 1, 1e-4, 128, 64, 3000),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=[case.name for case in CASES])
    parser.add_argument("--rows", type=int, help="of each split; nothing is written")
    given = parser.parse_args()
    root = os.environ.get("TUNEWRIGHT_BENCHMARK_DATA")
    if not root or not Path(root).is_dir():
        sys.exit("Set TUNEWRIGHT_BENCHMARK_DATA to the folder of the data sets.")
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() and not given.rows else {}
    for case in CASES:
        if case.name in given.names:
            results[case.name] = measure(case, Path(root) / case.folder, given.rows)
            if not given.rows:
                RESULTS.write_text(json.dumps(results) + "\n")
    print(table(results))


def measure(case: Case, data: Path, num_rows: int | None) -> dict[str, Any]:
    """Trains every seed on both sides; returns the figures of one line of the table."""
    splits = {name: read_rows(data / f"{name}.jsonl.gz")[:num_rows] for name in ("train", "test")}
    job = Reranker(case, splits) if case.objective == "pointwise" else Embedder(case, splits)
    before = job.before()
    found: dict[str, list[Statistics]] = {"ours": [], "peer": []}
    seconds: dict[str, list[float]] = {"ours": [], "peer": []}
    for seed in case.seeds:
        for side, run in (("ours", job.ours), ("peer", job.peer)):
            started = time.perf_counter()
            found[side].append(run(seed))
            seconds[side].append(round(time.perf_counter() - started, 1))
            value = reducer_of(found[side][-1])(None)[case.metric]
            print(f"{case.name}, seed {seed}: {side} {value:.4f} in {seconds[side][-1]:.0f} s",
                  flush=True)  # fmt: skip
    device = find_device()
    start = [before] * len(case.seeds)
    return {
        "rows": len(splits["test"]),
        "settings": asdict(case),
        "before": dict(reducer_of(before)(None)),
        "ours": [dict(reducer_of(each)(None)) for each in found["ours"]],
        "peer": [dict(reducer_of(each)(None)) for each in found["peer"]],
        "gain": paired_interval(found["ours"], start, case.metric),
        "interval": paired_interval(found["ours"], found["peer"], case.metric),
        "seconds": seconds,
        "device": device.description,
        "precision": device.precision,
        "statistics": {side: [_plain(each) for each in sides] for side, sides in found.items()},
    }


def read_rows(path: Path) -> Rows:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def _plain(statistics: Statistics) -> dict[str, list[float]]:
    return {name: np.round(values, 5).tolist() for name, values in statistics.items()}


def reducer_of(statistics: Statistics) -> Callable[[np.ndarray | None], Mapping[str, float]]:
    """Returns the metrics of a test set as a function of how often each row counts."""
    if "true" in statistics:
        return RegressionReducer.of(statistics)
    return lambda counts_R: ranking_metrics(statistics, counts_R)


def paired_interval(
    ours: Sequence[Statistics], others: Sequence[Statistics], metric: str
) -> list[float]:
    """Returns the 95 % interval of ours minus the others' in points of the metric.

    Seeds and test rows are both drawn anew, each draw the same on both sides.
    """
    num_seeds, num_rows = len(ours), len(next(iter(ours[0].values())))
    reducers = [(reducer_of(a), reducer_of(b)) for a, b in zip(ours, others, strict=True)]
    generator = np.random.Generator(np.random.PCG64(0))
    gaps = []
    for _ in range(NUM_RESAMPLES):
        seeds = generator.integers(0, num_seeds, num_seeds)
        counts_R = np.bincount(generator.integers(0, num_rows, num_rows), minlength=num_rows)
        each = [a(counts_R)[metric] - b(counts_R)[metric] for a, b in (reducers[s] for s in seeds)]
        gaps.append(100 * float(np.mean(each)))
    return [float(bound) for bound in np.percentile(gaps, [2.5, 97.5])]


@dataclass
class Embedder:
    """Vectors of texts: trained on pairs or scored pairs, measured on those of test."""

    case: Case
    splits: Mapping[str, Rows]

    @property
    def columns(self) -> tuple[str, str]:
        return ("text_a", "text_b") if self.case.objective == "cosent" else ("query", "positive")

    def before(self) -> Statistics:
        left, right = self.columns
        named = {"anchor": left, "positive": right}
        return tw.load("starter").evaluate(self.splits["test"], named).statistics

    def ours(self, seed: int) -> Statistics:
        left, right = self.columns
        task = {"name": "sentence-embedding", "objective": self.case.objective}
        columns = {"anchor": left, "positive": right}
        result = run_of_ours(self.case, task, columns, self.splits, seed).result
        assert result is not None
        return result.statistics

    def peer(self, seed: int) -> Statistics:
        left, right = self.columns
        encode = train_sentence_transformer(self.case, self.splits["train"], (left, right), seed)
        anchors = encode([row[left] for row in self.splits["test"]])
        positives = encode([row[right] for row in self.splits["test"]])
        rows = list(zip(self.splits["test"], anchors, positives, strict=True))
        if self.case.objective == "cosent":
            true = np.array([row["score"] for row, _, _ in rows], float)
            return {"true": true, "predicted": (anchors * positives).sum(1)}
        return retrieval_figures(
            [
                {
                    "anchor": anchor,
                    "anchor_text": number_of(row[left]),
                    "positives": positive[None],
                    "positive_texts": [number_of(row[right])],
                }
                for row, anchor, positive in rows
            ]
        )


@dataclass
class Reranker:
    """The order of the starter's nearest documents, by a model that reads both texts together."""

    case: Case
    splits: Mapping[str, Rows]

    def before(self) -> Statistics:
        lists = nearest_documents(self.splits["test"])
        logits = [-np.arange(len(row["text"])) for row in lists]
        return self._figures(lists, logits)

    def ours(self, seed: int) -> Statistics:
        task = {"name": "reranking", "objective": "pointwise"}
        columns = {"query": "query", "text": "text", "label": "label"}
        run = run_of_ours(self.case, task, columns, {"train": self.train_rows}, seed)
        lists = nearest_documents(self.splits["test"])
        asked = [{"query": row["query"], "text": row["text"]} for row in lists]
        return self._figures(lists, [answer.logits for answer in run.model.predict(asked)])

    def peer(self, seed: int) -> Statistics:
        score = train_cross_encoder(self.case, self.train_rows, seed)
        lists = nearest_documents(self.splits["test"])
        return self._figures(lists, [score(row["query"], row["text"]) for row in lists])

    @property
    def train_rows(self) -> Rows:
        return labelled_pairs(self.splits["train"], self.case.train_rows)

    def _figures(self, lists: Rows, logits: Sequence[Any]) -> Statistics:
        """Returns each query's figures; a document that was not retrieved comes after all."""
        rows = []
        for row, scores in zip(lists, logits, strict=True):
            missed = [1.0] * (row["num_relevant"] - int(sum(row["label"])))
            beyond = [0.0] * 100  # no metric looks past the 100th place
            rows.append(
                {
                    "query": number_of(row["query"]),
                    "labels": [*row["label"], *beyond, *missed],
                    "logits": [*scores, *[-np.inf] * (100 + len(missed))],
                }
            )
        return ranked_figures(rows, by_query=False)


@cache
def _starter() -> Any:
    return tw.load("starter")


def relevant_of(rows: Rows) -> dict[str, set[str]]:
    """Returns the positives of each distinct query."""
    found: dict[str, set[str]] = {}
    for row in rows:
        found.setdefault(row["query"], set()).add(row["positive"])
    return found


def nearest_documents(rows: Rows) -> Rows:
    """Returns each query with the starter's nearest documents as `text`, and their labels."""
    relevant = relevant_of(rows)
    documents = list(dict.fromkeys(row["positive"] for row in rows))
    query_vectors, document_vectors = (_vectors(tuple(texts)) for texts in (relevant, documents))
    found = []
    for query, similarity in zip(relevant, query_vectors @ document_vectors.T, strict=True):
        places = np.argsort(-similarity, kind="stable")[:NUM_CANDIDATES]
        texts = [documents[place] for place in places]
        labels = [float(text in relevant[query]) for text in texts]
        found.append({"query": query, "text": texts, "label": labels,
                      "num_relevant": len(relevant[query])})  # fmt: skip
    return found


@cache
def _vectors(texts: tuple[str, ...]) -> np.ndarray:
    return np.stack([answer.values for answer in _starter().predict(list(texts))])


def labelled_pairs(rows: Rows, num_queries: int | None) -> Rows:
    """Returns pairs of a query and a text with their label: positives, and mined negatives."""
    pairs = [{"query": row["query"], "positive": row["positive"]} for row in rows]
    mined = mine_negatives(_starter(), pairs, num_negatives=NUM_NEGATIVES)[:num_queries]
    return [
        {"query": row["anchor"], "text": text, "label": label}
        for row in mined
        for label, texts in ((1, row["positive"]), (0, row["negative"]))
        for text in texts
    ]


def run_of_ours(
    case: Case,
    task: Mapping[str, Any],
    columns: Mapping[str, str],
    sources: Mapping[str, Rows],
    seed: int,
) -> Any:
    """Returns one finished run of ours."""
    output = tempfile.mkdtemp(prefix="tunewright-quality-")
    config = compose(
        {
            "task": {**task, "max_length": case.max_length},
            "data": {"columns": dict(columns), "split": {"validation": 0, "test": 0}},
            "training": {
                **case.training,
                "load_best_model_at_end": False,
                "save_total_limit": 0,
                "seed": seed,
                "track": [],
            },
            "evaluation": {"num_resamples": 0},
            "output": {"folder": output, "name": "run"},
        }
    )
    return train(dict(sources), config)


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns the lines of the quality table, in points."""
    head = (
        "| data set | metric | before | ours | peer | ours - before | 95 % interval | ours - peer "
        "| 95 % interval | seconds |\n|---|---|---:|---:|---:|---:|---:|---:|---:|---:|"
    )
    return "\n".join([head, *(_line(name, found) for name, found in results.items())])


def _line(name: str, found: Mapping[str, Any]) -> str:
    metric = found["settings"]["metric"]
    before = 100 * found["before"][metric]
    mine, theirs = (
        100 * float(np.mean([each[metric] for each in found[side]])) for side in ("ours", "peer")
    )
    gain, gap = (f"{low:+.2f} to {high:+.2f}" for low, high in (found["gain"], found["interval"]))
    times = " / ".join(f"{np.median(found['seconds'][side]):.0f}" for side in ("ours", "peer"))
    return (
        f"| {name} | {metric} | {before:.2f} | {mine:.2f} | {theirs:.2f} | {mine - before:+.2f} | "
        f"{gain} | {mine - theirs:+.2f} | {gap} | {times} |"
    )


if __name__ == "__main__":
    main()
