"""Peak memory of one update of in-batch negatives, for ever more pairs.

    python -m benchmarks.memory_of_pairs [pairs ...] [--tokens 16 64]

Gradients are cached: an update of any size needs the memory of one forward pass of
`training.max_tokens`. Each size runs in a process of its own, on the starter model and random
token ids, and peak memory is what the operating system counted (ru_maxrss).
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time

import numpy as np

from tunewright.devices import find_device, settle_allocator
from tunewright.models.dropout import replace_dropout
from tunewright.models.embedding import keep_row_gradients
from tunewright.models.folder import find_model
from tunewright.models.tokenizers import load_tokenizer
from tunewright.run.assembly import PASS_TOKENS
from tunewright.tasks.related_texts import ANCHOR, POSITIVE
from tunewright.tasks.sentence_embedding import SentenceEmbedding
from tunewright.training.loop import Loop
from tunewright.training.optimizer import build_optimizer
from tunewright.training.schedule import Schedule
from tunewright.types import Features, TokenStream

SIZES = (256, 1024, 4096, 8192)
# The word pieces of the starter's vocabulary; the ids before are marks and unused.
WORDS = (1996, 30_000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pairs", type=int, nargs="*", default=SIZES)
    parser.add_argument("--tokens", type=int, nargs=2, default=(16, 64))
    parser.add_argument("--alone", action="store_true", help="in this process")
    given = parser.parse_args()
    if given.alone:
        print(*measure(given.pairs[0], given.tokens))
        return
    print("| pairs | peak memory, MiB | seconds |\n|---:|---:|---:|")
    for num_pairs in given.pairs:
        peak, seconds = _in_own_process(num_pairs, given.tokens)
        print(f"| {num_pairs:,} | {peak / 2**20:,.0f} | {seconds:.1f} |", flush=True)


def _in_own_process(num_pairs: int, tokens: tuple[int, int]) -> tuple[int, float]:
    command = [sys.executable, "-m", __spec__.name, "--alone", str(num_pairs), "--tokens"]
    done = subprocess.run([*command, *map(str, tokens)], capture_output=True, text=True, check=True)
    peak, seconds = done.stdout.split()[-2:]
    return int(peak), float(seconds)


def measure(num_pairs: int, tokens: tuple[int, int]) -> tuple[int, float]:
    """Returns the peak memory of this process in bytes after one update, and its seconds."""
    settle_allocator()
    task = SentenceEmbedding(objective="ranking")
    folder, device = find_model("starter"), find_device("auto")
    model, _ = task.build(folder, load_tokenizer(folder), dropout=None, seed=0)
    assert task.route(model) == "packed"
    model.to(device.name)
    keep_row_gradients(model)
    loop = Loop(
        model=model,
        task=task,
        rows=[_pair(number, tokens) for number in range(num_pairs)],
        optimizer=build_optimizer(model, learning_rate=1e-5),
        schedule=Schedule("constant", 1, 0),
        device=device,
        batch_size=num_pairs,
        max_tokens=PASS_TOKENS[device.kind],
        seed=0,
        dropout=replace_dropout(model),
    )
    started = time.perf_counter()
    list(loop.run())
    seconds = time.perf_counter() - started
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, round(seconds, 1)


def _pair(number: int, tokens: tuple[int, int]) -> list[Features]:
    rng = np.random.default_rng(number)
    return [
        Features(
            number,
            {"text": TokenStream(rng.integers(*WORDS, length), np.zeros(length, np.int32))},
            {"part": part, "text": 2 * number + part},
            part,
        )
        for part, length in zip((ANCHOR, POSITIVE), tokens, strict=True)
    ]


if __name__ == "__main__":
    main()
