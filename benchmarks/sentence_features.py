"""What the starter's vectors are worth as they come: `python -m benchmarks.sentence_features`.

Three figures of docs/embed.md and docs/search.md. Clusters of BBC news beside its five topics (the
adjusted Rand index). The largest difference to sentence-transformers' vectors of the same news, in
fp32. And searches in smaller vectors on MedQuAD's test rows beside those in float32, found through
TUNEWRIGHT_BENCHMARK_DATA. Results go to `benchmarks/sentence_features.json`; `--only` measures one
of the three, `--rows` takes fewer texts and writes nothing.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import numpy as np
from sklearn.metrics import adjusted_rand_score

import tunewright as tw
from benchmarks.quality.embedding import Remembered, Search
from benchmarks.quality.harness import data_root, read_rows
from tunewright.data import bbc_news
from tunewright.devices import find_device
from tunewright.models.files.folder import find_model
from tunewright.retrieval.documents import Document
from tunewright.retrieval.encoder import load_encoder
from tunewright.retrieval.mapping import map_of
from tunewright.retrieval.nearest import open_neighbours
from tunewright.retrieval.search_index import Mode, Question
from tunewright.retrieval.stored import StoredForm

RESULTS = Path(__file__).with_suffix(".json")
NUM_TOPICS = 5
COMPARED_TEXTS = 256  # with sentence-transformers, spread over the topics
NEAREST = 10
MODES: tuple[Mode, ...] = ("dense", "hybrid")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=MEASURES)
    parser.add_argument("--rows", type=int, help="so many texts, for a trial; nothing is written")
    given = parser.parse_args()
    for name in [given.only] if given.only else MEASURES:
        found = MEASURES[name](given.rows)
        print(f"{name}: {json.dumps(found, indent=1)}", flush=True)
        if given.rows is None:
            known = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
            known.setdefault(find_device().description, {})[name] = found
            RESULTS.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


def news(num_rows: int | None) -> tuple[list[str], list[str]]:
    """Returns articles and their topics, of all topics where only some are taken."""
    table = bbc_news()
    texts, topics = table.column("text"), table.column("label")
    step = max(1, len(texts) // (num_rows or len(texts)))
    return texts[::step], topics[::step]


def clusters(num_rows: int | None) -> dict[str, Any]:
    """Returns how well clusters of the news agree with its topics."""
    texts, topics = news(num_rows)
    documents = [Document(str(number), text) for number, text in enumerate(texts)]
    found = map_of(documents, tw.embed(texts, say=lambda _: None), NUM_TOPICS, "pca")
    rand = adjusted_rand_score(topics, found.clusters_R)
    return {"texts": len(texts), "adjusted_rand_index": round(float(rand), 4)}


def difference(num_rows: int | None) -> dict[str, Any]:
    """Returns the largest difference between a number of ours and of sentence-transformers'."""
    from sentence_transformers import SentenceTransformer

    texts, _ = news(num_rows or COMPARED_TEXTS)
    ours_RD = load_encoder("starter", precision="fp32").encode(texts)
    theirs_RD = SentenceTransformer(str(find_model("starter")), device="cpu").encode(texts)
    return {"texts": len(texts), "largest": float(np.abs(ours_RD - theirs_RD).max())}


@dataclass(frozen=True)
class Passages(Remembered):
    """An encoder that embeds each text once, and is asked for passages as the starter is."""

    def token_places(self, text: str) -> Any:
        return self.encoder.token_places(text)


def smaller(num_rows: int | None) -> dict[str, Any]:
    """Returns what searches in each form of stored vectors find, and how much of float32's."""
    rows = read_rows(data_root() / "retrieval/medquad/test.jsonl.gz")[:num_rows]
    search, encoder = Search({"test": rows}), load_encoder("starter")
    passages = Passages(encoder, passage_tokens=encoder.passage_tokens)
    found: dict[str, Any] = {"questions": len(search.relevant)}
    full: list[set[int]] = []
    for form in get_args(StoredForm):
        told, nearest = searched(search, passages, form)
        full = full or nearest
        shared = [len(one & other) / len(other) for one, other in zip(nearest, full, strict=True)]
        found[form] = {"of_the_nearest": round(float(np.mean(shared)), 4), **told}
    return found


def searched(
    search: Search, encoder: Passages, form: StoredForm
) -> tuple[dict[str, Any], list[set[int]]]:
    """Returns the figures of an index with such vectors, and the passages nearest to each query."""
    rows = [{"id": str(number), "text": text} for number, text in enumerate(search.documents)]
    queries_QD = encoder.encode_query(list(search.relevant))
    with (
        TemporaryDirectory() as folder,
        tw.index(rows, folder, embedder=encoder, vectors=form) as index,
    ):
        neighbours = open_neighbours(index.store)
        nearest = [
            {passage for passage, _ in neighbours.nearest(query_D, NEAREST)}
            for query_D in queries_QD
        ]
        told: dict[str, Any] = {"passages": index.store.num_passages}
        for mode in MODES:
            ndcg = index.evaluate(search.judged, Question(mode=mode)).metrics["ndcg@10"]
            told[f"{mode}, ndcg@10"] = [round(v, 4) for v in (ndcg.value, ndcg.low, ndcg.high)]
    return told, nearest


MEASURES: dict[str, Callable[[int | None], dict[str, Any]]] = {
    "clusters": clusters,
    "difference": difference,
    "smaller vectors": smaller,
}

if __name__ == "__main__":
    main()
