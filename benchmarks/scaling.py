"""How the speed of training changes with the length of texts, the size of updates and of models.

    python -m benchmarks.scaling [--seconds 3]

Random tokens, since only their number matters here; ours alone. One thing changes at a time from a
middle: MiniLM's sizes, 32 rows of 128 tokens. Each point has a process of its own, whose memory is
told, too. `data` are whole runs on a file of so many rows, as in `benchmarks/large_data.py`, whose
memory is without what the system caches of files. Results go to `benchmarks/scaling.json`;
`python -m benchmarks.speed_page` draws them.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

from benchmarks import large_data
from benchmarks.sides import Own
from tunewright.devices import find_device, measure_roof, settle_allocator
from tunewright.models.flop import FlopCount
from tunewright.models.layers.native_products import ready_product
from tunewright.models.text.tokenizers import load_tokenizer
from tunewright.tasks.text_classification import TextClassification
from tunewright.training.schedule import Schedule
from tunewright.types import Features, Row, TokenStream

RESULTS = Path(__file__).with_suffix(".json")
VOCABULARY, LONGEST = 30_522, 2048
MIDDLE = {"length": 128, "rows": 32, "width": 384}
CHANGES = {
    "length": (32, 64, 128, 256, 512, 1024, 2048),
    "rows": (1, 2, 4, 8, 16, 32, 64, 128),
    "width": (128, 256, 384, 512, 768, 1024),
    "data": (1_000, 10_000, 100_000, 1_000_000),
}


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--seconds", type=float, default=3.0, help="of each point")
    options.add_argument("--point", help="one point as JSON: what a process of its own is asked")
    options.add_argument("--only", nargs="*", choices=list(CHANGES), default=list(CHANGES))
    chosen = options.parse_args()
    if chosen.point:
        print(json.dumps(measured(json.loads(chosen.point), chosen.seconds)))
        return
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    device = find_device()
    entry = known.setdefault(device.description, {})
    entry |= {"roof": measure_roof(device, 2.0, ready_product), "threads": torch.get_num_threads()}
    for name in chosen.only:
        entry[name] = []
        for value in CHANGES[name]:
            if name == "data":
                entry[name].append({"value": value, **of_data(value)})
                print(name, entry[name][-1], flush=True)
                continue
            point = MIDDLE | {name: value}
            command = [sys.executable, "-m", "benchmarks.scaling", "--point", json.dumps(point)]
            done = subprocess.run([*command, "--seconds", str(chosen.seconds)],
                                  capture_output=True, text=True, check=True)  # fmt: skip
            found = json.loads(done.stdout.splitlines()[-1])
            entry[name].append({"value": value, **found})
            print(name, value, found, flush=True)
        RESULTS.write_text(json.dumps(known, indent=2) + "\n")


def measured(point: dict[str, int], seconds: float) -> dict[str, Any]:
    """Returns tokens and FLOP a second, and the most memory that the process had, in MB."""
    settle_allocator()
    device = find_device()
    torch.manual_seed(0)
    width = point["width"]
    config = BertConfig(
        vocab_size=VOCABULARY, hidden_size=width, num_hidden_layers=6,
        num_attention_heads=width // 32,
        intermediate_size=4 * width, max_position_embeddings=LONGEST,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as place:
        _save(config, Path(place))
        rows = [Row(n, {"text": "a", "label": "ab"[n % 2]}) for n in range(2)]
        task: Any = TextClassification().started_from(Path(place)).learn(rows)
        tokenizer = load_tokenizer(Path(place))
        own = Own.of(task, Path(place), tokenizer, device, learning_rate=1e-5)
    loop = own.loop(_encoded(point), point["rows"], Schedule("constant", 10**9, 0))
    updates = loop.run()
    for _ in range(3):
        next(updates)
    tokens, flop, started = 0, 0.0, time.perf_counter()
    while (taken := time.perf_counter() - started) < seconds:
        event: Any = next(updates)
        tokens, flop = tokens + event.num_tokens, flop + event.flop
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return {
        "tokens_per_second": round(tokens / taken, 1),
        "flop_per_second": flop / taken,
        "mb": peak,
        "parameters": FlopCount.of(own.model).matrix_parameters,
    }


def of_data(num_rows: int) -> dict[str, Any]:
    """Returns tokens a second and the memory of a run on a file of so many rows."""
    texts, labels = large_data.one_stretch()
    with tempfile.TemporaryDirectory() as place:
        data = Path(place) / "data.jsonl"
        with data.open("w") as file:
            for number in range(num_rows):
                stretch, row = divmod(number, len(texts))
                told = {"text": f"{texts[row]} {stretch:08d}", "label": labels[row]}
                file.write(json.dumps(told) + "\n")
        found = large_data.run_child(data, Path(place) / "runs")
    assert found is not None
    tokens = large_data.SETTINGS["batch_size"] * large_data.SETTINGS["max_length"]
    return {
        "tokens_per_second": round(tokens / found["median_seconds_per_update"], 1),
        "mb": round(found["peak_anonymous_megabytes"]),
    }


def _save(config: BertConfig, place: Path) -> None:
    BertForSequenceClassification(config).save_pretrained(place)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghij"]
    (place / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(str(place / "vocab.txt")).save_pretrained(place)


def _encoded(point: dict[str, int]) -> list[list[Features]]:
    draw = np.random.default_rng(0)
    texts = (draw.integers(5, VOCABULARY, point["length"]) for _ in range(1000))
    return [
        [Features(number, {"text": TokenStream(ids)}, {"label": number % 2})]
        for number, ids in enumerate(texts)
    ]


if __name__ == "__main__":
    main()
