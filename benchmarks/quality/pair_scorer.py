"""How well a pair scorer can do on STS-B: `python -m benchmarks.quality.pair_scorer`.

The starter model, tuned as a regression of pairs in several ways, each with three seeds. Which way
is the best is said by the validation rows; every run is measured on the test rows, too. Results go
to `benchmarks/quality/pair_scorer.json`.

The ways differ in whether both orders of a pair are read, and in what the scorer has learnt before:
nothing, or the scores that a sentence encoder gives to many pairs. The encoder is the starter,
tuned on the same training rows (after Thakur et al. 2021, "Augmented SBERT", the other way round:
there a pair scorer labels pairs for an encoder). Its pairs are made of the training sentences
alone.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality.harness import Rows, Settings, data_root, read_rows, run_of_ours
from tunewright.devices import find_device
from tunewright.retrieval.encoder import load_encoder

RESULTS = Path(__file__).with_suffix(".json")
PAIR = {"text": "text_a", "text_pair": "text_b"}
ENCODER = Settings(1, 2e-4, batch_size=64)
NEAR, RANDOM = 1, 1  # pairs of a sentence: with its nearest, and with another


@dataclass(frozen=True)
class Way:
    """Settings of a pair scorer, and of what it learns before."""

    settings: Settings
    task: Mapping[str, Any] = field(default_factory=dict)
    taught: Settings | None = None


TAUGHT = Settings(1, 2e-4)
BOTH = {"symmetric": True}
WAYS = {
    "plain": Way(Settings(6, 1e-4)),
    "both orders": Way(Settings(6, 1e-4), BOTH),
    "taught": Way(Settings(2, 1e-4), {}, TAUGHT),
    "taught, both orders": Way(Settings(2, 1e-4), BOTH, TAUGHT),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("ways", nargs="*", default=list(WAYS))
    parser.add_argument("--rows", type=int, help="of each split; nothing is written")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    folder = data_root() / "similarity" / "stsb"
    splits = {
        name: read_rows(folder / f"{name}.jsonl.gz")[: given.rows]
        for name in ("train", "validation", "test")
    }
    device = find_device()
    found: dict[str, Any] = {
        "device": device.description,
        "precision": device.precision,
        "ways": {name: {"way": asdict(WAYS[name]), "seeds": {}} for name in given.ways},
    }
    for seed in given.seeds:
        for name in given.ways:
            with taught_by(WAYS[name].taught, splits["train"], seed) as model:
                scores = measured(WAYS[name], splits, seed, model)
            found["ways"][name]["seeds"][str(seed)] = scores
            print(f"{name}, seed {seed}: {scores}", flush=True)
            if not given.rows:
                given.results.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def measured(way: Way, splits: Mapping[str, Rows], seed: int, model: str) -> dict[str, float]:
    """Returns Spearman's correlation on validation and test after one run's last update."""
    task = {"name": "regression", **way.task}
    with run_of_ours(task, way.settings, splits, seed, PAIR, model) as run:
        assert run.result is not None
        lines = (run.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        judged = [event for event in map(json.loads, lines) if event["event"] == "evaluation"]
        return {
            "validation": judged[-1]["validation/spearman"],
            "test": run.metrics["spearman"].value,
        }


@contextmanager
def taught_by(settings: Settings | None, rows: Rows, seed: int) -> Iterator[str]:
    """Gives the model that a way begins from: the starter, or one that an encoder has taught."""
    if settings is None:
        yield "starter"
        return
    with taught_model(rows, settings, seed) as folder:
        yield folder


@contextmanager
def taught_model(rows: Rows, settings: Settings, seed: int) -> Iterator[str]:
    """Gives the folder of a pair scorer that has learnt an encoder's scores."""
    columns = {"anchor": "text_a", "positive": "text_b"}
    task = {"name": "sentence-embedding", "objective": "cosent"}
    with run_of_ours(task, ENCODER, {"train": rows}, seed, columns) as encoder:
        pairs = scored_pairs(rows, load_encoder(encoder.folder.model))
    print(f"{len(pairs):,} pairs that an encoder has scored", flush=True)
    with run_of_ours({"name": "regression"}, settings, {"train": pairs}, seed, PAIR) as run:
        yield str(run.folder.model)


def scored_pairs(rows: Rows, encoder: Any) -> Rows:
    """Returns pairs of the rows' sentences with an encoder's cosines: near ones, and any others."""
    texts = list(dict.fromkeys(text for row in rows for text in (row["text_a"], row["text_b"])))
    vectors_TD = np.asarray(encoder.encode(texts))
    rng = np.random.Generator(np.random.PCG64(0))
    similarity_TT = vectors_TD @ vectors_TD.T
    np.fill_diagonal(similarity_TT, -2)
    near_TK = np.argpartition(-similarity_TT, min(NEAR, len(texts) - 1) - 1, axis=1)[:, :NEAR]
    other_TK = rng.integers(0, len(texts), (len(texts), RANDOM))
    found: dict[tuple[int, int], float] = {}
    for first, partners in enumerate(np.concatenate([near_TK, other_TK], axis=1).tolist()):
        for second in partners:
            if first != second:
                pair = (min(first, second), max(first, second))
                found[pair] = float(similarity_TT[first, second])
    return [
        {"text_a": texts[a], "text_b": texts[b], "score": score} for (a, b), score in found.items()
    ]


if __name__ == "__main__":
    main()
