"""Replies in a conversation: `python -m benchmarks.quality.replies`.

SmolLM2-135M-Instruct on MultiWOZ 2.1 (`TUNEWRIGHT_BENCHMARK_DATA`), before and after it has learnt
from whole conversations. A test row is a conversation up to one of its replies, drawn by a seed;
the model reads what stands before and writes the reply. Before tuning it is told what it is in the
best of three ways by ROUGE-L on validation rows, and so it is in tuning and test. Results go to
`benchmarks/quality/replies.json`.

`--train N --test N` take so many conversations.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.quality.harness import Rows, data_root, read_rows
from tunewright import load
from tunewright.data import read_table
from tunewright.devices import find_device
from tunewright.models.generating.generation import Generation
from tunewright.prediction.predictor import Predictor
from tunewright.run.config import compose
from tunewright.run.judging.judge import Judge
from tunewright.run.loaded import TrainedModel
from tunewright.run.train import train

RESULTS = Path(__file__).with_suffix(".json")
MODEL, NUM_RESAMPLES = "smollm2", 2000
MAX_LENGTH, MAX_NEW_TOKENS = 512, 64
TRAINING = {
    "num_train_epochs": 1,
    "batch_size": 16,
    "max_tokens": 2048,
    "learning_rate": 1e-4,
    "lr_scheduler_type": "cosine",
    "save_total_limit": 0,
    "seed": 1,
    "track": [],
}
# What the model is told before every conversation; the best of them is chosen on validation rows.
SYSTEMS = (
    "You are the clerk of a tourist office in Cambridge. Answer in one or two short sentences.",
    "Help the visitor to find and book hotels, restaurants, trains and sights. Be brief.",
    "You answer questions about Cambridge. Ask for what you need to know, then make the booking.",
)
SHOWN = ("rouge1", "rouge2", "rougeL", "chrf", "perplexity")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", type=int)
    parser.add_argument("--test", type=int)
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    found = measured_all(splits_of(given.train, given.test))
    given.results.write_text(json.dumps({"MultiWOZ": found}, indent=1, ensure_ascii=False) + "\n")


def splits_of(num_train: int | None, num_test: int | None) -> dict[str, Rows]:
    """Returns whole conversations to learn from, and those that end with a reply to be written."""
    folder = data_root() / "dialogue" / "multiwoz21"
    rng = random.Random(42)
    splits: dict[str, Rows] = {}
    for split, size in (("train", num_train), ("validation", num_test), ("test", num_test)):
        rows = read_rows(folder / f"{split}.jsonl.gz")[:size]
        turns = [row["messages"] for row in rows]
        if split != "train":
            turns = [each[: rng.randrange(1, len(each), 2) + 1] for each in turns]
        splits[split] = [{"messages": each} for each in turns]
    return splits


def measured_all(splits: dict[str, Rows]) -> dict[str, Any]:
    base = load(MODEL)
    tried = {
        system: measured(prepared(base, system), splits["validation"])["metrics"]["rougeL"]["value"]
        for system in SYSTEMS
    }
    best = max(tried, key=lambda system: tried[system])
    device = find_device()
    found: dict[str, Any] = {
        "rows": {split: len(rows) for split, rows in splits.items()},
        "settings": {"max_length": MAX_LENGTH, "max_new_tokens": MAX_NEW_TOKENS, **TRAINING},
        "device": device.description,
        "precision": device.precision,
        "systems": tried,
        "system": best,
        "before": measured(prepared(base, best), splits["test"]),
    }
    show("before", found["before"])
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        model = tuned(splits, best, Path(folder))
        found["train_seconds"] = round(time.perf_counter() - started, 1)
        found["after"] = measured(prepared(model, best), splits["test"])
    show("after", found["after"])
    return found


def prepared(model: TrainedModel, system: str) -> Predictor:
    """Returns a model that is told something before it replies, and is measured by its replies."""
    task = replace(
        model.predictor.task,  # type: ignore[type-var]
        system=system,
        max_length=MAX_LENGTH,
        answer_length=MAX_NEW_TOKENS,
        learn_from="last answer",
        write_answers=True,
    )
    return replace(model.predictor, task=task, generation=Generation(max_new_tokens=MAX_NEW_TOKENS))


def measured(predictor: Predictor, rows: Rows) -> dict[str, Any]:
    """Returns the figures of the last replies with intervals, and the first five of them."""
    table = read_table(rows).rows({"messages": "messages"})
    started = time.perf_counter()
    result = Judge(NUM_RESAMPLES, num_mistakes=0).judge(predictor, table, "test")
    return {
        "metrics": {name: value.to_json() for name, value in result.metrics.items()},
        "seconds": round(time.perf_counter() - started, 1),
        "texts": [str(answer) for answer in predictor.answers(list(table)[:5])],
    }


def tuned(splits: dict[str, Rows], system: str, folder: Path) -> TrainedModel:
    """Returns the model after it has learnt from every reply of the training conversations."""
    config = compose(
        {
            "task": {
                "name": "text-generation",
                "system": system,
                "max_length": MAX_LENGTH,
                "answer_length": MAX_NEW_TOKENS,
            },
            "model": {"name": MODEL},
            "data": {"split": {"validation": 0.0, "test": 0.0}},
            "training": {**TRAINING, "load_best_model_at_end": False},
            "evaluation": {"num_resamples": 0},
            "output": {"folder": str(folder), "name": "replies"},
        }
    )
    return load(train({"train": splits["train"]}, config).path)


def show(side: str, found: dict[str, Any]) -> None:
    metrics = found["metrics"]
    print(
        side,
        "  ".join(
            f"{name} {metrics[name]['value']:.2f} "
            f"[{metrics[name]['low']:.2f}, {metrics[name]['high']:.2f}]"
            for name in SHOWN
        ),
        flush=True,
    )


if __name__ == "__main__":
    main()
