"""One training run of ours; returns which test rows it answers rightly."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from benchmarks.quality.cases import Case
from tunewright.run.config import compose
from tunewright.run.train import train


def run(case: Case, data: Path, seed: int, output: Path) -> tuple[np.ndarray, float]:
    """Returns (correct_R, seconds of the whole run, start to report)."""
    config = compose(
        {
            "task": {"name": "text-classification", "max_length": case.max_length},
            "data": {"split": {"validation": 0, "test": 0}},
            "training": {
                "num_train_epochs": case.num_train_epochs,
                "learning_rate": case.learning_rate,
                "batch_size": case.batch_size,
                "warmup_ratio": case.warmup_ratio,
                "weight_decay": case.weight_decay,
                "load_best_model_at_end": False,
                "seed": seed,
                "track": [],
            },
            "evaluation": {"num_resamples": 0},
            "output": {"folder": str(output), "name": f"{case.folder.split('/')[1]}-{seed}"},
        }
    )
    started = time.perf_counter()
    sources = {"train": data / "train.jsonl.gz", "test": data / "test.jsonl.gz"}
    result = train(sources, config).result
    assert result is not None
    statistics = result.statistics
    return statistics["predicted"] == statistics["true"], time.perf_counter() - started
