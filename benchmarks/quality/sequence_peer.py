"""The same runs with `transformers.Trainer`, in bf16 and length-grouped, its fast settings."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from itertools import starmap
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoModelForMultipleChoice,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorForMultipleChoice,
    DataCollatorWithPadding,
    Trainer,
    set_seed,
)

from benchmarks.quality.harness import Settings
from benchmarks.quality.sequence_data import Row, Splits
from benchmarks.quality.trainer_settings import trainer_arguments
from tunewright.models.files.folder import find_model
from tunewright.tasks import find_task
from tunewright.tasks.base import Statistics, Task, stack
from tunewright.tasks.multiple_choice import MultipleChoice
from tunewright.tasks.regression import Regression
from tunewright.tasks.shared.windows import Window
from tunewright.types import Row as OurRow

PROBLEMS = {
    "multi-label-classification": "multi_label_classification",
    "text-classification": "single_label_classification",
    "regression": "regression",
}


def run(name: str, splits: Splits, settings: Settings, seed: int) -> Statistics:
    """Trains, and returns the statistics that our task makes of the Trainer's outputs.

    What our task fits on validation rows, such as thresholds, it fits on the Trainer's outputs too.
    """
    rows = {
        split: [OurRow(number, row) for number, row in enumerate(each)]
        for split, each in splits.items()
    }
    task = find_task(name)().within(settings.max_length).learn(rows["train"])
    if isinstance(task, Regression):
        task = replace(task, mean=0.0, scale=1.0)  # the Trainer learns scores as they are
    logits = trained(name, getattr(task, "labels", ()), splits, settings, seed)
    if "validation" in rows:
        answers = answers_of(task, logits["validation"], rows["validation"])
        task = task.calibrate(answers, rows["validation"])
    pairs = zip(answers_of(task, logits["test"], rows["test"]), rows["test"], strict=True)
    return stack(task.statistics(answer, row) for answer, row in pairs)


def trained(
    name: str, labels: Sequence[str], splits: Splits, settings: Settings, seed: int
) -> dict[str, np.ndarray]:
    """Returns the logits of each split but train, (R, C), after one run of the Trainer."""
    folder = find_model("starter")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    set_seed(seed)
    if name == "multiple-choice":
        model = AutoModelForMultipleChoice.from_pretrained(folder)
        collator: Any = DataCollatorForMultipleChoice(tokenizer)
    else:
        model = AutoModelForSequenceClassification.from_pretrained(
            folder, num_labels=len(labels) or 1, problem_type=PROBLEMS[name]
        )
        collator = DataCollatorWithPadding(tokenizer)
    encoded = {
        split: [encode(row, tokenizer, labels, settings.max_length) for row in rows]
        for split, rows in splits.items()
    }
    with tempfile.TemporaryDirectory() as output:
        trainer = Trainer(
            model,
            trainer_arguments(settings, output, seed),
            train_dataset=encoded.pop("train"),
            data_collator=collator,
        )
        trainer.train()
        trainer.args.train_sampling_strategy = "random"  # else predict() answers sorted by length
        return {split: trainer.predict(rows).predictions for split, rows in encoded.items()}


def encode(row: Row, tokenizer: Any, labels: Sequence[str], max_length: int) -> dict[str, Any]:
    """Returns a row as the Trainer reads it, cut to `max_length`."""
    cut = {"truncation": True, "max_length": max_length}
    if "choices" in row:
        questions = [row["question"]] * len(row["choices"])
        return {**tokenizer(questions, row["choices"], **cut), "labels": row["label"]}
    encoded = tokenizer(row["text"], row.get("text_pair"), **cut)
    if "labels" in row:
        target: Any = [float(name in row["labels"]) for name in labels]
    else:
        target = float(row["score"]) if "score" in row else labels.index(row["label"])
    return {**encoded, "labels": target}


def answers_of(task: Task, logits_RC: np.ndarray, rows: Sequence[OurRow]) -> list[Any]:
    """Returns our task's answers from somebody else's logits."""
    if isinstance(task, MultipleChoice):
        choices = ([*starmap(Window, enumerate(each))] for each in logits_RC.tolist())
        return [task.join(own, row) for own, row in zip(choices, rows, strict=True)]
    logits_RC = logits_RC[:, 0] if isinstance(task, Regression) else logits_RC
    return task.decode({"logits": torch.from_numpy(logits_RC)}, [], None)
