"""Entities beside `transformers.Trainer`: `python -m benchmarks.quality.token_classification`.

Names of cases may follow, such as `WNUT17`. Each seed of ours runs beside the same seed of the
peer, alternating. Results go to `benchmarks/quality/token_classification.json`, with the numbers of
true, answered and right entities of every test row, and a table is printed. Settings were chosen on
validation rows, never on test.

Shape letters: S seeds, R rows; 3 stands for true, answered and right entities.
"""

from __future__ import annotations

import gzip
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from seqeval.metrics.sequence_labeling import get_entities
from transformers import (
    AutoModelForTokenClassification,
    AutoTokenizer,
    DataCollatorForTokenClassification,
    Trainer,
    TrainingArguments,
    set_seed,
)

from tunewright.devices import find_device
from tunewright.models.folder import find_model
from tunewright.run.config import compose
from tunewright.run.train import train

RESULTS = Path(__file__).with_suffix(".json")
NUM_RESAMPLES = 10_000
IGNORED = -100


@dataclass(frozen=True)
class Case:
    """A data set and what both sides are told."""

    name: str
    folder: str
    num_train_epochs: int
    learning_rate: float
    seeds: tuple[int, ...] = (1, 2, 3)
    max_length: int = 128
    batch_size: int = 32
    warmup_ratio: float = 0.1
    weight_decay: float = 0.01


CASES = (
    Case("WNUT17", "ner/wnut17", 5, 3e-4),
    Case("BC5CDR", "ner/bc5cdr", 5, 3e-4),
    Case("UNER-EWT", "ner/uner_ewt", 10, 3e-4),
)
Rows = Sequence[Mapping[str, list[str]]]


def main() -> None:
    root = os.environ.get("TUNEWRIGHT_BENCHMARK_DATA")
    if not root or not Path(root).is_dir():
        sys.exit("Set TUNEWRIGHT_BENCHMARK_DATA to the folder of the data sets.")
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for case in CASES:
        if case.name in (sys.argv[1:] or [case.name]):
            results[case.name] = measure(case, Path(root) / case.folder)
            RESULTS.write_text(json.dumps(results) + "\n")
    print(table(results))


def measure(case: Case, data: Path, num_rows: int | None = None) -> dict[str, Any]:
    """Trains every seed on both sides; `num_rows` of each split, all where it is None."""
    splits = {name: read_rows(data / f"{name}.jsonl.gz")[:num_rows] for name in ("train", "test")}
    counts: dict[str, list[np.ndarray]] = {"ours": [], "peer": []}
    seconds: dict[str, list[float]] = {"ours": [], "peer": []}
    for seed in case.seeds:
        for side, run in (("ours", ours), ("peer", peer)):
            started = time.perf_counter()
            answered = run(case, splits["train"], splits["test"], seed)
            seconds[side].append(round(time.perf_counter() - started, 1))
            counts[side].append(entity_counts(splits["test"], answered))
            print(
                f"{case.name}, seed {seed}: {side} {f1_of(counts[side][-1].sum(0)):.4f} "
                f"in {seconds[side][-1]:.0f} s",
                flush=True,
            )
    mine_SR3, theirs_SR3 = (np.array(counts[side]) for side in ("ours", "peer"))
    device = find_device()
    return {
        "rows": len(splits["test"]),
        "settings": asdict(case),
        "ours": [float(f1_of(each.sum(0))) for each in mine_SR3],
        "peer": [float(f1_of(each.sum(0))) for each in theirs_SR3],
        "interval": paired_interval(mine_SR3, theirs_SR3),
        "seconds": seconds,
        "device": device.description,
        "precision": device.precision,
        "counts": {side: np.array(each).tolist() for side, each in counts.items()},
    }


def read_rows(path: Path) -> Rows:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def entity_counts(rows: Rows, answered: Iterable[Sequence[str]]) -> np.ndarray:
    """Returns the numbers of true, answered and right entities of each row, (R, 3)."""
    pairs = [
        (set(get_entities(row["tags"])), set(get_entities(list(tags))))
        for row, tags in zip(rows, answered, strict=True)
    ]
    return np.array([(len(true), len(found), len(true & found)) for true, found in pairs])


def f1_of(counts: np.ndarray) -> np.ndarray:
    """Returns 2 right / (true + answered) over the last axis, 0 of nothing."""
    true, answered, right = np.moveaxis(counts, -1, 0)
    return np.divide(2 * right, true + answered, out=np.zeros_like(true, float),
                     where=true + answered > 0)  # fmt: skip


def paired_interval(mine_SR3: np.ndarray, theirs_SR3: np.ndarray) -> list[float]:
    """Returns the 95 % interval of ours minus theirs in points of F1.

    Seeds and test rows are both drawn anew, each draw the same on both sides.
    """
    num_seeds, num_rows, _ = mine_SR3.shape
    generator = np.random.Generator(np.random.PCG64(0))
    gaps = []
    for _ in range(NUM_RESAMPLES):
        seeds = generator.integers(0, num_seeds, num_seeds)
        drawn_R = np.bincount(generator.integers(0, num_rows, num_rows), minlength=num_rows)
        mine_S3, theirs_S3 = (np.einsum("r,src->sc", drawn_R, x) for x in (mine_SR3, theirs_SR3))
        gaps.append(100 * (f1_of(mine_S3) - f1_of(theirs_S3))[seeds].mean())
    return [float(bound) for bound in np.percentile(gaps, [2.5, 97.5])]


