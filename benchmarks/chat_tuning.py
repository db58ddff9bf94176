"""Tuning SmolLM2-135M-Instruct beside `transformers.Trainer`: `python -m benchmarks.chat_tuning`.

Both sides tune all weights on the same rows of DialogSum (`TUNEWRIGHT_BENCHMARK_DATA`), encoded
alike, with the loss on the answers only, in bf16, with updates of 8 rows; Trainer has batches
grouped by length. Each side runs in a process of its own, one after the other (ours, peer, peer,
ours), after an update that does not count. Tokens are real ones: padding does not count.

Results go to `benchmarks/chat_tuning.json`: tokens a second of wall time and of processor time
(which other work on the machine stretches less), and the most memory that the process had.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch

from tunewright.devices import find_device, settle_allocator
from tunewright.models.files.folder import find_model
from tunewright.models.text.tokenizers import load_tokenizer
from tunewright.tasks.text_generation import TextGeneration
from tunewright.types import Features, Row

RESULTS = Path(__file__).with_suffix(".json")
BATCH_ROWS, MAX_LENGTH, LEARNING_RATE = 8, 384, 1e-4
PROMPT = "Summarize this dialogue:\n\n{prompt}"


@dataclass
class Watch:
    """Counts tokens and time from the end of the first update on."""

    tokens: int = 0
    updates: int = -1
    wall: float = field(default_factory=time.perf_counter)
    cpu: float = field(default_factory=time.process_time)

    def update(self, num_tokens: int) -> None:
        self.updates += 1
        if self.updates == 0:
            self.wall, self.cpu = time.perf_counter(), time.process_time()
        else:
            self.tokens += num_tokens

    def result(self) -> dict[str, float]:
        return {
            "tokens": self.tokens,
            "tokens_per_second": self.tokens / (time.perf_counter() - self.wall),
            "tokens_per_cpu_second": self.tokens / (time.process_time() - self.cpu),
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000,
        }


def encoded(num_rows: int) -> tuple[TextGeneration, Any, list[list[Features]]]:
    """Returns the task, the tokenizer and the rows that both sides learn from."""
    from benchmarks.quality.harness import data_root, read_rows

    file = data_root() / "summarization" / "dialogsum" / "train.jsonl.gz"
    rows = [
        Row(i, {"prompt": row["document"], "completion": row["summary"]})
        for i, row in enumerate(read_rows(file)[:num_rows])
    ]
    task = TextGeneration(prompt_template=PROMPT, max_length=MAX_LENGTH).learn(rows).within(8192)
    tokenizer = load_tokenizer(find_model("smollm2"))
    return task, tokenizer, [task.encode(row, tokenizer) for row in rows]


def ours(updates: int) -> dict[str, float]:
    from tunewright.training.loop import Loop
    from tunewright.training.optimizer import build_optimizer
    from tunewright.training.schedule import Schedule

    settle_allocator()
    task, tokenizer, rows = encoded(BATCH_ROWS * (updates + 1))
    model, _ = task.build(find_model("smollm2"), tokenizer, dropout=0.0, seed=0)
    task.route(model)
    loop = Loop(
        model=model,
        task=task,
        rows=rows,
        optimizer=build_optimizer(model, learning_rate=LEARNING_RATE, weight_decay=0.01),
        schedule=Schedule("constant", updates + 1, 0),
        device=find_device(),
        batch_size=BATCH_ROWS,
        max_tokens=8192,
        seed=0,
        max_grad_norm=1.0,
    )
    watch = Watch()
    for event in loop.run():
        watch.update(getattr(event, "num_tokens", 0))
    return watch.result()


def peer(updates: int) -> dict[str, float]:
    from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

    _, tokenizer, rows = encoded(BATCH_ROWS * (updates + 1))
    model = AutoModelForCausalLM.from_pretrained(find_model("smollm2"), dtype=torch.float32)
    watch, seen = Watch(), []

    def collate(batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        seen.append(sum(len(row["input_ids"]) for row in batch))
        columns = {"input_ids": tokenizer.pad_token_id, "attention_mask": 0, "labels": -100}
        return {
            name: torch.nn.utils.rnn.pad_sequence(
                [torch.tensor(row[name]) for row in batch], batch_first=True, padding_value=filler
            )
            for name, filler in columns.items()
        }

    class Counted(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            watch.update(seen[watch.updates + 1])

    with tempfile.TemporaryDirectory() as output:
        Trainer(
            model,
            TrainingArguments(
                output_dir=output,
                max_steps=updates + 1,
                per_device_train_batch_size=BATCH_ROWS,
                learning_rate=LEARNING_RATE,
                lr_scheduler_type="constant",
                weight_decay=0.01,
                bf16=True,
                train_sampling_strategy="group_by_length",
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
                logging_strategy="no",
                use_cpu=not torch.cuda.is_available(),
                remove_unused_columns=False,
            ),
            train_dataset=[_row(item) for items in rows for item in items],
            data_collator=collate,
            callbacks=[Counted()],
        ).train()
    return watch.result()


def _row(item: Features) -> dict[str, list[int]]:
    stream = item.streams["text"]
    ids, marks = (list(map(int, values)) for values in (stream.token_ids, stream.type_ids))
    labels = [token if mark else -100 for token, mark in zip(ids, marks, strict=True)]
    return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels}


SIDES: dict[str, Callable[[int], dict[str, float]]] = {"ours": ours, "peer": peer}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("side", nargs="?", choices=SIDES)
    parser.add_argument("--updates", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    if given.side:
        print(json.dumps(SIDES[given.side](given.updates)))
        return
    found: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for number in range(given.rounds):
        for side in sorted(SIDES, reverse=bool(number % 2)):
            command = [sys.executable, "-m", "benchmarks.chat_tuning", side]
            done = subprocess.run(
                [*command, "--updates", str(given.updates)],
                stdout=subprocess.PIPE,
                check=True,
                text=True,
                env=os.environ,
            )
            found[side].append(json.loads(done.stdout.splitlines()[-1]))
            print(side, found[side][-1], flush=True)
    device = find_device()
    summary = {
        "device": device.description,
        "precision": device.precision,
        "threads": device.num_threads,
        "updates": given.updates,
        "rows_of_an_update": BATCH_ROWS,
        "max_length": MAX_LENGTH,
        "runs": found,
        "median": {
            side: {name: median(run[name] for run in runs) for name in runs[0]}
            for side, runs in found.items()
        },
    }
    RESULTS.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(summary["median"], indent=1))


if __name__ == "__main__":
    main()
