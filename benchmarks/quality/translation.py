"""Translators and titles from nothing: our Transformer and a tokenizer of its own, on pairs alone.

    python -m benchmarks.quality.translation [CASE ...]

Finds its data through TUNEWRIGHT_BENCHMARK_DATA. Settings were chosen on validation rows. The time
is that of the whole run, tokenizer, validation and test included; core-seconds are what its threads
took, whatever else ran beside it. Results are added to `benchmarks/quality/translation.json` after
every case.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.quality.harness import data_root
from tunewright.devices import find_device
from tunewright.run.config import compose
from tunewright.run.preparing.groundwork import Notice
from tunewright.run.train import train
from tunewright.training.events import Evaluation, Step

RESULTS = Path(__file__).with_suffix(".json")


@dataclass(frozen=True)
class Case:
    """Pairs of texts, the new model, and what is asked of it on the test rows."""

    name: str
    folder: str
    model: Mapping[str, Any]
    task: Mapping[str, Any]
    training: Mapping[str, Any]
    generation: Mapping[str, Any]
    targets: Mapping[str, float] = field(default_factory=dict)


# Small, after Wu et al. 2021, "Good for Misconceived Reasons": on so few pairs a larger model
# translates worse.
CASES = (
    Case(
        "Multi30k en-de",
        "translation/multi30k_en_de",
        {"name": "new:3x256", "new": {"vocab_size": 6000, "intermediate_size": 512}},
        {"name": "translation", "label_smoothing": 0.1},
        {
            "num_train_epochs": 10,
            "batch_size": 128,
            "learning_rate": 1.5e-3,
            "lr_scheduler_type": "cosine",
            "warmup_steps": 300,
            "adam_beta2": 0.98,
            "dropout": 0.15,
            "ema_decay": 0.995,
            "eval_steps": 454,
        },
        {"num_beams": 5, "max_new_tokens": 80},
        {"bleu": 33.0},
    ),
    Case(
        "Tatoeba en-zh",
        "translation/tatoeba_en_zh",
        {"name": "new:3x256", "new": {"vocab_size": 8000, "intermediate_size": 512}},
        {"name": "translation", "label_smoothing": 0.1},
        {
            "num_train_epochs": 10,
            "batch_size": 128,
            "learning_rate": 1.5e-3,
            "lr_scheduler_type": "cosine",
            "warmup_steps": 300,
            "adam_beta2": 0.98,
            "dropout": 0.15,
            "ema_decay": 0.995,
            "eval_steps": 346,
        },
        {"num_beams": 5, "max_new_tokens": 80},
    ),
    # 900 abstracts are all there are.
    Case(
        "CSL titles",
        "summarization/csl_zh",
        {"name": "new:2x256", "new": {"vocab_size": 6000, "intermediate_size": 512}},
        {"name": "summarization", "label_smoothing": 0.1},
        {
            "num_train_epochs": 60,
            "batch_size": 32,
            "learning_rate": 1e-3,
            "lr_scheduler_type": "cosine",
            "warmup_steps": 200,
            "adam_beta2": 0.98,
            "dropout": 0.2,
            "ema_decay": 0.99,
            "eval_steps": 290,
        },
        {"num_beams": 4, "max_new_tokens": 40},
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", default=[case.name for case in CASES])
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    results = json.loads(given.results.read_text()) if given.results.exists() else {}
    for case in CASES:
        if any(case.name.startswith(word) for word in given.names):
            results[case.name] = measure(case, data_root() / case.folder)
            given.results.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n")
            print(json.dumps(results[case.name], indent=2, ensure_ascii=False))


def measure(case: Case, data: Path) -> dict[str, Any]:
    """Trains the case and returns its figures, its settings, and the time it took."""
    output = os.environ.get("TUNEWRIGHT_BENCHMARK_RUNS") or tempfile.mkdtemp()
    config = compose(
        {
            "task": dict(case.task),
            "model": dict(case.model),
            "training": {**case.training, "track": []},
            "generation": dict(case.generation),
            "output": {"folder": output},
        }
    )
    names = ("train", "validation", "test")
    sources = {name: str(data / f"{name}.jsonl.gz") for name in names}
    wall, cores = time.perf_counter(), time.process_time()
    run = train(sources, config, tell=_tell)
    result = run.result
    assert result is not None
    device = find_device()
    return {
        "device": device.description,
        "precision": device.precision,
        "settings": {k: v for k, v in asdict(case).items() if k not in ("name", "folder")},
        "seconds": round(time.perf_counter() - wall),
        "core_seconds": round(time.process_time() - cores),
        "rows": result.num_rows,
        "metrics": {name: value.to_json() for name, value in result.metrics.items()},
        "counted_as": list(result.notices),
    }


def _tell(event: Any) -> None:
    if isinstance(event, Notice):
        print(event.sentence, flush=True)
    elif isinstance(event, Evaluation):
        print(time.strftime("%H:%M:%S"), event.step, dict(event.metrics), flush=True)
    elif isinstance(event, Step) and event.step % 100 == 0:
        print(time.strftime("%H:%M:%S"), event.step, round(event.loss, 4),
              round(event.seconds, 2), flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
