"""A captioner from nothing: our own model and a tokenizer of its own, on emoji with their names.

    python -m benchmarks.quality.captioning [key=value ...]

Finds its data through TUNEWRIGHT_BENCHMARK_DATA. Settings were chosen on validation and training
rows. Beside the model stand the best constant caption, chosen on the training rows, that which is
best on the test rows themselves, and the caption of the training picture that looks most alike, by
the cosine of the two scaled to 18 x 18 pixels and inverted. No caption of the test rows stands in
training. The time is that of the whole run; core-seconds are what its threads took, whatever else
ran beside it. The result is written to `benchmarks/quality/captioning.json`, and the run's report
stays in TUNEWRIGHT_BENCHMARK_RUNS.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmarks.quality.harness import data_root, read_rows
from tunewright.answers import Generated
from tunewright.metrics import bootstrap
from tunewright.metrics.translation import chrf_counts, chrf_of
from tunewright.run.config import compose, overrides
from tunewright.run.preparing.groundwork import Notice
from tunewright.run.train import train
from tunewright.tasks.image_captioning import ImageCaptioning
from tunewright.training.events import Evaluation, Step
from tunewright.types import Row

RESULTS = Path(__file__).with_suffix(".json")
DATA = "captioning/noto_emoji"
SPLITS = ("train", "validation", "test")
TARGET = 22.0  # chrF; the best constant caption of all has 15
ALIKE_PIXELS = 18

SETTINGS: dict[str, Any] = {
    "task": {"name": "image-captioning", "label_smoothing": 0.1, "augmentation": 1.0},
    "model": {
        "name": "new:2x256",
        "new": {
            "vocab_size": 600,
            "intermediate_size": 512,
            "image_size": 64,
            "patch_size": 8,
        },
    },
    "training": {
        "num_train_epochs": 70,
        "batch_size": 16,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 300,
        "adam_beta2": 0.98,
        "weight_decay": 0.1,
        "dropout": 0.1,
        "ema_decay": 0.995,
        "eval_steps": 800,
        "track": [],
    },
    "generation": {"num_beams": 4, "max_new_tokens": 24},
}


def main() -> None:
    data = data_root() / DATA
    output = os.environ.get("TUNEWRIGHT_BENCHMARK_RUNS") or tempfile.mkdtemp()
    config = compose(SETTINGS, overrides(sys.argv[1:]), {"output": {"folder": output}})
    sources = {name: str(data / f"{name}.jsonl.gz") for name in SPLITS}
    wall, cores = time.perf_counter(), time.process_time()
    run = train(sources, config, tell=_tell)
    seconds, core_seconds = time.perf_counter() - wall, time.process_time() - cores
    result = run.result
    assert result is not None
    about = run.folder.read_json("run.json")
    found = {
        "settings": {name: config.model_dump(mode="json")[name] for name in SETTINGS},
        "device": about["device"],
        "route": about["route"],
        "seconds": round(seconds),
        "core_seconds": round(core_seconds),
        "rows": result.num_rows,
        "parameters": sum(p.numel() for p in run.model.predictor.model.parameters()),
        "constant": run.task.constant,
        "target": TARGET,
        "metrics": {name: value.to_json() for name, value in result.metrics.items()},
        "most_alike": most_alike(data, run.task),
        "best_constant_of_all": best_constant_of_all(data),
        "counted_as": list(result.notices),
        "report": str(run.report),
    }
    print(json.dumps(found, indent=2, ensure_ascii=False))
    if not sys.argv[1:]:
        kept = {name: value for name, value in found.items() if name != "report"}
        RESULTS.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n")


def most_alike(data: Path, task: ImageCaptioning) -> dict[str, Any]:
    """Returns the metrics of answering with the caption of the most similar training picture."""
    known, asked = (read_rows(data / f"{name}.jsonl.gz") for name in ("train", "test"))
    known_KD, asked_AD = (
        np.stack([_seen(data / row["image"]) for row in rows]) for rows in (known, asked)
    )
    nearest_A = (asked_AD @ known_KD.T).argmax(1)
    statistics = task.stack(
        task.statistics(
            Generated(known[place]["captions"][0], 0.0), Row(number, {"caption": row["captions"]})
        )
        for number, (place, row) in enumerate(zip(nearest_A, asked, strict=True))
    )
    return {
        name: value.to_json()
        for name, value in bootstrap(task.reduce, statistics, task.metrics).items()
    }


def best_constant_of_all(data: Path) -> dict[str, Any]:
    """Returns the training caption that does best on the test rows themselves, and its chrF."""
    known, asked = (read_rows(data / f"{name}.jsonl.gz") for name in ("train", "test"))
    scores = {
        text: chrf_of(np.sum([chrf_counts(text, row["captions"]) for row in asked], axis=0))
        for text in {row["captions"][0] for row in known}
    }
    best = max(scores, key=lambda text: (scores[text], text))
    return {"caption": best, "chrf": scores[best]}


def _seen(path: Path) -> npt.NDArray[np.float64]:
    """Returns a small picture as a vector of length 1; white is 0."""
    small = Image.open(path).convert("RGB").resize((ALIKE_PIXELS, ALIKE_PIXELS), reducing_gap=3)
    values = 255.0 - np.asarray(small, np.float64).ravel()
    return values / max(float(np.linalg.norm(values)), 1e-9)


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
