"""Several labels, pairs, scores and choices: `python -m benchmarks.quality.sequence_level`.

Names of cases may follow, such as `STS-B`. Each seed of ours runs beside the same seed of
`transformers.Trainer` with the same model, rows and settings, alternating. Both sides' outputs are
measured by the same task. Results go to `benchmarks/quality/sequence_level.json`, and a table is
printed. Settings were chosen on validation rows, never on test.

Shape letters: S seeds, R rows, C outputs.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality import sequence_data as data
from benchmarks.quality import sequence_peer as peer
from tunewright.devices import find_device
from tunewright.run.config import compose
from tunewright.run.train import train
from tunewright.tasks.base import Statistics, Task

RESULTS = Path(__file__).with_suffix(".json")
NUM_RESAMPLES = 2000


@dataclass(frozen=True)
class Case:
    """A data set, what both sides are told, and the metrics compared.

    `target` is asked of the first metric on test.
    """

    name: str
    task: str
    read: Callable[[Path], data.Splits]
    metrics: tuple[str, ...]
    num_train_epochs: int
    learning_rate: float
    max_length: int = 128
    batch_size: int = 32
    seeds: tuple[int, ...] = (1, 2, 3)
    warmup_ratio: float = 0.1
    weight_decay: float = 0.01
    target: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


CASES = (
    Case(
        "MultiWOZ domains",
        "multi-label-classification",
        data.multiwoz_domains,
        ("f1_micro", "f1_macro", "average_precision"),
        8,
        3e-4,
        max_length=512,
    ),
    Case("Medical RQE", "text-classification", data.medical_rqe, ("accuracy",), 3, 1e-4),
    Case("STS-B", "regression", data.stsb, ("spearman", "pearson"), 6, 1e-4, target=0.84),
    Case("MedQuAD, 1 of 4", "multiple-choice", data.medquad_choices, ("accuracy", "mrr"), 2, 1e-4),
)


def main() -> None:
    root = os.environ.get("TUNEWRIGHT_BENCHMARK_DATA")
    if not root or not Path(root).is_dir():
        sys.exit("Set TUNEWRIGHT_BENCHMARK_DATA to the folder of the data sets.")
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for case in CASES:
        if case.name in (sys.argv[1:] or [case.name]):
            results[case.name] = measure(case, case.read(Path(root)))
            RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    print(table(results))


def measure(case: Case, splits: data.Splits) -> dict[str, Any]:
    """Trains every seed on both sides and returns the figures of the case."""
    figures: dict[str, list[dict[str, float]]] = {"ours": [], "peer": []}
    reducers: dict[str, list[Any]] = {"ours": [], "peer": []}
    seconds: dict[str, list[float]] = {"ours": [], "peer": []}
    for seed in case.seeds:
        for side, run in (("ours", ours), ("peer", theirs)):
            started = time.perf_counter()
            task, statistics = run(case, splits, seed)
            seconds[side].append(round(time.perf_counter() - started, 1))
            reducers[side].append(task.prepare(statistics))
            found = reducers[side][-1](None)
            figures[side].append({name: float(found[name]) for name in case.metrics})
            told = ", ".join(f"{name} {found[name]:.4f}" for name in case.metrics)
            print(f"{case.name}, seed {seed}: {side} {told} in {seconds[side][-1]:.0f} s",
                  flush=True)  # fmt: skip
    device = find_device()
    return {
        "rows": len(splits["test"]),
        "target": case.target,
        "settings": {
            name: getattr(case, name)
            for name in ("max_length", "num_train_epochs", "learning_rate", "batch_size", "seeds")
        },
        **figures,
        "intervals": paired_intervals(case, reducers, len(splits["test"])),
        "seconds": seconds,
        "device": device.description,
        "precision": device.precision,
    }


def ours(case: Case, splits: data.Splits, seed: int) -> tuple[Task, Statistics]:
    """Returns the task and the statistics of the test rows after one run of ours.

    Validation rows, where the case has them, only fit thresholds: the last weights are kept.
    """
    with tempfile.TemporaryDirectory() as output:
        config = compose(
            {
                "task": {"name": case.task, "max_length": case.max_length, **case.options},
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
        run = train(splits, config)
        assert run.result is not None
        return run.task, run.result.statistics


def theirs(case: Case, splits: data.Splits, seed: int) -> tuple[Task, Statistics]:
    """Returns the same of one run of `transformers.Trainer`, its outputs measured by our task."""
    settings = peer.Settings(
        case.max_length,
        case.num_train_epochs,
        case.learning_rate,
        case.batch_size,
        case.warmup_ratio,
        case.weight_decay,
        seed,
    )
    return peer.run(case.task, splits, settings)


def paired_intervals(
    case: Case, reducers: Mapping[str, Sequence[Any]], num_rows: int
) -> dict[str, list[float]]:
    """Returns the 95 % interval of ours minus theirs for each metric.

    Seeds and test rows are both drawn anew, each draw the same on both sides.
    """
    num_seeds = len(case.seeds)
    generator = np.random.Generator(np.random.PCG64(0))
    gaps: dict[str, list[float]] = {name: [] for name in case.metrics}
    for _ in range(NUM_RESAMPLES):
        seeds = generator.integers(0, num_seeds, num_seeds)
        drawn_R = np.bincount(generator.integers(0, num_rows, num_rows), minlength=num_rows)
        mine, other = ([reduce(drawn_R) for reduce in reducers[side]] for side in ("ours", "peer"))
        for name in case.metrics:
            gap_S = np.array([a[name] - b[name] for a, b in zip(mine, other, strict=True)])
            gaps[name].append(float(gap_S[seeds].mean()))
    return {
        name: [float(bound) for bound in np.percentile(values, [2.5, 97.5])]
        for name, values in gaps.items()
    }


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns the lines of the quality table, in points (hundredths) of each metric."""
    head = (
        "| data set | test rows | metric | asked for | ours | peer | difference | 95 % interval |\n"
        "|---|---:|---|---:|---:|---:|---:|---:|"
    )
    lines = [
        _line(name, metric, found)
        for name, found in results.items()
        for metric in found["intervals"]
    ]
    return "\n".join([head, *lines])


def _line(name: str, metric: str, found: Mapping[str, Any]) -> str:
    mine, other = (100 * float(np.mean([run[metric] for run in found[side]]))
                   for side in ("ours", "peer"))  # fmt: skip
    low, high = (100 * bound for bound in found["intervals"][metric])
    is_first = metric == next(iter(found["intervals"]))
    target = f"{100 * found['target']:.1f}" if found["target"] and is_first else ""
    return (
        f"| {name} | {found['rows']:,} | {metric} | {target} | {mine:.2f} | {other:.2f} | "
        f"{mine - other:+.2f} | {low:+.2f} to {high:+.2f} |"
    )


if __name__ == "__main__":
    main()
