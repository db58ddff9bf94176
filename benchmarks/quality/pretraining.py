"""What pretraining is worth: four Chinese tasks from a pretrained model and from random weights.

    python -m benchmarks.chinese_corpus chinese.jsonl.gz
    tunewright pretrain chinese.jsonl.gz --model new:4x256 --name chinese
    python -m benchmarks.quality.pretraining runs/chinese [TASK ...]

Both sides have the same tokenizer, sizes, settings and seeds; only the first weights differ. The
interval is a paired 95 % bootstrap of the difference over test rows and seeds. Results are added to
`benchmarks/quality/pretraining.json` after every task.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tunewright.run.config import compose
from tunewright.run.finished import FinishedRun
from tunewright.run.train import train
from tunewright.tasks.base import Task

RESULTS = Path(__file__).with_suffix(".json")
NUM_RESAMPLES = 1000


@dataclass(frozen=True)
class Case:
    """A task on a data set; `leaked` names a column that is true for test rows left out."""

    name: str
    folder: str
    test: str
    metric: str
    task: Mapping[str, Any]
    training: Mapping[str, Any]
    seeds: tuple[int, ...] = (1, 2, 3)
    leaked: str | None = None


# The settings are those that gave random weights the best figures on validation rows.
CASES = (
    Case(
        "ChnSentiCorp (clean rows)",
        "classification/chnsenticorp",
        "test",
        "accuracy",
        {"name": "text-classification", "max_length": 256},
        {"num_train_epochs": 4, "learning_rate": 3e-4},
        leaked="in_train",
    ),
    Case(
        "THUCNews titles",
        "classification/thucnews_titles",
        "test",
        "accuracy",
        {"name": "text-classification", "max_length": 64},
        {"num_train_epochs": 6, "learning_rate": 3e-4},
    ),
    Case(
        "CLUENER2020",
        "ner/cluener2020",
        "validation",
        "f1",
        {"name": "token-classification", "max_length": 128},
        {"num_train_epochs": 8, "learning_rate": 5e-4},
    ),
    Case(
        "CMRC2018",
        "qa/cmrc2018",
        "validation",
        "f1",
        {"name": "question-answering", "max_length": 384, "max_answer_length": 50},
        {"num_train_epochs": 3, "learning_rate": 3e-4},
    ),
)


def main() -> None:
    root = os.environ.get("TUNEWRIGHT_BENCHMARK_DATA")
    if len(sys.argv) < 2 or not root or not Path(root).is_dir():
        sys.exit("Set TUNEWRIGHT_BENCHMARK_DATA, and name a finished run of tunewright pretrain.")
    pretrained = FinishedRun(sys.argv[1])
    sides = {"pretrained": str(pretrained.folder.model), "random": pretrained.config.model.name}
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for case in CASES:
        if not sys.argv[2:] or any(case.name.startswith(word) for word in sys.argv[2:]):
            results[case.name] = measure(case, sides, Path(root))
            RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    print(table(results))


def measure(case: Case, sides: Mapping[str, str], root: Path) -> dict[str, Any]:
    """Trains every seed from both sides' weights and compares the figures of the test rows."""
    runs: dict[str, list[FinishedRun]] = {side: [] for side in sides}
    kept_R = _kept(case, root)
    with tempfile.TemporaryDirectory() as output:
        for seed in case.seeds:
            for side, model in sides.items():
                run = _train(case, model, seed, root, Path(output) / f"{side}-{seed}")
                runs[side].append(run)
                figure = _reduced(case, run, kept_R.astype(int))
                print(f"{case.name}, seed {seed}: {side} {figure:.4f}", flush=True)
        figures = {
            side: [_reduced(case, run, kept_R.astype(int)) for run in found]
            for side, found in runs.items()
        }
        interval = paired_interval(case, runs["pretrained"], runs["random"], kept_R)
    return {
        "metric": case.metric,
        "rows": int(kept_R.sum()),
        "seeds": list(case.seeds),
        **figures,
        "interval": interval,
    }


def _train(case: Case, model: str, seed: int, root: Path, output: Path) -> FinishedRun:
    config = compose(
        {
            "task": dict(case.task),
            "model": {"name": model},
            "data": {"split": {"validation": 0, "test": 0}},
            "training": {
                **case.training,
                "load_best_model_at_end": False,
                "save_total_limit": 0,
                "seed": seed,
                "track": [],
            },
            "evaluation": {"num_resamples": 0, "num_mistakes": 0},
            "output": {"folder": str(output.parent), "name": output.name},
        }
    )
    data = root / case.folder
    sources = {"train": data / "train.jsonl.gz", "test": data / f"{case.test}.jsonl.gz"}
    run = train(sources, config)
    shutil.rmtree(run.path / "checkpoints", ignore_errors=True)
    return run


def _kept(case: Case, root: Path) -> np.ndarray:
    """Returns which test rows count, booleans (R,)."""
    with gzip.open(root / case.folder / f"{case.test}.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return np.array([case.leaked is None or not row[case.leaked] for row in rows])


def _reduced(case: Case, run: FinishedRun, counts_R: np.ndarray) -> float:
    assert run.result is not None
    return float(run.task.reduce(run.result.statistics, counts_R)[case.metric])


def paired_interval(
    case: Case, mine: Sequence[FinishedRun], theirs: Sequence[FinishedRun], kept_R: np.ndarray
) -> list[float]:
    """Returns the 95 % interval of the mean difference, each draw the same on both sides."""
    reducers = [[_reducer(run) for run in side] for side in (mine, theirs)]
    rows, generator = np.flatnonzero(kept_R), np.random.Generator(np.random.PCG64(0))
    values = []
    for _ in range(NUM_RESAMPLES):
        counts_R = np.bincount(generator.choice(rows, len(rows)), minlength=len(kept_R))
        gaps_S = np.array(
            [
                a(counts_R)[case.metric] - b(counts_R)[case.metric]
                for a, b in zip(*reducers, strict=True)
            ]
        )
        values.append(generator.choice(gaps_S, len(gaps_S)).mean())
    return [float(bound) for bound in np.percentile(values, [2.5, 97.5])]


def _reducer(run: FinishedRun) -> Any:
    task: Task = run.task
    assert run.result is not None
    return task.prepare(run.result.statistics)


def table(results: Mapping[str, Any]) -> str:
    """Returns the results in Markdown, in points of the metric."""
    lines = ["| data set | test rows | metric | pretrained | random weights | difference | 95 % |",
             "|---|---:|---|---:|---:|---:|---:|"]  # fmt: skip
    for name, found in results.items():
        mine, theirs = (100 * float(np.mean(found[side])) for side in ("pretrained", "random"))
        low, high = (100 * bound for bound in found["interval"])
        cells = [name, f"{found['rows']:,}", found["metric"], f"{mine:.2f}", f"{theirs:.2f}",
                 f"{mine - theirs:+.2f}", f"{low:+.2f} to {high:+.2f}"]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