def ours(case: Case, train_rows: Rows, test_rows: Rows, seed: int) -> list[list[str]]:
    """Returns the tags of every test row after one run of ours."""
    with tempfile.TemporaryDirectory() as output:
        config = compose(
            {
                "task": {"name": "token-classification", "max_length": case.max_length},
                "data": {"split": {"validation": 0, "test": 0}},
                "training": {
                    "num_train_epochs": case.num_train_epochs,
                    "learning_rate": case.learning_rate,
                    "batch_size": case.batch_size,
                    "warmup_ratio": case.warmup_ratio,
                    "weight_decay": case.weight_decay,
                    "load_best_model_at_end": False,
                    "save_total_limit": 0,
                    "seed": seed,
                    "track": [],
                },
                "evaluation": {"num_resamples": 0},
                "output": {"folder": output, "name": "run"},
            }
        )
        run = train({"train": list(train_rows), "test": list(test_rows)}, config)
        predictions = (run.folder.evaluation / "predictions.jsonl").read_text(encoding="utf-8")
    return [json.loads(line)["tags"] for line in predictions.split("\n") if line]


def peer(case: Case, train_rows: Rows, test_rows: Rows, seed: int) -> list[list[str]]:
    """Returns the tags of every test row after the same run with `transformers.Trainer`.

    It runs in bf16 and length-grouped, its fast settings; the first token of a word carries its
    tag, and words that max_length cuts are outside.
    """
    folder = find_model("starter")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    names = sorted({tag for row in train_rows for tag in row["tags"]})
    set_seed(seed)
    model = AutoModelForTokenClassification.from_pretrained(
        folder, num_labels=len(names), id2label=dict(enumerate(names))
    )
    encoded = [encode(rows, tokenizer, names, case) for rows in (train_rows, test_rows)]
    with tempfile.TemporaryDirectory() as output:
        trainer = Trainer(
            model,
            TrainingArguments(
                output_dir=output,
                num_train_epochs=case.num_train_epochs,
                per_device_train_batch_size=case.batch_size,
                per_device_eval_batch_size=64,
                learning_rate=case.learning_rate,
                warmup_steps=case.warmup_ratio,
                weight_decay=case.weight_decay,
                bf16=torch.backends.mkldnn.is_available(),
                train_sampling_strategy="group_by_length",
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
                logging_strategy="no",
                use_cpu=not torch.cuda.is_available(),
                seed=seed,
            ),
            train_dataset=[item for item, _ in encoded[0]],
            data_collator=DataCollatorForTokenClassification(tokenizer),
        )
        trainer.train()
        trainer.args.train_sampling_strategy = "random"  # else predict() answers sorted by length
        chosen = trainer.predict([item for item, _ in encoded[1]]).predictions.argmax(-1)
    return [
        read_tags(choices, words, len(row["tokens"]), names)
        for choices, (_, words), row in zip(chosen, encoded[1], test_rows, strict=True)
    ]


def encode(
    rows: Rows, tokenizer: Any, names: Sequence[str], case: Case
) -> list[tuple[dict[str, Any], list[int | None]]]:
    """Returns each row as the Trainer reads it, and the word of each token."""
    encoded = tokenizer(
        [row["tokens"] for row in rows],
        is_split_into_words=True,
        truncation=True,
        max_length=case.max_length,
    )
    found = []
    for place, row in enumerate(rows):
        words = encoded.word_ids(place)
        labels = [
            names.index(row["tags"][word]) if is_first(words, token) else IGNORED
            for token, word in enumerate(words)
        ]
        item = {name: values[place] for name, values in encoded.items()} | {"labels": labels}
        found.append((item, words))
    return found


def is_first(words: Sequence[int | None], token: int) -> bool:
    """Says whether a token is the first of a word."""
    return words[token] is not None and (token == 0 or words[token - 1] != words[token])


def read_tags(
    choices: np.ndarray, words: Sequence[int | None], num_words: int, names: Sequence[str]
) -> list[str]:
    """Returns the tag of each word, that of its first token."""
    tags = ["O"] * num_words
    for token, word in enumerate(words):
        if word is not None and is_first(words, token):
            tags[word] = names[choices[token]]
    return tags


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns the lines of the quality table."""
    head = (
        "| data set | test rows | ours | peer | difference | 95 % interval | seconds |\n"
        "|---|---:|---:|---:|---:|---:|---:|"
    )
    return "\n".join([head, *(_line(name, found) for name, found in results.items())])


def _line(name: str, found: Mapping[str, Any]) -> str:
    mine, theirs = (100 * float(np.mean(found[side])) for side in ("ours", "peer"))
    low, high = found["interval"]
    times = " / ".join(f"{np.median(found['seconds'][side]):.0f}" for side in ("ours", "peer"))
    return (
        f"| {name} | {found['rows']:,} | {mine:.2f} | {theirs:.2f} | {mine - theirs:+.2f} | "
        f"{low:+.2f} to {high:+.2f} | {times} |"
    )


if __name__ == "__main__":
    main()
