"""The same run with `transformers.Trainer`, in bf16 and length-grouped, its fast settings."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    set_seed,
)

from benchmarks.quality.cases import Case
from benchmarks.quality.harness import read_rows
from benchmarks.quality.trainer_settings import trainer_arguments
from tunewright.models.files.folder import find_model


def run(case: Case, data: Path, seed: int) -> tuple[np.ndarray, float]:
    """Returns (correct_R, seconds of loading, training and predicting)."""
    started = time.perf_counter()
    folder = find_model("starter")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    train_rows, test_rows = (read_rows(data / f"{name}.jsonl.gz") for name in ("train", "test"))
    labels = sorted({row["label"] for row in train_rows})
    set_seed(seed)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=len(labels))
    encoded = [_encode(rows, tokenizer, labels, case) for rows in (train_rows, test_rows)]
    with tempfile.TemporaryDirectory() as output:
        trainer = Trainer(
            model,
            trainer_arguments(case.settings, output, seed),
            train_dataset=encoded[0],
            data_collator=DataCollatorWithPadding(tokenizer),
        )
        trainer.train()
        trainer.args.train_sampling_strategy = "random"  # else predict() answers sorted by length
        predicted = trainer.predict(encoded[1]).predictions.argmax(1)
    true = np.array([row["labels"] for row in encoded[1]])
    return predicted == true, time.perf_counter() - started


def _encode(
    rows: list[dict[str, str]], tokenizer: object, labels: list[str], case: Case
) -> list[dict[str, object]]:
    texts = [row["text"] for row in rows]
    encoded = tokenizer(texts, truncation=True, max_length=case.settings.max_length, padding=False)  # type: ignore[operator]
    return [
        {
            "input_ids": encoded["input_ids"][i],
            "attention_mask": encoded["attention_mask"][i],
            "token_type_ids": encoded["token_type_ids"][i],
            "labels": labels.index(row["label"]),
        }
        for i, row in enumerate(rows)
    ]
