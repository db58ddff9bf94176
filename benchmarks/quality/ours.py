"""One training run of ours; returns which test rows it answers rightly."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from benchmarks.quality.cases import Case
from benchmarks.quality.harness import run_of_ours


def run(case: Case, data: Path, seed: int) -> tuple[np.ndarray, float]:
    """Returns (correct_R, seconds of the whole run, start to report)."""
    started = time.perf_counter()
    sources = {"train": data / "train.jsonl.gz", "test": data / "test.jsonl.gz"}
    with run_of_ours({"name": "text-classification"}, case.settings, sources, seed) as finished:
        assert finished.result is not None
        statistics = finished.result.statistics
    return statistics["predicted"] == statistics["true"], time.perf_counter() - started
