"""Peak memory of one update whose loss is over more than a pass: `python -m benchmarks.memory`.

In-batch negatives for ever more pairs, and one text for ever more windows. Gradients are cached: an
update of any size needs the memory of one forward pass of `training.max_tokens`. Each size runs in
a process of its own, on the starter model and random token ids, and peak memory is what the
operating system counted (ru_maxrss). Results go to `benchmarks/memory.json`; `--only pairs` or
`windows` measures one of the two, and sizes may follow.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tunewright.devices import find_device, settle_allocator
from tunewright.models.files.folder import find_model
from tunewright.models.layers.dropout import replace_dropout
from tunewright.models.layers.embedding import keep_row_gradients
from tunewright.models.text.tokenizers import load_tokenizer
from tunewright.run.assembly import PASS_TOKENS
from tunewright.tasks.base import Task
from tunewright.tasks.sentence_embedding import SentenceEmbedding
from tunewright.tasks.shared.related_texts import ANCHOR, POSITIVE
from tunewright.tasks.text_classification import TextClassification
from tunewright.training.loop import Loop
from tunewright.training.optimizer import build_optimizer
from tunewright.training.schedule import Schedule
from tunewright.types import Features, TokenStream

RESULTS = Path(__file__).with_suffix(".json")
# The word pieces of the starter's vocabulary; the ids before are marks and unused.
WORDS = (1996, 30_000)
PAIR_TOKENS, WINDOW_TOKENS = (16, 64), 128


@dataclass(frozen=True)
class Kind:
    """What grows: a task, the rows of an update of some size, and the sizes."""

    task: Task
    rows: Callable[[int], Sequence[Sequence[Features]]]
    sizes: tuple[int, ...]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sizes", type=int, nargs="*")
    parser.add_argument("--only", choices=KINDS)
    parser.add_argument("--alone", action="store_true", help="in this process; nothing is written")
    given = parser.parse_args()
    if given.alone:
        print(json.dumps(measure(given.only, given.sizes[0])))
        return
    known = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    found = known.setdefault(find_device().description, {})
    for kind in [given.only] if given.only else KINDS:
        for size in given.sizes or KINDS[kind].sizes:
            found.setdefault(kind, {})[str(size)] = told = _in_own_process(kind, size)
            print(f"{size:,} {kind}: {told}", flush=True)
            RESULTS.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")


def _in_own_process(kind: str, size: int) -> dict[str, float]:
    command = [sys.executable, "-m", __spec__.name, str(size), "--only", kind, "--alone"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(kind: str, size: int) -> dict[str, float]:
    """Returns the peak memory of this process in bytes after one update, and its seconds."""
    settle_allocator()
    task, rows = KINDS[kind].task, KINDS[kind].rows(size)
    folder, device = find_model("starter"), find_device("auto")
    model, _ = task.build(folder, load_tokenizer(folder), dropout=None, seed=0)
    assert task.route(model) == "packed"
    model.to(device.name)
    keep_row_gradients(model)
    loop = Loop(
        model=model,
        task=task,
        rows=rows,
        optimizer=build_optimizer(model, learning_rate=1e-5),
        schedule=Schedule("constant", 1, 0),
        device=device,
        batch_size=len(rows),
        max_tokens=PASS_TOKENS[device.kind],
        seed=0,
        dropout=replace_dropout(model),
    )
    started = time.perf_counter()
    list(loop.run())
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"bytes": peak, "seconds": round(seconds, 1)}


def pairs(size: int) -> list[list[Features]]:
    return [
        [
            _features(number, part, length, {"part": part, "text": 2 * number + part})
            for part, length in zip((ANCHOR, POSITIVE), PAIR_TOKENS, strict=True)
        ]
        for number in range(size)
    ]


def windows(size: int) -> list[list[Features]]:
    """Returns one text of so many windows."""
    return [[_features(0, number, WINDOW_TOKENS, {"label": 1}) for number in range(size)]]


def _features(row: int, window: int, length: int, targets: dict[str, int]) -> Features:
    ids_N = np.random.default_rng((row, window)).integers(*WORDS, length)
    return Features(row, {"text": TokenStream(ids_N, np.zeros(length, np.int32))}, targets, window)


KINDS = {
    "pairs": Kind(SentenceEmbedding(objective="ranking"), pairs, (256, 1024, 4096, 8192)),
    "windows": Kind(
        TextClassification(max_length=WINDOW_TOKENS, long="window", labels=("a", "b")),
        windows,
        (64, 256, 1024, 4096),
    ),
}

if __name__ == "__main__":
    main()
